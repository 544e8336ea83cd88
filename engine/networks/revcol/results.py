"""What the panel shows: frozen values. A preview is a result not yet full."""

from dataclasses import dataclass

from engine.core.reversible import RoundTrip
from engine.core.shapes import Array, Float, UInt8


@dataclass(frozen=True)
class Exit:
    """What one head says after so many columns, and what its decoder draws (None for the last)."""

    columns: int
    label: str
    probability: float
    probabilities: tuple[float, ...]
    decoded: UInt8[Array, "h w 3"] | None
    decoded_error: float | None


@dataclass(frozen=True)
class StepBack:
    """The streams before coupling (column, level), once walked back to: the largest error of the
    rewritten map relative to its size, and a picture read linearly off the lowest map, from what
    came back and from what was there."""

    column: int
    level: int
    error: float
    came_back: UInt8[Array, "h w 3"]
    was_there: UInt8[Array, "h w 3"]
    error_map: Float[Array, "i j"]


@dataclass(frozen=True)
class Alphas:
    """Scales of the maps of one column: smallest, mean and largest size by level."""

    column: int
    smallest: tuple[float, ...]
    mean: tuple[float, ...]
    largest: tuple[float, ...]


@dataclass(frozen=True)
class Walked:
    """A picture forward through all columns, and back from the last column's four maps."""

    picture: UInt8[Array, "h w 3"]
    classes: tuple[str, ...]
    truth: str
    exits: tuple[Exit, ...] = ()
    steps: tuple[StepBack, ...] = ()
    alphas: tuple[Alphas, ...] = ()
    trip: RoundTrip | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bar:
    """Bytes and operations of a training step with so many columns under one memory policy."""

    columns: int
    mode: str
    title: str
    kept_bytes: int
    peak_bytes: int
    flops: int
    gradient_error: float
    is_computed: bool


@dataclass(frozen=True)
class Bars:
    """All bars of the slider, and the error of walking an untrained stack back."""

    bars: tuple[Bar, ...] = ()
    inverse_errors: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Knows:
    """How much a linear probe reads off one map: the class, and where the garment was moved to
    (R squared of both shifts)."""

    column: int
    level: int
    class_accuracy: float
    position_r2: float


@dataclass(frozen=True)
class Probed:
    """What each level knows, by column; `chance` is the most frequent class."""

    train: int
    test: int
    chance: float
    knows: tuple[Knows, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A published size at a resolution, computed on shapes."""

    model: str
    side: int
    mode: str
    parameters: int
    kept_bytes: int
    peak_bytes: int
    flops: int


@dataclass(frozen=True)
class Estimated:
    """All sizes asked for."""

    batch: int
    rows: tuple[Estimate, ...] = ()
