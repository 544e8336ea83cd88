"""The six integrators, each from a noise level of its own a sample down to none.

The first four run on the clock t of the exploding process sig(t) = smin (s / smin)^t, with s the
level that a sample starts from; the two of Karras et al. on the noise levels themselves.

    em, rd, as      Euler-Maruyama, reverse diffusion, ancestral: n steps, n evaluations
    ode             the probability flow by RK45: as many as it takes
    kar1            Heun on levels with rho = 7, deterministic: 2 (n - 1) - 1 evaluations
    kar2            the same with fresh noise between 0.05 and 1 (churn)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.diffusion import grids, schedules
from engine.diffusion.denoiser import Model
from engine.diffusion.grids import Grid
from engine.diffusion.moves import State, Step
from engine.diffusion.noise import NoiseSource, no_noise
from engine.diffusion.predictors import released_grid
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import solve

S_MIN = 0.01
CHAINED = {"em": "euler_maruyama", "rd": "reverse_diffusion", "as": "ancestral"}


@dataclass(frozen=True)
class Way:
    """A solver with its grid and settings, made for the starting levels of a batch."""

    path: Path
    solver: str
    grid: Grid
    options: dict[str, Any]


def way_of(name: str, sigma: NDArray[np.float64], steps: int) -> Way:
    """The integrator `name` in `steps` steps (n of the table above) from these levels."""
    if name in CHAINED:
        path = schedules.ve(S_MIN, sigma, t_min=0.0)
        options: dict[str, Any] = {"predictor": CHAINED[name], "levels": "released"}
        return Way(path, "pc", released_grid(steps, 1e-5), options)
    if name == "ode":
        path = schedules.ve(S_MIN, sigma, t_min=0.0)
        return Way(path, "rk45", grids.timesteps(np.linspace(1, 1e-5, 9)), {"tolerance": 1e-5})
    if steps < 4:
        raise SamplerError(
            f"Heun on {steps} levels is one giant step and unstable.", "Give it 5 NFE or more."
        )
    path = noise_path(float(np.max(sigma)))
    grid = grids.karras(path, steps - 1, start=sigma, end=S_MIN, to_zero=True)
    churn = min(80 / steps, np.sqrt(2) - 1) if name == "kar2" else 0.0
    return Way(path, "heun", grid, {"churn": churn} if churn else {})


def noise_path(s_max: float) -> Path:
    """Time is the noise level; up to a little above `s_max`, as churn raises it."""
    return schedules.edm(t_min=S_MIN * (1 - 1e-9), t_max=s_max * (1 + 1e-9))


def steps_for(name: str, nfe: int) -> int:
    """The n of an integrator that spends at most `nfe` evaluations."""
    return nfe if name in CHAINED or name == "ode" else (nfe + 1) // 2 + 1


def integrate(
    on: "Asks", name: str, x: State, sigma: NDArray[np.float64], steps: int,
    noise: NoiseSource = no_noise,
) -> Iterator[Step]:  # fmt: skip
    """The steps of an integrator from states x at levels sigma, one each."""
    method = way_of(name, sigma, steps)
    return solve(method.solver, on.model(method.path), x, method.grid, noise, **method.options)


class Asks:
    """A score that can be asked on any path whose noise levels it knows, with one counter."""

    def __init__(self, net, **settings: object) -> None:  # type: ignore[no-untyped-def]
        self.net, self.settings, self.nfe = net, settings, 0

    def model(self, path: Path) -> Model:
        """The network on this path, told its noise level."""

        def counted(x, label, **condition):  # type: ignore[no-untyped-def]
            self.nfe += 1
            return self.net(x, label, **condition)

        return Model(counted, path, "score", "sigma", **self.settings)  # type: ignore[arg-type]
