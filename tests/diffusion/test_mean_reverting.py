"""MR sampler and IR-SDE through the sampler interface: published arrays, identities, refusals."""

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion.denoiser import Model
from engine.diffusion.grids import timesteps, uniform_lam
from engine.diffusion.mean_reverting import GRIDS, Schedule, mrs_grid, released_grid
from engine.diffusion.noise import Noise
from engine.diffusion.solvers import find, run, solve

PATH, RELEASED = Schedule().path, Schedule().released_path
KINDS = {"noise": "eps", "data": "x0", "velocity": "v"}


def network(x, t, mu):
    """The analytic network of the golden cases."""
    return torch.tanh(0.9 * (x - mu) + 0.2) + 0.1 * torch.sin(0.05 * t).reshape(-1, 1, 1, 1)


def model_of(mu, kind="eps"):
    return Model(network, PATH, kind, "t", anchor=mu, cond={"mu": mu})


# ---------------------------------------------------------------------- published arrays


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_tables_equal_the_published_ones(golden, kind):
    arrays, schedule = golden("mrs_schedules"), Schedule(kind)
    path, times = schedule.path, np.arange(101.0)
    found = {
        "thetas": schedule.thetas,
        "dt": schedule.dt,
        "alpha": path.a(times),
        "sigma_bar": path.s(times),
        "g": np.sqrt(2 * schedule.thetas) * schedule.level,
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, arrays[f"{kind}_{name}"], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(path.lam(times), arrays[f"{kind}_lambda"], atol=1e-4)
    # g of the path, per table step, is that of the table
    np.testing.assert_allclose(
        np.sqrt(path.diffusion_squared(times[1:])),
        arrays[f"{kind}_g"][1:] * np.sqrt(schedule.dt),
        atol=1e-6,
    )


@pytest.mark.golden
@pytest.mark.parametrize("case", range(32))
def test_every_published_solver_case(golden, case):
    arrays = golden("mrs_solver")
    name, kind, steps, grid = published_case(arrays, case)
    np.testing.assert_allclose(grid.times, arrays[f"c{case}_timesteps"], atol=1e-4)
    mu, start, wanted = (torch.from_numpy(arrays[f"c{case}_{key}"]) for key in ("mu", "xT", "out"))
    model = model_of(mu, kind)
    options = {"taper": True} if find(name).order > 1 else {}
    noise = Noise.replay(list(torch.from_numpy(arrays[f"c{case}_noises"])))
    found = run(name, model, start - mu, grid, noise, **options) + mu
    assert model.nfe == steps
    scale = float(wanted.abs().max())
    # the published code computes its scalars in float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * scale)


def published_case(arrays, case):
    """Solver name, kind of prediction, steps and grid of a golden case."""
    text = {
        key: str(arrays[f"cfg_{key}"][case])
        for key in ("solver_type", "parameterization", "fit_target", "time_schedule")
    }
    order, steps = (int(arrays[f"cfg_{key}"][case]) for key in ("order", "num_sample_steps"))
    name = f"mrs_{text['solver_type']}_{text['parameterization'][0]}_{order}"
    grid = mrs_grid(PATH, text["time_schedule"], steps)
    return name, KINDS[text["fit_target"]], steps, grid


@pytest.mark.golden
def test_one_table_step_of_the_released_baselines(golden):
    arrays = golden("mrs_baseline_steps")
    mu, x = torch.from_numpy(arrays["mu"]), torch.from_numpy(arrays["x"])
    for i, t in enumerate(arrays["t"]):
        noise = torch.from_numpy(arrays["noise"][i])
        grid = timesteps([float(t), float(t) - 1])
        for solver, key, drawn in (
            ("ancestral", "posterior", noise),
            ("posterior_released", "posterior", noise),
            ("euler_maruyama", "euler_sde", -noise),  # the release subtracts its noise
            ("euler_maruyama_released", "euler_sde", -noise),
            ("euler_t", "euler_ode", noise),
        ):
            found = run(solver, model_of(mu), x - mu, grid, Noise.replay([drawn])) + mu
            # the release takes 1 - exp(-2 theta dt) in float32, which leaves four digits near t = 0
            atol = 5e-5 if key == "posterior" and t <= 2 else 1e-5
            np.testing.assert_allclose(
                found, arrays[key][i], rtol=0, atol=atol, err_msg=f"{solver} at {t}"
            )


# ---------------------------------------------------------------------- identities


def state(seed=0, shape=(2, 3, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(shape, dtype=torch.float64, generator=generator)


def test_first_order_data_and_noise_flow_are_ddim():
    mu, z = state(1), state(2)
    grid = mrs_grid(PATH, "linspace", 8)
    ends = [run(name, model_of(mu), z, grid) for name in ("mrs_ode_d_1", "mrs_ode_n_1", "ddim")]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(ends[0], ends[2], rtol=0, atol=1e-12)


def test_sde_d_1_is_posterior_sampling_with_a_stride():
    """Against the posterior's own coefficients, which the solver does not contain."""
    mu, z, xi = state(1), state(2), state(3)
    times = [60.0, 37.0]
    found = run("mrs_sde_d_1", model_of(mu), z, timesteps(times), Noise.replay([xi]))
    b, c = (float(PATH.a(t)) for t in times)
    a = b / c
    x0 = model_of(mu)(z, times[0]).x0
    rest = 1 - b**2
    wanted = a * (1 - c**2) / rest * z + c * (1 - a**2) / rest * x0
    wanted = wanted + PATH.prior_std * np.sqrt((1 - a**2) * (1 - c**2) / rest) * xi
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_released_posterior_equals_the_strided_one_only_when_every_time_is_visited():
    mu, z = state(1), PATH.prior_std * state(2)
    for steps, equal in ((100, True), (10, False)):
        released = run("posterior_released", model_of(mu), z, released_grid(PATH, steps), Noise(3))
        strided = run("ancestral", model_of(mu), z, mrs_grid(PATH, "linspace", steps), Noise(3))
        assert torch.allclose(released, strided, atol=1e-10) is equal


def test_tables_read_apart_agree_at_their_entries_and_contradict_between():
    at, between = np.arange(101.0), np.arange(100.0) + 0.5
    for read in ("a", "s", "lam", "v_scale"):
        ours, theirs = getattr(PATH, read), getattr(RELEASED, read)
        np.testing.assert_allclose(ours(at), theirs(at), rtol=1e-12)
    tied = np.log(RELEASED.a(between)) - np.log(RELEASED.s(between))
    assert 1e-4 < np.abs(RELEASED.lam(between) - tied).max() < 0.1
    np.testing.assert_allclose(RELEASED.t_of_lam(RELEASED.lam(between)), between, atol=1e-9)
    assert np.abs(RELEASED.lam(between) - PATH.lam(between)).max() > 1e-4


def test_an_estimate_that_does_not_move_is_followed_alike_by_every_order():
    mu, z = state(1), state(2)

    def still(x, t, mu):
        return mu + 0.25

    model = Model(still, PATH, "x0", "t", anchor=mu, cond={"mu": mu})
    ends = [run(f"mrs_ode_d_{k}", model, z, mrs_grid(PATH, "linspace", 12)) for k in (1, 2, 3)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(ends[0], ends[2], rtol=0, atol=1e-12)


def error_on_gaussian(name: str, steps: int, spread: float = 0.1) -> float:
    """How far a solver ends from the end of the flow, which is known here in closed form."""
    z = state(4)
    mu = torch.zeros_like(z)

    def exact(x, t, mu):
        a, s = float(PATH.a(float(t[0]))), float(PATH.s(float(t[0])))
        return s * (x - mu) / (a**2 * spread**2 + s**2)

    model = Model(exact, PATH, "eps", "t", anchor=mu, cond={"mu": mu})
    end = run(name, model, z, uniform_lam(PATH, steps))
    a, s = PATH.a(np.array([100.0, 0.0])), PATH.s(np.array([100.0, 0.0]))
    marginal = np.sqrt(a**2 * spread**2 + s**2)
    return float((end - z * marginal[1] / marginal[0]).square().mean().sqrt())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("parametrisation", ["d", "n"])
def test_slopes_are_the_orders(order, parametrisation):
    name = f"mrs_ode_{parametrisation}_{order}"
    slope = np.log2(error_on_gaussian(name, 100) / error_on_gaussian(name, 200))
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("spread", [0.1, 1.0])
@pytest.mark.parametrize("parametrisation", ["d", "n"])
def test_the_error_of_order_3_as_released_is_a_share_of_that_of_order_2(parametrisation, spread):
    """As the lesson says; of uniform steps order 2 leaves out 5/12 of the bend, and this 1/12."""
    third, second = (f"mrs_ode_{parametrisation}_{order}" for order in (3, 2))
    share = {
        steps: error_on_gaussian(third, steps, spread) / error_on_gaussian(second, steps, spread)
        for steps in (20, 100)
    }
    assert share[100] == pytest.approx(0.2, abs=0.01)
    assert share[20] == pytest.approx(0.29, abs=0.025)


def test_moving_anchor_and_state_together_moves_the_result():
    mu, z = state(1), state(2)
    shifted = run("mrs_ode_d_2", model_of(mu + 5), z, mrs_grid(PATH, "linspace", 10))
    torch.testing.assert_close(
        shifted, run("mrs_ode_d_2", model_of(mu), z, mrs_grid(PATH, "linspace", 10))
    )


# ---------------------------------------------------------------------- grids


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_every_spacing_falls_and_spends_what_it_says(name, steps):
    if name == "leading" and steps == 100:
        with pytest.raises(SamplerError, match="must fall"):
            mrs_grid(PATH, name, steps).check(PATH)
        return
    grid = mrs_grid(PATH, name, steps)
    model = model_of(state(1))
    run("ddim", model, state(2), grid)
    assert model.nfe == steps


def test_denoise_last_returns_the_clean_estimate_at_the_same_price():
    mu, z = state(1), state(2)
    model = model_of(mu)
    last = list(solve("ddim", model, z, mrs_grid(PATH, "linspace", 5, denoise_last=True)))[-1]
    assert model.nfe == 5
    assert last.z is last.x0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Schedule("square"), "no schedule"),
        (lambda: Schedule(eps=2.0), "not usable"),
        (lambda: mrs_grid(PATH, "random", 5), "no spacing"),
        (lambda: mrs_grid(PATH, "linspace", 5, lambda_min=6.0), "leaves no time"),
    ],
)
def test_what_cannot_be_used_is_refused(make, said):
    with pytest.raises(SamplerError, match=said):
        make()
