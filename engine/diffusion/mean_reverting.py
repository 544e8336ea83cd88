"""Noising that drifts to a degraded picture: the tables of IR-SDE and the grids of MR sampler.

    dx = theta(t) (mu - x) dt + g(t) dw,    g^2 = 2 level^2 theta

In coordinates centred on mu this is an ordinary `Path` with

    a = exp(-integral of theta),    s = level sqrt(1 - a^2),    prior_std = level

so every solver of this folder runs on it, with mu as the anchor of `Model`. Tables have the entries
0 ... T, and entry 0 is not quite clean: s(0) > 0, hence lambda stays finite.

References: Luo et al., ICML 2023, arXiv:2301.11699 (IR-SDE); Li et al., ICLR 2025, arXiv:2502.07856
(MR sampler). Numbers are float64; the published tables are float32 and agree to 1e-6.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.diffusion.grids import Grid, karras, powers_t, timesteps, uniform_lam
from engine.diffusion.schedules import Path, UntiedPath, mean_reverting, mean_reverting_released

KINDS = ("cosine", "linear", "constant")
Table: TypeAlias = NDArray[np.float64]

GRIDS = ("linspace", "linear-lambda", "karras-n", "karras-t", "leading", "trailing")
"""Published names of the time schedules."""


@dataclass(frozen=True)
class Schedule:
    """What fixes the process, stored with the weights: a sampler must use that of the training.

    `max_sigma` of 1 and above counts in steps of 1/255. `eps` is what is left of the clean picture
    at the end, a(T).
    """

    kind: str = "cosine"
    steps: int = 100
    eps: float = 0.005
    max_sigma: float = 50.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SamplerError(
                f'There is no schedule "{self.kind!s:.40}".', f"Use {', '.join(KINDS)}."
            )
        if not (2 <= self.steps <= 10_000 and 0 < self.eps < 1 and 0 < self.max_sigma <= 255):
            raise SamplerError(
                f"A schedule of {self.steps} steps, eps {self.eps:g} and max_sigma "
                f"{self.max_sigma:g} is not usable.",
                "Usual are 100 steps, eps 0.005 and max_sigma 50.",
            )

    @property
    def level(self) -> float:
        """Stationary standard deviation of the noise, for pictures in [0, 1]."""
        return self.max_sigma / 255 if self.max_sigma >= 1 else self.max_sigma

    @property
    def thetas(self) -> Table:
        """theta at 0 ... T; for "cosine" it is 1 - abar, and not the usual ratio of two abar."""
        if self.kind == "constant":
            return np.ones(self.steps + 1)
        if self.kind == "linear":
            count = self.steps + 1
            return np.linspace(1e-4, 0.02, count) * 1000 / count
        share = np.linspace(0, 1, self.steps + 3)
        abar = np.cos((share + 0.008) / 1.008 * np.pi / 2) ** 2
        return (1 - abar / abar[0])[1:-1]

    @property
    def dt(self) -> float:
        """Length of a table step, such that a(T) = eps."""
        return float(-np.log(self.eps) / self.thetas.sum())

    @property
    def path(self) -> Path:
        return mean_reverting(self._log_a, self.level)

    @property
    def released_path(self) -> UntiedPath:
        """As the released sampler reads the tables between their entries."""
        return mean_reverting_released(self._log_a, self.level)

    @property
    def _log_a(self) -> Table:
        return -np.cumsum(self.thetas) * self.dt


def mrs_grid(
    path: Path,
    name: str,
    steps: int,
    *,
    lambda_min: float = -5.0,
    rho: float = 7.0,
    denoise_last: bool = False,
) -> Grid:
    """`steps` evaluations spaced as published. `lambda_min` cuts off the noisy end.

    "trailing" and "karras-t" stop above t = 0, and "leading" begins below T; `denoise_last` puts
    the clean estimate in the place of the last step.
    """
    start = path.t_max
    if path.lam(start) < lambda_min:
        start = float(path.t_of_lam(lambda_min))
    if start < 1:
        raise SamplerError(
            f"lambda_min {lambda_min:g} leaves no time to sample in.",
            f"Take one below {float(path.lam(1.0)):.3g}.",
        )
    whole = np.arange(steps, -1, -1, dtype=np.float64)
    match name:
        case "linspace":
            grid = timesteps(whole * start / steps)
        case "linear-lambda":
            grid = uniform_lam(path, steps, start=start)
        case "karras-n" if isinstance(path, UntiedPath):
            first, last = (float(path.kappa(t)) ** (1 / rho) for t in (path.t_max, path.t_min))
            times = path.t_of_kappa(np.linspace(first, last, steps + 1) ** rho)
            grid = timesteps(np.asarray(times))
        case "karras-n":
            grid = karras(path, steps, rho=rho, start=start)
        case "karras-t":
            grid = powers_t(path, steps, power=rho, start=start, end=1.0)
        case "leading":
            grid = timesteps(whole * (start // (steps + 1)))
        case "trailing":
            grid = timesteps(start - whole[::-1] * path.t_max / (steps + 1))
        case _:
            raise SamplerError(
                f'There is no spacing "{name!s:.40}".', f"Choose {', '.join(GRIDS)}."
            )
    return timesteps(grid.times[:-1], "x0") if denoise_last else grid


def released_grid(path: Path, steps: int) -> Grid:
    """The whole times that the released baselines visit: linspace(1, T, n) cut to integers.

    They go with the solvers `posterior_released` and `euler_maruyama_released`, each of whose
    updates moves by one table step only, however far the next visited time is.
    """
    visited = np.floor(np.linspace(1, path.t_max, steps))[::-1]
    return timesteps(np.append(visited, 0.0))
