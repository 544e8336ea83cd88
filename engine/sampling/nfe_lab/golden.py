"""The golden cases of the lab: its solvers against arrays made by published code.

The world is a mixture of Gaussians, where the network's answer is known in closed form, so the
solver alone is tested: ten steps in double precision against a reference written by hand, and 5, 10
and 20 steps against diffusers' schedulers, whose tables are float32.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from engine.core.job import Progress, Steps
from engine.core.shapes import Float, Tensor
from engine.diffusion import grids, schedules, solvers
from engine.diffusion.mixture import Mixture
from engine.sampling._golden import Arrays, Case, Golden, arrays_of

TOLERANCE_EXACT, TOLERANCE_DIFFUSERS = 1e-9, 5e-6
EXACT = {
    "ddim": "ddim",
    "heun": "heun",
    "dpmpp2m": "dpmpp_2m",
    "dpmpp2m_exact": "dpmpp_2m_exact",
    "unipc2": "unipc2",
    "euler_t": "euler_t",
}
DIFFUSERS = {
    "ddim": "ddim",
    "dpmpp2m": "dpmpp_2m",
    "dpmpp2m_heun": "dpmpp_2m_exact",
    "unipc": "unipc2",
    "euler": "euler",
    "heun": "heun",
}


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compares every solver with its arrays. The seed has no part in it: the noise is in them."""
    plan = [(key, None) for key in EXACT] + [(key, n) for n in (5, 10, 20) for key in DIFFUSERS]
    exact, theirs = (
        arrays_of("diffusion-principles_gmm"),
        arrays_of("diffusion-principles_schedulers"),
    )
    cases: list[Case] = []
    for key, steps in plan:
        cases.append(_exact(exact, key) if steps is None else _diffusers(theirs, key, steps))
        yield Progress(len(cases), len(plan), cases[-1].name)
    return Golden(tuple(cases))


def _exact(arrays: Arrays, key: str) -> Case:
    path = schedules.vp()

    def walk() -> Float[Tensor, "n 2"]:
        model, x = _world(arrays).model(path), torch.from_numpy(arrays["xT"])
        return solvers.run(EXACT[key], model, x, grids.uniform_lam(path, 10))

    name = f"{solvers.find(EXACT[key]).title}, 10 steps, exact world"
    return _compared(name, walk, arrays[f"out_{key}"], TOLERANCE_EXACT)


def _diffusers(arrays: Arrays, key: str, steps: int) -> Case:
    path = schedules.from_alphas_cumprod(arrays["alphas_cumprod"])
    times = np.unique(arrays[f"{key}_{steps}_timesteps"])[::-1]

    def walk() -> Float[Tensor, "n 2"]:
        x = torch.from_numpy(arrays["xT"])
        # diffusers starts these two at kappa noise, where z = a kappa noise = s noise
        x = float(path.s(times[0])) * x if key in ("euler", "heun") else x
        model = _world(arrays).model(path)
        return solvers.run(DIFFUSERS[key], model, x, grids.timesteps(np.append(times, -1.0)))

    name = f"{key} of diffusers, {steps} steps"
    return _compared(name, walk, arrays[f"{key}_{steps}"], TOLERANCE_DIFFUSERS)


def _compared(
    name: str, walk: Callable[[], Float[Tensor, "n 2"]], wanted: np.ndarray, tolerance: float
) -> Case:
    begun = time.perf_counter()
    error = float(np.abs(walk().numpy() - wanted).max())
    return Case(name, error, tolerance, time.perf_counter() - begun)


def _world(arrays: Arrays) -> Mixture:
    return Mixture(*(torch.from_numpy(arrays[name]) for name in ("w", "m", "v")))
