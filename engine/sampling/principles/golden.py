"""The golden arrays of the exact world: densities, readings, true curves and six solvers.

`tests/golden/diffusion-principles_gmm.npz` was derived apart from this code, in float64; there is
no published code for it. Tolerance 1e-9, and 1e-8 for the integrated curves.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from engine.core.golden import Compared, Golden, arrays_of, collect
from engine.core.job import Steps, finish
from engine.diffusion import grids, schedules
from engine.diffusion.mixture import Mixture
from engine.diffusion.solvers import run as run_solver
from engine.sampling.principles.algorithm import reference
from engine.sampling.principles.world import VP

NAMES = {
    "ddim": "ddim",
    "heun": "heun",
    "dpmpp2m": "dpmpp_2m",
    "dpmpp2m_exact": "dpmpp_2m_exact",
    "unipc2": "unipc2",
    "euler_t": "euler_t",
}


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare what runs here with the arrays; there is nothing random in it."""
    return (yield from collect(_compared(), 13))


def _compared() -> Iterator[Compared]:
    """Each number's error is relative to its size where that is above 1."""
    arrays = arrays_of("diffusion-principles_gmm")
    for name, value, expected, tolerance in comparisons(arrays):
        error = np.abs(np.asarray(value) - expected) / np.maximum(np.abs(expected), 1)
        yield name, float(error.max()), tolerance


def comparisons(
    arrays: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Name, what is found here, what it should be, and the tolerance."""
    world = Mixture(*(torch.from_numpy(arrays[name]) for name in ("w", "m", "v")))
    yield from _readings(world, arrays)
    model, noise = world.model(VP), torch.from_numpy(arrays["xT"])
    grid = grids.uniform_lam(VP, 10)
    for key, solver in NAMES.items():
        ended = run_solver(solver, model, noise, grid)
        yield f"{solver}, 10 steps", ended.numpy(), arrays[f"out_{key}"], 1e-9
    for name, end in (("pf_mid_t0.4", 0.4), ("pf_end_t1e-3", 1e-3)):
        curve = finish(reference(world, VP, noise, np.array([1.0, end])))
        yield f"true curves to t = {end:g}", curve[-1].numpy(), arrays[name], 1e-8


def _readings(
    world: Mixture, arrays: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    x, flow = torch.from_numpy(arrays["x"]), schedules.flow()
    for i, t in enumerate(arrays["t"]):
        pred, a, s = world.model(VP)(x, t), VP.a(t), VP.s(t)
        readings = {
            "score": pred.score,
            "x0": pred.x0,
            "eps": pred.eps,
            "v": pred.v,
            "logp": world.log_density(x, a, s)[:, None],
            "pf_velocity": pred.u,
            "rf_velocity": world.model(flow)(x, t).u,
        }
        expected = [arrays[f"{i}_{name}"].reshape(len(x), -1) for name in readings]
        values = np.concatenate([np.asarray(value) for value in readings.values()], axis=1)
        yield f"seven readings at t = {t:.3g}", values, np.concatenate(expected, axis=1), 1e-9
