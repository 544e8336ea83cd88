"""Noising processes and predictions: identities that hold for every path."""

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion import schedules
from engine.diffusion.denoiser import Pred

B0, B1 = 0.1, 20.0
ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LOG_A = -(np.linspace(0.0, 5.3, 101) ** 2) / 5.3 - 6e-5

PATHS = {
    "vp": schedules.vp(B0, B1),
    "subvp": schedules.subvp(B0, B1),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "trigonometric": schedules.trigonometric(),
    "ouve": schedules.ouve(),
    "mean_reverting": schedules.mean_reverting(LOG_A, 50 / 255),
    "alphas_cumprod": schedules.from_alphas_cumprod(ALPHAS),
}


def inner_times(path: schedules.Path) -> np.ndarray:
    """Times within the path that lie on no point of a table."""
    return path.t_min + (path.t_max - path.t_min) * np.array([0.013, 0.1113, 0.3137, 0.7013, 0.93])


def beta(t: np.ndarray) -> np.ndarray:
    return B0 + t * (B1 - B0)


PUBLISHED_G2 = {
    "vp": beta,
    "subvp": lambda t: beta(t) * -np.expm1(-2 * B0 * t - (B1 - B0) * t**2),
    "ve": lambda t: (0.01 * 5000**t) ** 2 * 2 * np.log(5000),
    "ouve": lambda t: 0.05**2 * 10 ** (2 * t) * 2 * np.log(10),
    "edm": lambda t: 2 * t,
    "flow": lambda t: 2 * t / (1 - t),
}


@pytest.mark.parametrize("name", PUBLISHED_G2)
def test_diffusion_from_a_and_s_equals_the_published_one(name):
    path, t = PATHS[name], inner_times(PATHS[name])
    np.testing.assert_allclose(path.diffusion_squared(t), PUBLISHED_G2[name](t), rtol=1e-9)


def test_diffusion_of_the_mean_reverting_path_is_two_theta_level_squared():
    path, t = PATHS["mean_reverting"], np.array([10.5, 50.5, 90.5])
    theta = -np.diff(LOG_A)[[10, 50, 90]]
    np.testing.assert_allclose(path.diffusion_squared(t), 2 * theta * (50 / 255) ** 2, rtol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_time_of_lambda_inverts_lambda_of_time(name):
    path = PATHS[name]
    t = inner_times(path)
    np.testing.assert_allclose(path.t_of_lam(path.lam(t)), t, rtol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_lambda_falls_and_the_clean_time_has_no_noise(name):
    path = PATHS[name]
    # flow is cut off at its end, where no signal is left and lambda is -inf
    times = np.linspace(path.t_min, path.t_max, 301)
    assert np.all(np.diff(path.lam(times)[:-1]) < 0)
    if path.t_zero is not None:
        assert path.s(path.t_zero) == 0


@pytest.mark.parametrize("name", PATHS)
def test_slopes_agree_with_differences(name):
    path = PATHS[name]
    t = inner_times(path)
    step = 1e-6 * (path.t_max - path.t_min)
    if name == "mean_reverting":
        t = np.floor(t) + 0.5  # away from the kinks of the table
    for function, slope in ((path.a, path.a_slope), (path.s, path.s_slope)):
        difference = (function(t + step) - function(t - step)) / (2 * step)
        np.testing.assert_allclose(slope(t), difference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["x0", "eps", "score", "v", "u"])
def test_prediction_round_trips_through_every_kind(name, kind):
    path = PATHS[name]
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    t = inner_times(path)
    a, s = (torch.as_tensor(level(t))[:, None] for level in (path.a, path.s))
    z = a * x0 + s * eps
    value = getattr(Pred(path, z, t, "x0", x0), kind)
    back = Pred(path, z, t, kind, value)
    # x0 from a nearly pure noise and eps from a nearly clean sample lose kappa digits
    worst = float(max(path.kappa(t).max(), 1 / path.kappa(t).min()))
    tolerance = 1e-12 if worst < 100 else 1e-14 * worst
    torch.testing.assert_close(back.x0, x0, rtol=0, atol=tolerance * 10)
    torch.testing.assert_close(back.eps, eps, rtol=0, atol=tolerance * 10)
    assert getattr(back, kind) is value


def test_velocity_is_the_probability_flow():
    """u = f z - g^2 score / 2 (Song et al. 2021, eq. 13)."""
    path, t = PATHS["vp"], 0.37
    z, eps = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pred = Pred(path, z, t, "eps", eps)
    flow = float(path.drift(t)) * z - float(path.diffusion_squared(t)) / 2 * pred.score
    torch.testing.assert_close(pred.u, flow, rtol=1e-12, atol=1e-12)


def test_prediction_of_noise_says_nothing_of_the_signal_where_there_is_none():
    z = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(SamplerError, match="only noise or only signal"):
        _ = Pred(schedules.flow(), z, 1.0, "eps", z).x0
    # the velocity of the straight path does: x0 = z - t u
    torch.testing.assert_close(Pred(schedules.flow(), z, 1.0, "u", 0.5 * z).x0, 0.5 * z)


def test_unknown_kind_is_named():
    with pytest.raises(SamplerError, match='"noise"'):
        Pred(PATHS["vp"], torch.ones(1, 2), 0.5, "noise", torch.ones(1, 2))


def test_discrete_path_meets_the_table_and_ends_clean():
    path = PATHS["alphas_cumprod"]
    times = np.array([0.0, 17.0, 999.0])
    np.testing.assert_allclose(path.a(times) ** 2, ALPHAS[[0, 17, 999]], rtol=1e-12)
    np.testing.assert_allclose(path.s(times) ** 2, 1 - ALPHAS[[0, 17, 999]], rtol=1e-10)
    assert path.a(-1.0) == 1


def test_zero_terminal_signal_is_lifted_and_a_rising_schedule_refused():
    assert schedules.from_alphas_cumprod([0.9, 0.5, 0.0]).a(2.0) == pytest.approx(2.0**-12)
    with pytest.raises(SamplerError, match="fall from clean to noisy"):
        schedules.from_alphas_cumprod([0.5, 0.6])
