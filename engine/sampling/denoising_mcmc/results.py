"""What the panel shows: plain frozen values with numpy arrays, the same while running and at the
end. Pictures are uint8, `n h w 3`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Side:
    """One way of sampling at a total of `nfe` evaluations a sample.

    `error` is the root mean square distance to the nearest mode, its interval over chains (or over
    samples without them). `uncovered` is half the sum of differences of mode weights, sampled and
    true; `sliced` is the sliced 2-Wasserstein distance from the data. `ends` are samples to draw,
    `n 2` in the plane.
    """

    name: str
    integrator: str
    nfe: int
    skip: int
    error: float
    low: float
    high: float
    uncovered: float
    sliced: float
    ends: NDArray[np.float32]
    weights: tuple[float, ...] = ()
    starts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trace:
    """A few chains on their way, `visits chains 2`, with the noise level of each visit."""

    points: NDArray[np.float32]
    sigmas: NDArray[np.float64]


@dataclass(frozen=True)
class Chained:
    """A run in the plane. `burn_in` counts evaluations a chain before the first sample."""

    scene: NDArray[np.float32]
    modes: NDArray[np.float64]
    weights: tuple[float, ...]
    trace: Trace | None = None
    sides: tuple[Side, ...] = ()
    burn_in: int = 0
    floor: float = 0.0
    uncovered_floor: float = 0.0
    leaving: float | None = None
    stuck: int = 0
    autocorrelation: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trade:
    """Error and coverage at one eta, from the chain."""

    eta: float
    error: float
    low: float
    high: float
    uncovered: float
    start: float
    leaving: float


@dataclass(frozen=True)
class Trades:
    """The sweep so far, and what the integrator does from pure noise."""

    trades: tuple[Trade, ...] = ()
    vanilla: Side | None = None
    uncovered_floor: float = 0.0


@dataclass(frozen=True)
class Album:
    """Pictures of a network: chain states, what was made of them, and the same NFE from noise."""

    states: NDArray[np.uint8] | None = None
    sigmas: tuple[float, ...] = ()
    chained: NDArray[np.uint8] | None = None
    vanilla: NDArray[np.uint8] | None = None
    nfe: int = 0
    nfe_vanilla: int = 0
    skip: int = 0
    burn_in: int = 0
    classifier_calls: int = 0
    classifier_seconds: float = 0.0
    verdicts: tuple[str, ...] = ()
    verdicts_vanilla: tuple[str, ...] = ()
