"""What the panel shows: plain frozen values, the same while running and at the end.

A preview is a `Comparison` or a `Restored` that is not filled up yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.sampling._plane import Plane

Picture = NDArray[np.uint8]
"""h w 3"""


@dataclass(frozen=True)
class Scores:
    """Nearness to the original: PSNR in dB, SSIM, and the distance of the judge's features.

    The distance follows the recipe of LPIPS on a network of ours and is no LPIPS; it is None where
    that network is not there. SSIM is None for pictures smaller than its window.
    """

    psnr: float
    ssim: float | None
    distance: float | None


@dataclass(frozen=True)
class Walk:
    """One method's way from noise around the damaged picture to the restored one.

    `frames` are its clean estimates, one an evaluation at most. `nfe` is what the counter at the
    network said. `largest` is the largest absolute value of the end before clipping to [0, 1]; a
    stable sampler stays near 1. `fault` says why a method could not finish.
    """

    method: str
    title: str
    nfe: int
    seconds: float
    frames: tuple[Picture, ...] = ()
    evaluations: tuple[int, ...] = ()
    picture: Picture | None = None
    scores: Scores | None = None
    largest: float = 0.0
    fault: str = ""


@dataclass(frozen=True)
class Point:
    """Quality of one method after `nfe` counted evaluations, on the middle of the picture."""

    method: str
    nfe: int
    psnr: float
    ssim: float | None
    distance: float | None


@dataclass(frozen=True)
class Comparison:
    """Methods side by side from the same noise. `truth` is None when only the damage is known."""

    damaged: Picture | None = None
    truth: Picture | None = None
    damaged_scores: Scores | None = None
    walks: tuple[Walk, ...] = ()
    curve: tuple[Point, ...] = ()
    damaged_point: Point | None = None
    plane: Plane | None = None


@dataclass(frozen=True)
class Restored:
    """A whole picture, restored tile by tile; `scores` only where the original is known."""

    before: Picture | None = None
    after: Picture | None = None
    truth: Picture | None = None
    title: str = ""
    tiles: int = 0
    nfe: int = 0
    seconds: float = 0.0
    before_scores: Scores | None = None
    scores: Scores | None = None
