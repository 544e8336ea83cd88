"""What the panel shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.core.patch import Patch
from engine.core.reversible import RoundTrip
from engine.metrics.intervals import Rate
from engine.unlearning._card import Card
from engine.unlearning._dampening import Changed, Ratios
from engine.unlearning._thumbnails import Thumbnails


@dataclass(frozen=True)
class Point:
    """One setting on the curve: what is selected, and accuracy on unseen pictures."""

    alpha: float
    lam: float
    changed_share: float
    forget: Rate | None
    retain: Rate | None


@dataclass(frozen=True)
class Forgotten:
    """A run of the panel, as far as it has come.

    `bound` is the alpha from which on nothing is selected (None for mixed batches, which have
    none). `cards` are the original's first, the edit's second, then the reference's and the
    baselines'. `seen` samples of the forget set are in the importances so far.
    """

    name: str
    unit: str
    alpha: float = 0.0
    lam: float = 1.0
    is_automatic: bool = False
    bound: float | None = None
    forget_samples: int = 0
    all_samples: int = 0
    seen: int = 0
    importance_from: str = ""
    was_stored: bool = False
    ratios: Ratios | None = None
    changed: Changed | None = None
    cards: tuple[Card, ...] = ()
    curve: tuple[Point, ...] = ()
    thumbnails: Thumbnails | None = None
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
class Sweep:
    """A grid of settings; `front` are the points that no other one beats in both rates."""

    name: str
    points: tuple[Point, ...] = ()
    front: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
