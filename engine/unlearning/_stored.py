"""Importances of all training data: shipped, given by the visitor, or streamed once and kept."""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from engine.core.cache import LruCache
from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import Plain
from engine.models._sources import from_user
from engine.unlearning._case import Case, state_of
from engine.unlearning._importance import (
    BATCH,
    Importance,
    Measure,
    check_on,
    stream,
)
from engine.unlearning._importance import Unit as GradientUnit
from engine.unlearning._samples import Samples
from engine.unlearning._settings import BatchSize, Chunk, Layers, Place, Unit

Streamed = Generator[Importance, None, Importance]

_KEPT: LruCache[Importance] = LruCache(512, most=8)


@dataclass(frozen=True)
class Gradients:
    """How importances are taken, as jobs take it; `protect` leaves layers alone.

    `batch` counts where the unit is a batch. `importances` names a file of those of all data that
    was saved before.
    """

    unit: Unit = "sorted"
    batch: BatchSize = BATCH
    label_free: bool = False
    protect: Layers = ()
    chunk: Chunk = 0
    importances: Place = ""

    def measure(self, seed: int) -> Measure:
        """The same for the stream of gradients."""
        unit: GradientUnit = self.unit  # type: ignore[assignment]
        return Measure(unit, self.label_free, self.batch, self.chunk, seed)

    @property
    def protected(self) -> tuple[str, ...]:
        """The texts that name layers to leave alone; empty ones name none."""
        return tuple(name for name in self.protect if name)

    def plain(self) -> dict[str, Plain]:
        """For a recipe: what changes the result."""
        batch = {} if self.unit == "sample" else {"batch": self.batch}
        return {
            "unit": self.unit,
            **batch,
            "label_free": self.label_free,
            "protect": list(self.protected),
        }


@dataclass(frozen=True)
class Source:
    """Where the importance of all data comes from, in words, and whether a pass was needed."""

    told: str
    was_stored: bool


def editable(protect: tuple[str, ...]) -> Callable[[str], bool]:
    """All parameters but those whose name holds one of the protected texts."""
    return lambda name: not any(part in name for part in protect)


def of_forget_set(case: Case, measure: Measure, protect: tuple[str, ...]) -> Streamed:
    """I_f, kept for the next run on the same case."""
    samples = case.forget_set.by_class() if measure.unit == "sorted" else case.forget_set
    _check_labels(samples, measure)
    return _once(case, "forget", samples, measure, protect)


def of_all_data(
    case: Case, measure: Measure, protect: tuple[str, ...], given: str = ""
) -> tuple[Source, Streamed]:
    """I_D and where it comes from: the file `given`, the one that is shipped, or a pass."""
    if given:
        return Source("given", True), _read(opened(given), case, measure)
    shipped = case.bundle.folder / f"importance-{measure.unit}.safetensors"
    if not measure.label_free and shipped.is_file() and case.bundle.card.sha256:
        found = Importance.open(shipped)
        if found.provenance == measure.provenance(case.model):
            return Source("shipped with the model", True), _read(found, case, measure)
    full = case.full
    _check_labels(full, measure)
    if measure.unit != "sorted" and case.retain_set is not None:
        # The order of the data as it was, which "sample" does not mind and "mixed" shuffles.
        order = full.ids.argsort(stable=True)
        full = full.take(order)
    was_there = _KEPT.peek(_key(case, "full", full, measure, protect)) is not None
    told = "kept from the run before" if was_there else "streamed now"
    return Source(told, was_there), _once(case, "full", full, measure, protect)


def opened(given: str) -> Importance:
    """The importances in a file of the user: "FOLDER/NAME.safetensors"."""
    folder, _, name = given.rpartition("/")
    path = from_user(folder or ".") / name
    if not path.is_file() or path.suffix != ".safetensors":
        raise AssetMissing(
            "There is no such file of importances.", "Give the path of a file that was saved here."
        )
    return Importance.open(path)


def _read(found: Importance, case: Case, measure: Measure) -> Streamed:
    check_on(found, case.model)
    wanted = measure.provenance(case.model)
    wanted.check_comparable(found.provenance)
    return found
    yield  # a stream without steps


def _once(
    case: Case, role: str, samples: Samples, measure: Measure, protect: tuple[str, ...]
) -> Streamed:
    key = _key(case, role, samples, measure, protect)
    found = _KEPT.peek(key)
    if found is None:
        measure = replace(measure, fingerprint=state_of(case.model))
        how = measure.streaming(case.model, editable(protect))
        found = yield from stream(how, measure.batches(samples))
        _KEPT.put(key, found)
    return found


def _key(
    case: Case, role: str, samples: Samples, measure: Measure, protect: tuple[str, ...]
) -> tuple[object, ...]:
    ids = hashlib.sha256(samples.ids.numpy().tobytes() + samples.pixels[:1].numpy().tobytes())
    labels = hashlib.sha256(samples.labels.numpy().tobytes())
    digests = ids.hexdigest(), labels.hexdigest()
    return role, state_of(case.model), str(case.bundle.folder), digests, measure, protect


def _check_labels(samples: Samples, measure: Measure) -> None:
    unknown = int((samples.labels < 0).sum())
    if unknown and not measure.label_free:
        raise BadInput(
            f"{unknown} of the pictures have no label, which their gradients need.",
            "Put them in folders named after their classes, or use label-free importances.",
        )
