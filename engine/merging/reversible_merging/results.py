"""What the panel shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.core.baked import Baked
from engine.core.named_file import NamedFile
from engine.core.reversible import RoundTrip
from engine.merging.reversible_merging.survey import Survey

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Row:
    """One row of a contact sheet; `kind` is "own", "rebuilt", "merged" or "base"."""

    title: str
    kind: str
    pictures: Pictures | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unmerged:
    """The adapters' own pictures, the rebuilt ones, and those of one merged set of weights.

    `storage` is what the basis takes, relative to the adapters. `errors` are relative squared
    errors of the rebuilt deltas, `apart` mean differences of the pictures, of 255. `trip` compares
    the factors at the largest p with the adapters' own.
    """

    names: tuple[str, ...]
    p: int
    largest_p: int
    storage: float
    rows: tuple[Row, ...] = ()
    errors: tuple[float, ...] = ()
    apart: tuple[float, ...] = ()
    merged_apart: tuple[float, ...] = ()
    trip: RoundTrip | None = None
    megabytes: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Film:
    """Pictures of every adapter at every p, `frames` (n p h w 3), with the storage at each p."""

    names: tuple[str, ...]
    prompt: str
    storages: tuple[float, ...]
    own: Pictures | None = None
    frames: NDArray[np.uint8] | None = None
    verdicts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Weighed:
    """Curves and maps of a collection. `chosen` is the p that was asked for by storage or error."""

    survey: Survey
    chosen: int
    chosen_storage: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """Right answers of one way on every task. `storage` is relative to the adapters; `budget` is p,
    or what the way calls it, and -1 for what has none."""

    way: str
    budget: int
    storage: float
    right: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.right) / max(len(self.right), 1)


@dataclass(frozen=True)
class Counted:
    """Accuracy on every task, of the base, the adapters alone, and what is left of them."""

    tasks: tuple[str, ...]
    questions: tuple[str, ...]
    pictures: int
    p: int
    base: Score | None = None
    own: Score | None = None
    rebuilt: tuple[Score, ...] = ()
    rivals: tuple[Score, ...] = ()
    merged: tuple[Score, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reverted:
    """One adapter loaded and run, beside the base and the merge: pictures with what was said."""

    name: str
    question: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    error: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lost:
    """Share of the touched weights that did not come back after adding and subtracting a delta."""

    number_format: str
    share: float
    patch_share: float


@dataclass(frozen=True)
class BakedMerge(Baked):
    """A merge as a patch, applied and undone, and the same by adding and subtracting."""

    lost: tuple[Lost, ...]


@dataclass(frozen=True)
class Exported:
    """Files for other tools. `error` is the part that they miss of the adapters, or of the merge,
    that they stand for: 0 for none of it. `read_back` is the largest difference of what was read
    back and what was written, relative to the largest value."""

    form: str
    files: Mapping[str, NamedFile]
    read_back: float = 0.0
    note: str = ""
    error: float = 0.0
