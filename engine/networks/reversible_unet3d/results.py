"""What the panel shows: frozen values. A preview is a result not yet full."""

from dataclasses import dataclass

from engine.core.named_file import NamedFile
from engine.core.reversible import RoundTrip
from engine.core.shapes import Array, Float, UInt8


@dataclass(frozen=True)
class Overlap:
    """Dice of one class."""

    name: str
    dice: float
    share: float


@dataclass(frozen=True)
class StageBack:
    """One stage walked backwards: the relative error, and the largest error along each line of
    sight, as a picture for each of the three axes."""

    stage: str
    blocks: int
    trip: RoundTrip
    error_maps: tuple[Float[Array, "_ _"], ...]


@dataclass(frozen=True)
class Segmented:
    """A volume and the class of every voxel, axes right, anterior, superior; three slices through
    `centre` are enough for a picture, the volumes for a viewer. `file` holds the labels on the axes
    and with the affine of the volume that was read."""

    title: str
    classes: tuple[str, ...]
    voxels: UInt8[Array, "d h w"]
    labels: UInt8[Array, "d h w"]
    truth: UInt8[Array, "d h w"] | None
    centre: tuple[int, int, int]
    spacing: tuple[float, float, float]
    overlaps: tuple[Overlap, ...] = ()
    file: NamedFile | None = None
    stages: tuple[StageBack, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Training in one memory mode: losses, and bytes measured on the first step."""

    mode: str
    title: str
    kept_bytes: int
    peak_bytes: int
    flops: int
    losses: tuple[float, ...] = ()
    overlaps: tuple[Overlap, ...] = ()


@dataclass(frozen=True)
class Trained:
    """Two or more modes on the same crops from the same weights."""

    side: int
    parameters: int
    curves: tuple[Curve, ...] = ()
    largest_gap: float = 0.0


@dataclass(frozen=True)
class Bar:
    """Bytes of a training step with so many blocks a stage in one mode."""

    blocks: int
    mode: str
    title: str
    kept_bytes: int
    peak_bytes: int
    flops: int


@dataclass(frozen=True)
class Cube:
    """The largest cube whose training step stays within the memory, computed on shapes."""

    mode: str
    title: str
    side: int
    peak_bytes: int
    voxels: int


@dataclass(frozen=True)
class Sized:
    """Bars against blocks at one side, and the largest cubes."""

    side: int
    gibibytes: float
    bars: tuple[Bar, ...] = ()
    cubes: tuple[Cube, ...] = ()
