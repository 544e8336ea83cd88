"""What the panel shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.core.patch import Patch
from engine.core.reversible import RoundTrip
from engine.unlearning._card import Card
from engine.unlearning._dampening import Changed
from engine.unlearning._thumbnails import Thumbnails


@dataclass(frozen=True)
class Tried:
    """One setting on the automatic rule's grid, with what the rule looked at and nothing else.

    `forgotten` is 1 - the accuracy on the flagged samples with their wrong labels, `kept` the
    accuracy on held-out retained samples; the rule takes the largest sum.
    """

    alpha: float
    lam: float
    changed_share: float
    forgotten: float
    kept: float

    @property
    def score(self) -> float:
        return self.forgotten + self.kept


@dataclass(frozen=True)
class TriedWay:
    """One setting of a way that trains, with what the rule looked at; see `Tried`."""

    settings: Mapping[str, float]
    forgotten: float
    kept: float

    @property
    def score(self) -> float:
        return self.forgotten + self.kept


@dataclass(frozen=True)
class Flagged:
    """What was manipulated and what of it was found; `gallery` shows some of the found ones."""

    kind: str
    manipulated: int
    flagged: int
    false_flags: int
    share: float
    gallery: NDArray[np.uint8] | None = None
    labels: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class Corrected:
    """A run of the panel, as far as it has come. `cards` begin with the original's."""

    flagged: Flagged
    method: str = ""
    unit: str = ""
    alpha: float = 0.0
    lam: float = 0.0
    tuned_on: str = ""
    tried: tuple[Tried, ...] = ()
    tried_ways: tuple[TriedWay, ...] = ()
    cards: tuple[Card, ...] = ()
    changed: Changed | None = None
    stamped: Thumbnails | None = None
    patch: Patch | None = None
    digest: str = ""
    patch_bytes: int = 0
    before: str = ""
    after: str = ""
    undone: str = ""
    undo: RoundTrip | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AtGamma:
    """One method at one share of what was found."""

    gamma: float
    flagged: int
    card: Card


@dataclass(frozen=True)
class Curves:
    """Methods over the share of manipulated samples that was found, as far as they have come."""

    kind: str
    points: tuple[AtGamma, ...] = ()
    notes: tuple[str, ...] = ()
