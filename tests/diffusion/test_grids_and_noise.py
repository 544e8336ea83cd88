"""Where solvers stop, and the noise they draw."""

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion import grids, schedules
from engine.diffusion.noise import Noise

VP = schedules.vp()
DISCRETE = schedules.from_alphas_cumprod(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
BUILDERS = (grids.uniform_t, grids.uniform_lam, grids.karras, grids.powers_t)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("path", [VP, DISCRETE, schedules.edm(), schedules.ouve()])
@pytest.mark.parametrize("to_zero", [False, True])
def test_grid_falls_from_end_to_end(build, path, to_zero):
    grid = build(path, 12, to_zero=to_zero)
    grid.check(path)
    assert grid.steps == 12
    assert grid.times[0] == path.t_max
    assert grid.times[-1] == (path.t_zero if to_zero else path.t_min)


@pytest.mark.parametrize("build", BUILDERS)
def test_equal_columns_equal_the_shared_grid(build):
    shared = build(VP, 9)
    columns = build(VP, 9, start=np.array([1.0, 1.0, 1.0]))
    assert columns.times.shape == (10, 3)
    np.testing.assert_allclose(columns.times, np.repeat(shared.times[:, None], 3, 1), rtol=1e-12)


def test_uniform_lambda_has_equal_steps():
    steps = np.diff(VP.lam(grids.uniform_lam(VP, 10).times))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_one_step_to_zero_is_one_step():
    np.testing.assert_array_equal(grids.uniform_lam(VP, 1, to_zero=True).times, [1.0, 0.0])


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 20, 50, 200, 999])
def test_spacings_of_whole_timesteps(steps):
    assert grids.trailing(DISCRETE, steps).times[0] == 999
    assert grids.leading(DISCRETE, steps).times[-2] == 0
    for grid in (grids.trailing(DISCRETE, steps), grids.leading(DISCRETE, steps)):
        grid.check(DISCRETE)
        assert grid.steps == steps


def test_sgmse_grid_ends_with_a_step_to_zero():
    times = grids.sgmse(schedules.ouve(), 30).times
    assert times[0] == 1
    assert times[-2:] == pytest.approx([0.03, 0.0])


@pytest.mark.parametrize(
    ("times", "complaint"),
    [
        ([0.2, 0.5], "0.2 is followed by 0.5"),
        ([0.5, 0.5, 0.1], "0.5 is followed by 0.5"),
        ([1.5, 0.5], "1.5 lies outside"),
        ([0.5, 1e-5], "1e-05 lies outside"),
    ],
)
def test_unsound_grid_is_refused_with_its_value(times, complaint):
    with pytest.raises(SamplerError, match=complaint):
        grids.timesteps(times).check(VP)


@pytest.mark.parametrize("times", [[1.0], [1.0, np.nan]])
def test_grid_needs_two_numbers(times):
    with pytest.raises(SamplerError):
        grids.timesteps(times)


def test_steps_below_one_and_endless_noise_are_refused():
    with pytest.raises(SamplerError, match="got 0"):
        grids.uniform_t(VP, 0)
    with pytest.raises(SamplerError, match="never comes to no noise"):
        grids.uniform_t(schedules.ve(), 3, to_zero=True)


def test_noise_of_a_sample_is_the_same_alone_and_in_a_batch():
    batch = Noise(7)(torch.empty(5, 2, 3), 4)
    alone = Noise(7, first=3)(torch.empty(1, 2, 3), 4)
    assert torch.equal(batch[3:4], alone)


def test_noise_depends_on_seed_step_role_and_sample_only():
    like = torch.empty(2, 1000)
    noise = Noise(7)
    assert torch.equal(noise(like, 1), Noise(7)(like, 1))
    others = [
        Noise(8)(like, 1),
        noise(like, 2),
        noise(like, 1, "corrector"),
        noise(like, 1).flip(0),
    ]
    for other in others:
        # independent draws: correlation of 2000 pairs stays within five standard errors
        assert abs(float((noise(like, 1) * other).mean())) < 5 / 2000**0.5


def test_complex_noise_has_unit_power_in_equal_parts():
    drawn = Noise(0)(torch.empty(1, 20000, dtype=torch.complex64), 0)
    assert float(drawn.abs().square().mean()) == pytest.approx(1, abs=0.03)
    assert float(drawn.real.square().mean()) == pytest.approx(0.5, abs=0.03)


def test_replay_gives_recorded_draws_and_says_when_they_end():
    replay = Noise.replay([torch.ones(1, 2), torch.zeros(1, 2)])
    like = torch.empty(1, 2, dtype=torch.float64)
    assert replay(like, 0).dtype == torch.float64
    assert float(replay(like, 1).sum()) == 0
    with pytest.raises(SamplerError, match="before step 2"):
        replay(like, 2)
