"""What the lab shows: plain frozen values with numpy arrays, the same while running and at the end.

A preview is a `Lab` or a `Rewound` that is not filled up yet, so a panel draws one kind of thing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.core.catalog import RoundTrip
from engine.sampling._plane import Plane

Picture = NDArray[np.uint8]
"""h w 3"""


@dataclass(frozen=True)
class Film:
    """One solver's way from noise: its clean estimate at each step.

    `frames` are at most 128 pixels high; large models give fewer frames than steps. `nfe` is what
    the counter at the network said; `evaluations` and `times` say where each frame was taken.
    `error` is the distance of the result to the reference, relative to the reference's size, and
    None until that is known. For a solver that draws noise it measures another drawing, no fault.
    """

    solver: str
    title: str
    stochastic: bool
    nfe: int
    milliseconds_per_nfe: float
    frames: tuple[Picture, ...] = ()
    evaluations: tuple[int, ...] = ()
    times: tuple[float, ...] = ()
    picture: Picture | None = None
    verdict: str = ""
    error: float | None = None


@dataclass(frozen=True)
class Reference:
    """The fine solve that errors are measured against, from the same noise."""

    title: str
    nfe: int
    seconds: float
    was_cached: bool
    picture: Picture
    verdict: str = ""


@dataclass(frozen=True)
class ErrorPoint:
    """Distance to the reference after `nfe` evaluations of one solver."""

    solver: str
    nfe: int
    error: float
    milliseconds_per_nfe: float


@dataclass(frozen=True)
class Difference:
    """Distance between the results of two solvers, relative to their size."""

    first: str
    second: str
    relative: float


@dataclass(frozen=True)
class Lab:
    """A run of the lab, as far as it has come."""

    films: tuple[Film, ...] = ()
    reference: Reference | None = None
    plane: Plane | None = None
    curve: tuple[ErrorPoint, ...] = ()
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Way:
    """A picture run to noise and back by one of the two methods.

    `round_trip` says how exactly the latents came back, in the network's float32; `latent_error` is
    relative, in root mean square, of the float64 state; `pixel_error` is the mean absolute
    difference of the pictures, in steps of 1/255. All compare with the encoded picture, since the
    autoencoder has a loss of its own. `gap` says how far the two halves of a reversible state came
    apart. `noise_std` is 1 for perfect noise.
    """

    name: str
    title: str
    to_noise: tuple[Picture, ...] = ()
    to_picture: tuple[Picture, ...] = ()
    noise: Picture | None = None
    noise_std: float | None = None
    picture: Picture | None = None
    round_trip: RoundTrip | None = None
    latent_error: float | None = None
    pixel_error: float | None = None
    gap: float | None = None
    nfe: int = 0
    edited: Picture | None = None
    verdict: str = ""
    edited_verdict: str = ""


@dataclass(frozen=True)
class Rewound:
    """A picture, what the autoencoder makes of it, and the ways to noise and back."""

    original: Picture | None = None
    encoded: Picture | None = None
    verdict: str = ""
    psnr_of_encoding: float | None = None
    ways: tuple[Way, ...] = ()
