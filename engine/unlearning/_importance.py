"""How much each weight matters to some samples: the diagonal of the empirical Fisher, streamed.

    I = mean over terms of |gradient|^2

What a term is, is part of the answer, and two importances compare only if they agree on it:

"sorted"   a batch of samples in the order of their classes, gradient of its mean loss. This is
           what the authors' code of SSD does when a class is forgotten.
"mixed"    the same for batches in random order: gradients of different classes cancel.
"sample"   one sample, as the equations of the paper say.

A label-free importance (LFSSD, arXiv 2402.19308) takes the squared outputs for a loss, and
|gradient| in place of its square.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from engine.core.errors import BadInput, ModelMismatch, OutOfBudget
from engine.core.patch import state_fingerprint
from engine.core.precision import at_home
from engine.core.shapes import Shaped, Tensor
from engine.models import tensor_file
from engine.models.library import fork
from engine.unlearning import _per_sample as per_sample
from engine.unlearning._losses import Batch, Loss, classification, label_free, placed
from engine.unlearning._manipulation import Manipulated
from engine.unlearning._per_sample import Add, Ask, Engine, NotSeparable
from engine.unlearning._samples import Samples

Unit = Literal["sorted", "mixed", "sample"]
UNITS: tuple[Unit, ...] = ("sorted", "mixed", "sample")
BATCH = 64
CHUNK, CHUNK_OF_LARGE = 64, 8


@dataclass(frozen=True)
class Provenance:
    """What an importance was taken of. `model` is the fingerprint of the weights."""

    model: str
    loss: str = "classification"
    unit: Unit = "sample"
    batch: int = 1
    power: int = 2

    def check_comparable(self, other: "Provenance") -> None:
        """Raises `BadInput` that names what differs: a ratio of the two would mean nothing."""
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                told = "of another model" if name == "model" else f"with {name} {theirs}"
                raise BadInput(
                    f"The two importances do not compare: one was taken {told}"
                    + ("." if name == "model" else f", the other with {name} {mine}."),
                    "Take both anew with the same settings, on the unedited model.",
                )


@dataclass(frozen=True, eq=False)
class Importance:
    """The mean of |gradient|^power for each weight, float32, over `terms` terms of `samples`.

    `values` may be a mapping that reads one tensor at a time from a file.
    """

    values: Mapping[str, Shaped[Tensor, "..."]]
    provenance: Provenance
    terms: int
    samples: int
    seed: int = 0

    def plus(self, other: "Importance") -> "Importance":
        """Both together, as if their terms had been streamed in one go.

        Raises `BadInput` when they do not compare.
        """
        self.provenance.check_comparable(other.provenance)
        terms = self.terms + other.terms
        mine, theirs = self.terms / terms, other.terms / terms
        values = {n: mine * v + theirs * other.values[n] for n, v in self.values.items()}
        return replace(self, values=values, terms=terms, samples=self.samples + other.samples)

    @property
    def nbytes(self) -> int:
        """What its numbers weigh."""
        return sum(value.nbytes for value in self.values.values())

    def save(self, path: Path) -> None:
        """Writes a safetensors file, all or nothing, with the provenance in its header."""
        tensor_file.write(path, self.values, _metadata(self))

    def file(self, name: str) -> tensor_file.TensorFile:
        """The same file, to take along."""
        return tensor_file.TensorFile.of(name, self.values, _metadata(self))

    @classmethod
    def open(cls, path: Path) -> "Importance":
        """The importance in a file, its tensors read when they are asked for.

        Raises `BadInput` when the file is none, or not sound.
        """
        values = tensor_file.OpenTensors(path)
        try:
            told = json.loads(values.metadata["importance"])
            counts = {name: int(told.pop(name)) for name in ("terms", "samples", "seed")}
            provenance = Provenance(**told)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise BadInput(
                "This safetensors file holds no importances.", "Give one that was exported here."
            ) from error
        return cls(values, provenance, **counts)


def _metadata(found: Importance) -> dict[str, str]:
    told = {"terms": found.terms, "samples": found.samples, "seed": found.seed}
    return {"importance": json.dumps({**asdict(found.provenance), **told}, sort_keys=True)}


# ---------------------------------------------------------------------- streaming


@dataclass(frozen=True)
class Streaming:
    """What is streamed and how.

    `provenance` tells unit, batch and loss; `editable` picks parameters by name; `chunk` is the
    number of samples that go through the network together, where the unit is the sample;
    `folder`, where given, is where the sums lie on disk instead of in memory.
    """

    model: nn.Module
    loss: Loss
    provenance: Provenance
    editable: Callable[[str], bool] = lambda name: True
    engine: Engine | None = None
    chunk: int = 0
    seed: int = 0
    into: Path | None = None
    accumulate: torch.dtype = torch.float32


def stream(how: Streaming, batches: Iterable[Batch]) -> Generator[Importance, None, Importance]:
    """The importance of the samples in the batches; yields what there is after each batch.

    Yielded importances read the running sums: use one before asking for the next.
    Raises `BadInput` when nothing is editable or a gradient is not finite, `OutOfBudget` when a
    batch does not fit into memory.
    """
    model = fork(how.model).eval().requires_grad_(False)
    names = [n for n, p in model.named_parameters() if p.is_floating_point() and how.editable(n)]
    if not names:
        raise BadInput("No weight of this model may be edited.", "Protect fewer layers.")
    ask = Ask(model, {n: model.get_parameter(n) for n in names}, how.loss, how.provenance.power)
    sums = _sums(ask, how)
    terms = samples = 0
    for batch in _in_chunks(batches, how, ask):
        count = len(batch[0])
        _add_batch(ask, how, batch, sums, samples)
        samples += count
        terms += count if how.provenance.unit == "sample" else 1
        yield Importance(_Means(sums, terms), how.provenance, terms, samples, how.seed)
    if not terms:
        raise BadInput("There is no sample to take importances of.", "Give at least one.")
    for total in sums.values():
        total /= terms
    return Importance(sums, how.provenance, terms, samples, how.seed)


@dataclass(frozen=True)
class _Means(Mapping[str, Tensor]):
    """Running sums, read as means."""

    sums: Mapping[str, Tensor]
    terms: int

    def __getitem__(self, name: str) -> Tensor:
        return self.sums[name] / self.terms

    def __iter__(self) -> Iterator[str]:
        return iter(self.sums)

    def __len__(self) -> int:
        return len(self.sums)


def _sums(ask: Ask, how: Streaming) -> dict[str, Tensor]:
    """Zeros for each parameter, in memory, or in the file that will hold the result."""
    shapes = {name: tuple(parameter.shape) for name, parameter in ask.parameters.items()}
    if how.into is not None:
        return tensor_file.zeros_on_disk(how.into, shapes)
    return {name: torch.zeros(shape, dtype=how.accumulate) for name, shape in shapes.items()}


def chunk_for(parameters: per_sample.Parameters, chunk: int) -> int:
    """Samples that go through the network together, unless told."""
    weights = sum(p.numel() for p in parameters.values())
    return chunk or (CHUNK_OF_LARGE if weights > per_sample.LARGE else CHUNK)


def _in_chunks(batches: Iterable[Batch], how: Streaming, ask: Ask) -> Iterator[Batch]:
    """Batches as they are, or cut into chunks where samples count by themselves."""
    size = chunk_for(ask.parameters, how.chunk)
    for batch in batches:
        if how.provenance.unit != "sample":
            yield batch
        else:
            yield from zip(*(part.split(size) for part in batch), strict=True)


def _add_batch(ask: Ask, how: Streaming, batch: Batch, sums: dict[str, Tensor], at: int) -> None:
    batch = placed(batch, next(iter(ask.parameters.values())))

    def add(name: str, found: Tensor) -> None:
        if found.device.type != "cpu":
            waiting.append((name, found))
        elif not torch.isfinite(found.sum()):
            raise BadInput(
                f"The gradient of {name} is not finite for the samples {at} to "
                f"{at + len(batch[0]) - 1}.",
                "Look at these samples, or load the model as float32.",
            )
        else:
            sums[name] += found.to(sums[name])

    # Squares of a device come home together, so that the host waits once a batch.
    waiting: list[tuple[str, Tensor]] = []
    try:
        _run_engine(ask, how, batch, add)
        for (name, _), squares in zip(waiting, at_home([s for _, s in waiting]), strict=True):
            add(name, squares)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfBudget(
            f"The gradients of {len(batch[0])} samples at once do not fit into memory.",
            f"Set the chunk to {_fitting(ask, batch)}.",
        ) from None


def _run_engine(ask: Ask, how: Streaming, batch: Batch, add: Add) -> None:
    if how.provenance.unit != "sample":
        per_sample.whole(ask, batch, add)
        return
    engine = how.engine or per_sample.choose(ask.model, ask.parameters, len(batch[0]))
    try:
        per_sample.BY_NAME[engine](ask, batch, add)
    except (NotSeparable, RuntimeError) as error:
        # By rule only: an engine that was asked for by name must say that it cannot.
        if how.engine is not None or engine == "loop" or _is_out_of_memory(error):
            raise
        per_sample.loop(ask, batch, add)


def _is_out_of_memory(error: Exception) -> bool:
    full = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return full or "allocate memory" in str(error)


def _fitting(ask: Ask, batch: Batch) -> int:
    """The largest half, quarter, ... of the batch that goes through, at least 1."""
    size = len(batch[0]) // 2
    while size > 1:
        try:
            per_sample.hooked(ask, tuple(p[:size] for p in batch), lambda name, found: None)
            return size
        except (RuntimeError, MemoryError, NotSeparable):
            size //= 2
    return 1


# ---------------------------------------------------------------------- classifiers


@dataclass(frozen=True)
class Measure:
    """How the importances of a classifier are taken: gradient unit, labels or none, batch."""

    unit: Unit = "sorted"
    label_free: bool = False
    batch: int = BATCH
    chunk: int = 0
    seed: int = 0
    fingerprint: str = field(default="", compare=False)

    def provenance(self, model: nn.Module) -> Provenance:
        return Provenance(
            self.fingerprint or state_fingerprint(model.state_dict()),
            "label_free" if self.label_free else "classification",
            self.unit,
            1 if self.unit == "sample" else self.batch,
            1 if self.label_free else 2,
        )

    def batches(self, samples: Samples) -> Iterator[Batch]:
        """The samples in the order of the unit."""
        if self.unit == "mixed":
            samples = samples.shuffled(self.seed, "mixed batches")
        return samples.batches(self.batch if self.unit != "sample" else 256)

    def streaming(
        self,
        model: nn.Module,
        editable: Callable[[str], bool] = lambda name: True,
        into: Path | None = None,
    ) -> Streaming:
        loss = label_free if self.label_free else classification
        return Streaming(
            model,
            loss,
            self.provenance(model),
            editable,
            chunk=self.chunk,
            seed=self.seed,
            into=into,
        )


def of_classifier(
    model: nn.Module, given: Samples | Manipulated, unit: Unit, seed: int
) -> Generator[Importance, None, Importance]:
    """The importance of all training data of a classifier, sorted by class where the unit is."""
    samples = given.samples if isinstance(given, Manipulated) else given
    measure = Measure(unit, seed=seed)
    ordered = samples.by_class() if unit == "sorted" else samples
    return stream(measure.streaming(model), measure.batches(ordered))


def check_on(importance: Importance, model: nn.Module) -> None:
    """Raises `ModelMismatch` where it was taken of another model."""
    if importance.provenance.model != state_fingerprint(model.state_dict()):
        raise ModelMismatch(
            "The stored importances belong to another model, or to another state of this one.",
            "Take them anew on the unedited model.",
        )
