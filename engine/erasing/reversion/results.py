"""What the learning of a relation shows; a preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.core.patch import Patch
from engine.core.reversible import RoundTrip
from engine.metrics.intervals import Rate
from engine.models.tensor_file import TensorFile

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Neighbours:
    """The words that the new one is nearest to after some steps, with the cosine."""

    step: int
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Look:
    """The prompts after some steps, from the same noise every time."""

    step: int
    pictures: Pictures
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """A run of the panel, as far as it has come.

    `word` is the learnt word as text, for the other buttons and for recipes. `density` is p(t) of
    the importance sampling at 100 times. `relation_words` are those of the paper's list that the
    model knows; the steering draws from them.
    """

    name: str
    token: str
    prompts: tuple[str, ...]
    exemplars: Pictures | None = None
    descriptions: tuple[str, ...] = ()
    denoising: tuple[float, ...] = ()
    steering: tuple[float, ...] = ()
    neighbours: tuple[Neighbours, ...] = ()
    looks: tuple[Look, ...] = ()
    density: NDArray[np.float64] | None = None
    relation_words: tuple[str, ...] = ()
    word: str = ""
    training_seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Used:
    """Prompts with the word, with the initialiser in its place, and with the relation in words."""

    columns: tuple[str, ...]
    rows: Mapping[str, Pictures] = field(default_factory=dict)
    verdicts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """How often one way of saying the relation is drawn, on pairs that no exemplar has.

    `relation` counts pictures in which the judge sees the relation, `entities` those with both
    objects, `whole` those with both objects in the relation the right way round.
    """

    name: str
    relation: Rate
    entities: Rate
    whole: Rate


@dataclass(frozen=True)
class Measured:
    """The bars, as far as they have come. `chance` is that of naming the relation blindly."""

    relation: str
    scores: tuple[Score, ...] = ()
    chance: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baked:
    """The word as a patch, tried out: applied and undone, with the fingerprints on the way."""

    name: str
    patch: Patch
    digest: str
    rows: int
    kilobytes: float
    before: str
    after: str
    undone: str
    undo: RoundTrip


@dataclass(frozen=True)
class Exported:
    """A textual inversion file, read back: `equal_bits` is the share of numbers that returned."""

    files: Mapping[str, TensorFile]
    tokens: tuple[str, ...]
    equal_bits: float
    note: str


@dataclass(frozen=True)
class Opened:
    """A word from a file, as text for the other buttons."""

    word: str
    tokens: tuple[str, ...]
    nearest: tuple[tuple[str, float], ...]
