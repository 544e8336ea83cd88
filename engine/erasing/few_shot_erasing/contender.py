"""Few-shot erasing as the evaluation of this family asks for it."""

from dataclasses import replace

import torch

from engine.core.job import Steps
from engine.erasing._eraser import Cost, Erased, Eraser, Maker
from engine.erasing._subject import Subject
from engine.erasing.few_shot_erasing.learning import learn
from engine.erasing.few_shot_erasing.settings import FewShotSettings
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle
from engine.models.library import with_tensors


def few_shot(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The text encoder after the default steps; a strength between 0 and 1 mixes it with the old.

    The paper knows strength 1 only, and turns the number of steps.
    """
    kind = "style" if subject.head == "style" else "object"
    settings = FewShotSettings(concept=subject.concept, kind=kind)
    forgotten = yield from learn(drawing.in_float32(bundle), settings, seed)
    old, new = bundle.model.state_dict(), forgotten.epochs[-1]
    cost = Cost(parameters=sum(w.numel() for w in new.values()), undo="patch, bit for bit")

    def at(strength: float) -> Eraser:
        mixed = {
            name: torch.lerp(old[name].float(), w, strength).to(old[name])
            for name, w in new.items()
        }
        model = with_tensors(bundle.model, mixed)
        return Eraser("few-shot", replace(bundle, model=model), cost)

    return Erased("few-shot", at)


MAKERS: dict[str, Maker] = {"few-shot": few_shot}
