"""What the panel shows: frozen values; pictures are uint8, `h w 3`, films `n h w 3`."""

from dataclasses import dataclass

from engine.core.named_file import TextFile
from engine.core.shapes import Array, UInt8


@dataclass(frozen=True)
class At:
    """One strength of the transform, from 0 (none) to 1: the loss floors at the true depth (None
    without a second picture), and what is kept to learn from."""

    strength: float
    none: float | None
    naive: float | None
    transformed: float | None
    undo: float | None
    supervised: float
    points_naive: float
    points_undo: float
    undo_error: float


@dataclass(frozen=True)
class Film:
    """The same picture at every strength so far, with what it shows in words."""

    title: str
    alt: str
    frames: UInt8[Array, "n h w 3"]


@dataclass(frozen=True)
class Transformed:
    """A transform as it grows: what goes in, what comes out, what is undone and what it is charged.

    `k` and `k_augmented` are intrinsics of the untouched and of the transformed frame, by rows.
    """

    title: str
    original: UInt8[Array, "h w 3"]
    depth: UInt8[Array, "h w 3"]
    k: tuple[tuple[float, ...], ...]
    films: tuple[Film, ...] = ()
    curve: tuple[At, ...] = ()
    k_augmented: tuple[tuple[float, ...], ...] = ()
    size: tuple[int, int] = (0, 0)
    size_augmented: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    script: TextFile | None = None


@dataclass(frozen=True)
class Step:
    """How far one arm has come: errors in metres on rooms that it never saw, as they are and
    transformed."""

    arm: str
    step: int
    still: float
    moved: float


@dataclass(frozen=True)
class Shown:
    """What the network of an arm makes of one room."""

    arm: str
    picture: UInt8[Array, "h w 3"]
    error: float


@dataclass(frozen=True)
class Learnt:
    """All arms so far; `spread` is what the sparse points say without any network."""

    train_rooms: int
    test_rooms: int
    spread: Step
    steps: tuple[Step, ...] = ()
    room: UInt8[Array, "h w 3"] | None = None
    truth: UInt8[Array, "h w 3"] | None = None
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class View:
    """One transformed view: what the model says of it, undone."""

    title: str
    augmented: UInt8[Array, "i j 3"]
    undone: UInt8[Array, "h w 3"]
    error: float | None


@dataclass(frozen=True)
class Averaged:
    """Predictions of several views, undone and averaged; errors in metres where the truth is
    known, after scale and shift where the model knows neither."""

    model: str
    original: UInt8[Array, "h w 3"]
    truth: UInt8[Array, "h w 3"] | None = None
    views: tuple[View, ...] = ()
    average: UInt8[Array, "h w 3"] | None = None
    spread: UInt8[Array, "h w 3"] | None = None
    single_error: float | None = None
    average_error: float | None = None
    notes: tuple[str, ...] = ()
