"""What the panel shows: frozen values. A preview is a result not yet full."""

from dataclasses import dataclass

from engine.core.reversible import RoundTrip
from engine.core.shapes import Array, UInt8


@dataclass(frozen=True)
class Point:
    """A training step of one depth under one memory policy.

    `kept_bytes` live between forward and backward; `peak_bytes` is the most at once, of which
    `gradient_bytes` are gradients of what is trained, equal in all modes. `gradient_error` is
    relative to plain autograd on the same weights; `seconds` the median of a few steps, or None.
    """

    depth: int
    policy: str
    title: str
    kept_bytes: int
    peak_bytes: int
    gradient_bytes: int
    flops: int
    gradient_error: float
    seconds: float | None


@dataclass(frozen=True)
class Way:
    """Of one depth: relative error of the input walked back to, and how far anchors may lie
    apart, in blocks."""

    depth: int
    inverse_error: float
    suggested_anchor: int


@dataclass(frozen=True)
class Measured:
    """The bars against depth."""

    architecture: str
    title: str
    width: int
    batch: int
    precision: str
    parameters: int
    points: tuple[Point, ...] = ()
    ways: tuple[Way, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """The state as a picture after so many couplings, and the largest error of it, in grey levels,
    where it is on its way back."""

    couplings: int
    picture: UInt8[Array, "h w 3"]
    error: float | None


@dataclass(frozen=True)
class PictureBack:
    """A picture through a reversible network and back."""

    depth: int
    picture: UInt8[Array, "h w 3"]
    forward: tuple[Frame, ...] = ()
    backward: tuple[Frame, ...] = ()
    equal_pixels: float = 0.0
    trip: RoundTrip | None = None
    kept_bytes: int = 0
    plain_bytes: int = 0
