"""The golden cases of the lab: its solvers against arrays made by published code.

The world is a mixture of Gaussians, where the network's answer is known in closed form, so the
solver alone is tested: ten steps in double precision against a reference written by hand, and 5, 10
and 20 steps against diffusers' schedulers, whose tables are float32.
"""

from collections.abc import Iterator

import numpy as np
import torch

from engine.core.golden import Arrays, Compared, Golden, apart, arrays_of, collect
from engine.core.job import Steps
from engine.diffusion import grids, schedules, solvers
from engine.diffusion.mixture import Mixture

COUNTS = (5, 10, 20)
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
    return (yield from collect(_compared(), len(EXACT) + len(COUNTS) * len(DIFFUSERS)))


def _compared() -> Iterator[Compared]:
    arrays = arrays_of("diffusion-principles_gmm")
    for key in EXACT:
        yield _exact(arrays, key)
    arrays = arrays_of("diffusion-principles_schedulers")
    for steps in COUNTS:
        for key in DIFFUSERS:
            yield _diffusers(arrays, key, steps)


def _exact(arrays: Arrays, key: str) -> Compared:
    path = schedules.vp()
    model, x = _world(arrays).model(path), torch.from_numpy(arrays["xT"])
    end = solvers.run(EXACT[key], model, x, grids.uniform_lam(path, 10))
    name = f"{solvers.find(EXACT[key]).title}, 10 steps, exact world"
    return name, apart(end, arrays[f"out_{key}"]), TOLERANCE_EXACT


def _diffusers(arrays: Arrays, key: str, steps: int) -> Compared:
    path = schedules.from_alphas_cumprod(arrays["alphas_cumprod"])
    times = np.unique(arrays[f"{key}_{steps}_timesteps"])[::-1]
    x = torch.from_numpy(arrays["xT"])
    # diffusers starts these two at kappa noise, where z = a kappa noise = s noise
    x = float(path.s(times[0])) * x if key in ("euler", "heun") else x
    model = _world(arrays).model(path)
    end = solvers.run(DIFFUSERS[key], model, x, grids.timesteps(np.append(times, -1.0)))
    name = f"{key} of diffusers, {steps} steps"
    return name, apart(end, arrays[f"{key}_{steps}"]), TOLERANCE_DIFFUSERS


def _world(arrays: Arrays) -> Mixture:
    return Mixture(*(torch.from_numpy(arrays[name]) for name in ("w", "m", "v")))
