"""What the panel shows: plain frozen values with numpy arrays, the same while running and at the
end. Pictures are uint8, `n h w 3`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of one picture: the mean over probes, and each of them."""

    mean: float
    spread: float
    probes: tuple[float, ...]
    nats: float
    dimensions: int
    offset: float
    low: float
    nfe: int


@dataclass(frozen=True)
class Trip:
    """A picture, its way to the latent and back, what the noisy equation makes of the same latent.

    `gap` is the mean difference of the picture that came back, in steps of 1/255.
    """

    original: Pictures | None = None
    to_latent: Pictures | None = None
    latent: Pictures | None = None
    latent_spread: float = 0.0
    to_picture: Pictures | None = None
    back: Pictures | None = None
    gap: float | None = None
    others: Pictures | None = None
    bits: Bits | None = None
    nfe_there: int = 0
    nfe_back: int = 0
    nfe_others: int = 0


@dataclass(frozen=True)
class Returned:
    """Points in the plane, `p 2`, on their way to the latents and back, `times p 2`.

    `gap` is the largest distance of a point that came back. `elsewhere` are ends of the noisy
    equation from the same latents, `p n 2`; `left` is the share of them at another mode.
    """

    scene: NDArray[np.float32]
    points: NDArray[np.float64]
    there: NDArray[np.float64] | None = None
    back: NDArray[np.float64] | None = None
    gap: float | None = None
    elsewhere: NDArray[np.float64] | None = None
    left: float | None = None
    flow_nats: tuple[float, ...] = ()
    true_nats: tuple[float, ...] = ()
    nfe_there: int = 0
    nfe_back: int = 0
    nfe_noisy: int = 0
    nfe_likelihood: int = 0


@dataclass(frozen=True)
class Point:
    """Distance of a cloud to the data after `nfe` evaluations a particle, over `repeats` draws."""

    method: str
    nfe: int
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Sweep:
    """The same at one snr of the corrector."""

    snr: float
    error: float


@dataclass(frozen=True)
class Lab:
    """Particles under the exact score. `scenes` are p_t, `n side side`; `clouds` are `n p 2`."""

    scenes: NDArray[np.float32]
    times: NDArray[np.float64]
    clouds: NDArray[np.float32]
    nfe: int = 0
    error: float | None = None
    floor: float | None = None
    curve: tuple[Point, ...] = ()
    sweep: tuple[Sweep, ...] = ()


@dataclass(frozen=True)
class Strip:
    """Pictures of one sampler, as far as they are; `nfe` is what the counter said."""

    name: str
    title: str
    nfe: int
    pictures: Pictures
    done: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """Samplers side by side from one noise."""

    strips: tuple[Strip, ...] = ()


@dataclass(frozen=True)
class Controlled:
    """What was given (the picture, what is known of it) and what was made of it."""

    task: str
    given: Pictures | None = None
    known: Pictures | None = None
    made: Pictures | None = None
    right: tuple[float, ...] = ()
    kept: float | None = None
    nfe: int = 0
    classifier_calls: int = 0
    classifier_seconds: float = 0.0
