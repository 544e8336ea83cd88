"""What an erasure from a few pictures shows; a preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.core.reversible import RoundTrip
from engine.metrics.intervals import Rate
from engine.models.tensor_file import TensorFile

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Look:
    """The prompts after some epochs, from the same noise every time."""

    epoch: int
    pictures: Pictures
    verdicts: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Moved:
    """How far one part of one layer moved: the norm of the change over the norm before."""

    layer: int
    part: str
    relative: float


@dataclass(frozen=True)
class Unlearning:
    """A run of the panel, as far as it has come.

    `given` are the pictures it learnt from, `errors` the denoising error before each step, `looks`
    the prompts at epoch 0 (the original) and later ones. `undone` are drawn afresh with the patch
    applied and taken off again; `undo` compares the trained tensors, `same_pixels` the pictures.
    """

    concept: str
    prompts: tuple[str, ...]
    epochs: int
    updates_an_epoch: int
    given: Pictures | None = None
    errors: tuple[float, ...] = ()
    looks: tuple[Look, ...] = ()
    moved: tuple[Moved, ...] = ()
    undone: Look | None = None
    same_pixels: bool = False
    weights_before: str = ""
    weights_after: str = ""
    weights_undone: str = ""
    undo: RoundTrip | None = None
    trained_parameters: int = 0
    training_seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CoursePoint:
    """What the judge sees after some steps. `became` counts what prompts with the word show."""

    steps: int
    target: Rate
    near: Rate
    far: Rate
    change: float
    became: Mapping[str, int]

    @property
    def kept(self) -> Rate:
        """Both groups of other prompts together."""
        return Rate.pooled([self.near, self.far])


@dataclass(frozen=True)
class Course:
    """One way of training through its steps; a baseline has one point, at step 0."""

    name: str
    points: tuple[CoursePoint, ...] = ()
    is_baseline: bool = False


@dataclass(frozen=True)
class Curve:
    """Erased and kept against the number of steps, as far as it has come."""

    concept: str
    courses: tuple[Course, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """A file for other tools. `error` is the part of the whole edit that the weights miss to which
    the file leads when it is read back: 0 for none of it."""

    form: str
    files: Mapping[str, TensorFile] = field(default_factory=dict)
    rank: int = 0
    error: float = 0.0
    note: str = ""
