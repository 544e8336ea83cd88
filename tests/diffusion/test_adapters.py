"""diffusers' schedulers through the one interface, and ours beside them."""

import numpy as np
import pytest
import torch

from engine.core import rng
from engine.core.errors import SamplerError
from engine.diffusion import adapters, grids, schedules
from engine.diffusion.adapters import scheduler_like, set_nfe, solve_diffusers
from engine.diffusion.mixture import Mixture, three_modes
from engine.diffusion.noise import Noise
from engine.diffusion.solvers import run, solve

# diffusers turns a tensor into an array in a way that numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "epsilon",
}

# The second step has history for order 2 only, which diffusers takes from `solver_type`.
THIRD = {"solver_order": 3, "solver_type": "heun", "lower_order_final": False}


def grid_of(scheduler):
    """The timesteps of a scheduler as a grid for our solvers, ending without noise."""
    times = scheduler.timesteps.cpu().double().numpy()
    # Heun visits each inner time twice.
    return grids.timesteps(np.append(np.unique(times)[::-1], -1.0))


@pytest.fixture(scope="module")
def path():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return schedules.from_alphas_cumprod(torch.cumprod(1 - betas, 0).double().numpy())


def start() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(6, 2, dtype=torch.float64, generator=generator)


@pytest.mark.golden
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize(
    ("key", "name", "overrides"),
    [
        ("ddim", "DDIM", {}),
        ("dpmpp2m", "DPMSolverMultistep", {}),
        ("dpmpp2m_heun", "DPMSolverMultistep", {"solver_type": "heun"}),
        ("dpmpp2m_karras", "DPMSolverMultistep", {"use_karras_sigmas": True}),
        ("unipc", "UniPCMultistep", {}),
        ("euler", "EulerDiscrete", {}),
        ("heun", "HeunDiscrete", {}),
    ],
)
def test_adapter_equals_golden(golden, key, name, overrides, steps):
    arrays = golden("diffusion-principles_schedulers")
    world = Mixture(*(torch.from_numpy(arrays[part]) for part in ("w", "m", "v")))
    model = world.model(schedules.from_alphas_cumprod(arrays["alphas_cumprod"]))
    scheduler = scheduler_like(CONFIG, name, **overrides)
    scheduler.set_timesteps(steps)
    *_, last = solve_diffusers(scheduler, model, torch.from_numpy(arrays["xT"]))
    np.testing.assert_allclose(last.z.numpy(), arrays[f"{key}_{steps}"], atol=5e-6)
    np.testing.assert_allclose(scheduler.timesteps, arrays[f"{key}_{steps}_timesteps"], rtol=1e-6)
    assert last.nfe == model.nfe == arrays[f"{key}_{steps}_nfe"]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("name", "overrides", "solver"),
    [
        ("DDIM", {}, "ddim"),
        ("DDIM", {"timestep_spacing": "trailing"}, "ddim"),
        ("DPMSolverMultistep", {}, "dpmpp_2m"),
        ("DPMSolverMultistep", {"solver_type": "heun"}, "dpmpp_2m_exact"),
        ("DPMSolverMultistep", THIRD, "dpmpp_3m"),
        ("UniPCMultistep", {}, "unipc2"),
        ("EulerDiscrete", {}, "euler"),
        ("HeunDiscrete", {}, "heun"),
    ],
)
def test_every_step_equals_ours(path, name, overrides, solver, prediction_type):
    """The same exact world, asked for any prediction, walked by both from the same state."""
    if (name, prediction_type) == ("HeunDiscrete", "sample"):
        pytest.skip("diffusers' Heun knows no prediction of the sample")
    model = three_modes().model(path)
    scheduler = scheduler_like({**CONFIG, "prediction_type": prediction_type}, name, **overrides)
    scheduler.set_timesteps(8)
    theirs = list(solve_diffusers(scheduler, model, start(), same_start=True))
    ours = list(solve(solver, model, start(), grid_of(scheduler)))
    if name == "HeunDiscrete":
        theirs = [*theirs[1::2], theirs[-1]]
    for a, b in zip(ours, theirs, strict=True):
        assert a.t == pytest.approx(b.t)
        # diffusers keeps its schedule in float32
        torch.testing.assert_close(a.z, b.z, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "DPMSolverMultistep"])
def test_noise_of_a_sample_does_not_depend_on_the_batch(path, name):
    overrides = {} if name.startswith("Euler") else {"algorithm_type": "sde-dpmsolver++"}
    ended = []
    for z in (start(), start()[:2]):
        scheduler = scheduler_like(CONFIG, name, **overrides)
        scheduler.set_timesteps(6)
        *_, last = solve_diffusers(scheduler, three_modes().model(path), z, seed=9)
        ended.append(last.z)
    torch.testing.assert_close(ended[0][:2], ended[1])


def test_ancestral_of_diffusers_is_ours_with_its_noise(path):
    model, z = three_modes().model(path), start()
    scheduler = scheduler_like(CONFIG, "EulerAncestralDiscrete")
    scheduler.set_timesteps(6)
    theirs = list(solve_diffusers(scheduler, model, z, seed=9, same_start=True))
    generators = [rng.generator(9, "step", index) for index in range(len(z))]
    drawn = [
        torch.cat([torch.randn(1, 2, generator=g, dtype=z.dtype) for g in generators])
        for _ in theirs
    ]
    ours = run("ancestral", model, z, grid_of(scheduler), Noise.replay(drawn))
    torch.testing.assert_close(ours, theirs[-1].z, rtol=0, atol=2e-5)


@pytest.mark.parametrize("nfe", [1, 2, 5, 10, 21])
@pytest.mark.parametrize("name", ["DDIM", "HeunDiscrete", "UniPCMultistep"])
def test_asked_for_evaluations_are_not_exceeded(path, name, nfe):
    scheduler = scheduler_like(CONFIG, name)
    count = set_nfe(scheduler, nfe)
    model = three_modes().model(path)
    list(solve_diffusers(scheduler, model, start()))
    assert model.nfe == count
    assert nfe - 1 <= count <= nfe


def test_few_step_schedulers_need_distilled_weights():
    with pytest.raises(SamplerError, match="weights distilled for it"):
        scheduler_like(CONFIG, "LCM")
    assert scheduler_like(CONFIG, "TCD", distilled=True).config.beta_end == 0.012


def test_unknown_scheduler_names_those_there_are():
    with pytest.raises(SamplerError, match=r'"diffusers:Warp" here\. Choose DDIM'):
        scheduler_like(CONFIG, "Warp")
    assert all(name in adapters.MODULES for name in adapters.DISTILLED)


def test_grid_of_heun_has_each_time_once(path):
    scheduler = scheduler_like(CONFIG, "HeunDiscrete")
    scheduler.set_timesteps(5)
    grid = grid_of(scheduler)
    grid.check(path)
    assert isinstance(grid, grids.Grid)
    assert grid.steps == 5
