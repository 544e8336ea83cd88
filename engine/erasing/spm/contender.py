"""SPM as the evaluation of this family asks for it: with the published gate, and with words only.

An attacker's embedding is what the gate's cosine reads; the text is what its word part reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from engine.core.job import Steps, relay
from engine.core.shapes import Tensor
from engine.erasing._eraser import Asked, Cost, Erased, Eraser, Maker
from engine.erasing._subject import Subject
from engine.erasing.spm.algorithm import SpmSettings, opened_by
from engine.erasing.spm.files import baked
from engine.erasing.spm.membrane import Membrane, with_membranes
from engine.erasing.spm.shipped import shipped
from engine.erasing.spm.training import train
from engine.models.diffusion import DiffusionBundle


def spm(
    bundle: DiffusionBundle, subject: Subject, seed: int, *, way: str, name: str
) -> Steps[Erased]:
    """One membrane, trained with the defaults of the panel; the anchor is the empty text."""
    if (held := shipped(bundle, subject.concept, SpmSettings().plan)) is not None:
        erased = erased_by(bundle, [held.membrane], way, name)
        return replace(erased, notes=(f"{name} is the shipped membrane, trained beforehand.",))
    steps = train(bundle, subject.concept, SpmSettings().plan, seed)
    trained = yield from relay(
        steps, lambda event: replace(event[0], note=f"{name}: {event[0].note}", preview=None)
    )
    return erased_by(bundle, [trained.membrane], way, name)


def erased_by(
    bundle: DiffusionBundle, membranes: Sequence[Membrane], way: str, name: str = "SPM"
) -> Erased:
    """The erasure by these membranes at once, opened in one way; a strength multiplies gamma."""
    parameters = sum(membrane.parameters for membrane in membranes)
    cost = Cost(parameters=parameters, undo="take it off, bit for bit")

    def at(strength: float) -> Eraser:
        def gated(asked: Asked) -> DiffusionBundle:
            gamma = strength * opened_by(bundle, membranes, asked, way)
            return with_membranes(bundle, membranes, gamma.detach())

        def state() -> Mapping[str, Tensor]:
            old = dict(bundle.model.state_dict())
            return old | baked(old, membranes, [strength] * len(membranes))

        return Eraser(name, bundle, cost, gated=gated, state=state)

    return Erased(name, at)


def _maker(name: str, way: str) -> Maker:
    return partial(spm, way=way, name=name)


MAKERS: dict[str, Maker] = {
    "SPM": _maker("SPM", "clipcos_tokenuni"),
    "SPM, words only": _maker("SPM, words only", "tokenuni"),
}
