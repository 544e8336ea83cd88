"""What the panel shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.metrics.intervals import Rate


@dataclass(frozen=True)
class Found:
    """A perturbation that was recovered, or the true trigger, and how it does.

    `delta` is signed, c h w. `success` counts unseen pictures that are not of the class already.
    `on_trigger` is the share of its energy where the true trigger lies, None where that is unknown;
    `by_chance` is the trigger's share of the picture.
    """

    name: str
    sigma: float
    delta: NDArray[np.float32]
    picture: NDArray[np.uint8]  # h w 3, the start picture with it
    length: float
    curve: tuple[float, ...] = ()
    success: Rate | None = None
    concentration: float = 0.0
    on_trigger: float | None = None
    by_chance: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Inversion:
    """A run of the panel, as far as it has come. `frames` are stages of the first perturbation.

    `trigger` is the best of the smoothed ones by name (the one asked for), as a picture whose
    middle grey is nothing; corrective unlearning takes it.
    """

    target: str
    start: NDArray[np.uint8]
    start_class: str
    eps: float
    denoiser: str = ""
    step: int = 0
    steps: int = 0
    frames: tuple[NDArray[np.uint8], ...] = ()
    found: tuple[Found, ...] = ()
    tested: int = 0
    trigger: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OneClass:
    """One class of a scan. `score` is success times concentration, `z` its robust z."""

    name: str
    success: float
    concentration: float
    probability: float
    score: float
    z: float = 0.0
    is_outlier: bool = False
    delta: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Scan:
    """All classes from one picture, as far as they have come; z counts those that are there."""

    start: NDArray[np.uint8]
    start_class: str
    sigma: float
    eps: float
    threshold: float
    classes: tuple[OneClass, ...] = ()
    called: tuple[str, ...] = ()
    trigger: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """The perturbation for other tools: a picture, the numbers, and a report."""

    picture: NDArray[np.uint8]
    delta: NDArray[np.float32]
    report: Mapping[str, str] = field(default_factory=dict)
