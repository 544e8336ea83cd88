"""The golden cases: tables, 32 runs of the official sampler, and single steps of its baselines.

`mrs_*.npz` were made by the released code in float32 with an analytic network and without the final
clip. Tolerances are those of float32: 1e-6 on the tables (1e-4 on lambda), 2e-5 of the largest
value on whole runs, 1e-5 on single steps, and 5e-5 on posterior steps next to t = 0, where the
release subtracts nearly equal numbers.

`mrs_released.npz` has what those lack: order 3, and times between the entries of the tables, where
the release reads alpha, sigma and lambda apart. Its 28 runs are a transcription of the released
formulas in float64, in coordinates of pictures and not of distances to mu, written apart from the
solvers here; tolerance 1e-10 of the largest value.
"""

from collections.abc import Iterator

import numpy as np
import torch

from engine.core.golden import Arrays, Compared, Golden, apart, arrays_of, collect
from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.diffusion import solvers
from engine.diffusion.denoiser import Kind, Model
from engine.diffusion.grids import timesteps
from engine.diffusion.mean_reverting import KINDS, Schedule, mrs_grid
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import Path
from engine.models.restoration import KINDS as FIT_TARGETS

PATH, RELEASED = Schedule().path, Schedule().released_path
CASES, RELEASED_CASES = 32, 28


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compares everything. The seed has no part in it: the noise is in the arrays."""
    return (yield from collect(_comparisons(), len(KINDS) + CASES + RELEASED_CASES + 3))


def _comparisons() -> Iterator[Compared]:
    tables = arrays_of("mrs_schedules")
    for kind in KINDS:
        yield f"{kind} tables", _table_error(tables, kind), 1e-6
    arrays = arrays_of("mrs_solver")
    for case in range(CASES):
        yield _solver_case(arrays, case, PATH, 2e-5)
    arrays = arrays_of("mrs_released")
    for case in range(RELEASED_CASES):
        yield _solver_case(arrays, case, RELEASED, 1e-10)
    yield from _single_steps(arrays_of("mrs_baseline_steps"))


def network(
    x: Float[Tensor, "b c h w"], label: Float[Tensor, " b"], **condition: Tensor
) -> Float[Tensor, "b c h w"]:
    """The analytic network of all cases, told `mu` and the time."""
    z = x - condition["mu"]
    return torch.tanh(0.9 * z + 0.2) + 0.1 * torch.sin(0.05 * label).reshape(-1, 1, 1, 1)


def _model(mu: Float[Tensor, "b c h w"], kind: Kind = "eps", path: Path = PATH) -> Model:
    return Model(network, path, kind, "t", anchor=mu, cond={"mu": mu})


def _table_error(arrays: Arrays, kind: str) -> float:
    schedule = Schedule(kind)
    path, times = schedule.path, np.arange(101.0)
    computed = {
        "thetas": schedule.thetas,
        "dt": schedule.dt,
        "alpha": path.a(times),
        "sigma_bar": path.s(times),
        "g": np.sqrt(2 * schedule.thetas) * schedule.level,
        # a hundredth, as float32 leaves lambda two digits less
        "lambda": path.lam(times) / 100,
    }
    expected = {
        name: arrays[f"{kind}_{name}"] / (100 if name == "lambda" else 1) for name in computed
    }
    return max(apart(value, expected[name]) for name, value in computed.items())


def _solver_case(arrays: Arrays, case: int, path: Path, tolerance: float) -> Compared:
    config = {
        key: str(arrays[f"cfg_{key}"][case])
        for key in ("solver_type", "parameterization", "fit_target", "time_schedule")
    }
    order, steps = (int(arrays[f"cfg_{key}"][case]) for key in ("order", "num_sample_steps"))
    name = f"mrs_{config['solver_type']}_{config['parameterization'][0]}_{order}"
    mu, start, expected = (
        torch.from_numpy(arrays[f"c{case}_{key}"]) for key in ("mu", "xT", "out")
    )
    end = solvers.run(
        name,
        _model(mu, FIT_TARGETS[config["fit_target"]], path),
        start - mu,
        mrs_grid(path, config["time_schedule"], steps),
        Noise.replay(list(torch.from_numpy(arrays[f"c{case}_noises"]))),
        hook=None,
        **({"taper": True} if order > 1 else {}),
    )
    scale = float(expected.abs().max())
    title = f"{name.replace('_', '-')}, network predicts {config['fit_target']}, {steps} steps"
    if path is RELEASED:
        title += f", {config['time_schedule']}, tables read apart"
    return title, apart(end + mu, expected) / scale, tolerance


def _single_steps(arrays: Arrays) -> Iterator[Compared]:
    mu, x = torch.from_numpy(arrays["mu"]), torch.from_numpy(arrays["x"])
    # the release subtracts the noise of its Euler step
    for solver, key, sign, tolerance in (
        ("posterior_released", "posterior", 1, 5e-5),
        ("euler_maruyama_released", "euler_sde", -1, 1e-5),
        ("euler_t", "euler_ode", 1, 1e-5),
    ):
        errors = []
        for t, eps, expected in zip(arrays["t"], arrays["noise"], arrays[key], strict=True):
            grid = timesteps([float(t), float(t) - 1])
            noise = Noise.replay([sign * torch.from_numpy(eps)])
            after = solvers.run(solver, _model(mu), x - mu, grid, noise) + mu
            errors.append(apart(after, expected))
        yield f"one step of {solvers.find(solver).title}", max(errors), tolerance
