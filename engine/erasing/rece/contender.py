"""UCE and RECE as the evaluation of this family asks for them."""

from engine.core.job import Progress, Steps
from engine.erasing._eraser import Cost, Erased, Eraser, Maker
from engine.erasing._subject import Subject
from engine.erasing.rece.edit import ReceSettings, erase
from engine.models.diffusion import DiffusionBundle


def uce(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The closed form without an epoch."""
    return (yield from _erased("UCE", bundle, subject, 0))


def rece(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The closed form and one epoch against the embedding that reopens it."""
    return (yield from _erased("RECE", bundle, subject, 1))


def _erased(name: str, bundle: DiffusionBundle, subject: Subject, epochs: int) -> Steps[Erased]:
    yield Progress(0, 1, f"{name}: solving")
    settings = ReceSettings.of(
        concepts=[subject.concept], guides=[subject.anchor], retain=subject.keep, epochs=epochs
    )
    edit = erase(bundle, settings)
    cost = Cost(parameters=edit.map.numel(), undo="leave the map out, bit for bit")

    def at(strength: float) -> Eraser:
        state = dict(bundle.model.state_dict())
        return Eraser(
            name,
            bundle,
            cost,
            on_context=lambda embedding: edit.on_context(embedding, strength),
            state=lambda: {**state, **edit.bake(state, strength)},
        )

    return Erased(name, at)


MAKERS: dict[str, Maker] = {"UCE": uce, "RECE": rece}
