"""Solvers against exact worlds, published arrays and one another."""

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion import grids, schedules
from engine.diffusion.denoiser import Model
from engine.diffusion.mixture import Mixture, three_modes
from engine.diffusion.noise import Noise
from engine.diffusion.solvers import SOLVERS, find, run, solve
from tests.diffusion.closed_form import gaussian_flow

VP = schedules.vp()
DISCRETE = schedules.from_alphas_cumprod(
    np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
)
DETERMINISTIC = [name for name, entry in SOLVERS.items() if not entry.stochastic]
STOCHASTIC = [name for name, entry in SOLVERS.items() if entry.stochastic]


def world_of(arrays) -> Mixture:
    return Mixture(*(torch.from_numpy(arrays[name]) for name in ("w", "m", "v")))


def start(count: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, dtype=torch.float64, generator=generator)


# ---------------------------------------------------------------------- published arrays


@pytest.mark.golden
def test_exact_world_equals_golden(golden):
    arrays = golden("diffusion-principles_gmm")
    world, x = world_of(arrays), torch.from_numpy(arrays["x"])
    for i, t in enumerate(arrays["t"]):
        pred = world.model(VP)(x, t)
        found = {
            "alpha": VP.a(t),
            "sigma": VP.s(t),
            "score": pred.score,
            "x0": pred.x0,
            "eps": pred.eps,
            "v": pred.v,
            "logp": world.log_density(x, VP.a(t), VP.s(t)),
            "pf_velocity": pred.u,
            "rf_velocity": world.model(schedules.flow())(x, t).u,
        }
        for name, value in found.items():
            np.testing.assert_allclose(
                np.asarray(value), arrays[f"{i}_{name}"], rtol=1e-9, atol=1e-9, err_msg=name
            )


@pytest.mark.golden
@pytest.mark.parametrize(
    ("key", "solver"),
    [
        ("ddim", "ddim"),
        ("heun", "heun"),
        ("dpmpp2m", "dpmpp_2m"),
        ("dpmpp2m_exact", "dpmpp_2m_exact"),
        ("unipc2", "unipc2"),
        ("euler_t", "euler_t"),
    ],
)
def test_ten_steps_on_the_exact_world_equal_golden(golden, key, solver):
    arrays = golden("diffusion-principles_gmm")
    grid = grids.uniform_lam(VP, 10)
    np.testing.assert_allclose(grid.times, arrays["grid_logsnr"], atol=1e-12)
    model = world_of(arrays).model(VP)
    ended = run(solver, model, torch.from_numpy(arrays["xT"]), grid)
    np.testing.assert_allclose(ended.numpy(), arrays[f"out_{key}"], atol=1e-9)
    assert model.nfe == arrays[f"nfe_{key}"]


@pytest.mark.slow
@pytest.mark.golden
def test_fine_runge_kutta_meets_the_reference_solution(golden):
    arrays = golden("diffusion-principles_gmm")
    model, xT = world_of(arrays).model(VP), torch.from_numpy(arrays["xT"])
    for steps, end, key in ((640, 1e-3, "pf_end_t1e-3"), (200, 0.4, "pf_mid_t0.4")):
        ended = run("rk4", model, xT, grids.uniform_lam(VP, steps, end=end))
        np.testing.assert_allclose(ended.numpy(), arrays[key], atol=1e-8)


@pytest.mark.golden
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize(
    ("key", "solver"),
    [
        ("ddim", "ddim"),
        ("dpmpp2m", "dpmpp_2m"),
        ("dpmpp2m_heun", "dpmpp_2m_exact"),
        ("unipc", "unipc2"),
        ("euler", "euler"),
        ("heun", "heun"),
    ],
)
def test_own_solver_equals_the_diffusers_golden(golden, key, solver, steps):
    arrays = golden("diffusion-principles_schedulers")
    path = schedules.from_alphas_cumprod(arrays["alphas_cumprod"])
    times = np.unique(arrays[f"{key}_{steps}_timesteps"])[::-1]
    model, xT = world_of(arrays).model(path), torch.from_numpy(arrays["xT"])
    if key in ("euler", "heun"):
        # diffusers starts these at kappa noise, where z = a kappa noise = s noise
        xT = float(path.s(times[0])) * xT
    ended = run(solver, model, xT, grids.timesteps(np.append(times, -1.0)))
    np.testing.assert_allclose(ended.numpy(), arrays[f"{key}_{steps}"], atol=5e-6)
    assert model.nfe == arrays[f"{key}_{steps}_nfe"]


# ---------------------------------------------------------------------- order, closed forms

# The steps from which on the order shows, of those that hide it longest: the bend that the third
# orders take in part makes their slope 2.3 at first.
FINE = {"rk4": 256, "dpmpp_3m": 320, "dpm_3m_eps": 320}


# Type-checking the shapes makes an evaluation thirty times dearer here than in a run, so the truth
# is read from the golden file and the doublings are the earliest at which the order shows.
@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [pytest.param(n, marks=pytest.mark.slow) if n in FINE else n for n in DETERMINISTIC],
)
def test_measured_order_is_the_declared_one(golden, solver):
    arrays = golden("diffusion-principles_gmm")
    model, begun = world_of(arrays).model(VP), torch.from_numpy(arrays["xT"])
    truth, entry, errors = torch.from_numpy(arrays["pf_end_t1e-3"]), SOLVERS[solver], []
    fewest = FINE.get(solver, 160 if solver == "ddim" else 80)
    for nfe in (fewest, 2 * fewest):
        grid = grids.uniform_lam(VP, entry.steps_for(nfe, to_zero=False))
        errors.append(float((run(solver, model, begun, grid) - truth).norm(dim=1).mean()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(entry.order, abs=0.15)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize(
    "path", [VP, schedules.edm(), schedules.flow(), schedules.trigonometric(), DISCRETE]
)
def test_gaussian_world_ends_at_the_closed_form(solver, path):
    mean, variance = torch.tensor([0.7, -0.2], dtype=torch.float64), 0.3
    world = Mixture(torch.ones(1).double(), mean[None], torch.tensor([variance]).double())
    begin, end = path.t_of_lam(-3.0), path.t_of_lam(3.0)
    z = float(path.s(begin)) * start()
    ended = run(solver, world.model(path), z, grids.uniform_lam(path, 30, start=begin, end=end))
    truth = gaussian_flow(z, path, begin, end, mean=mean, variance=variance)
    # 30 steps of 0.2 in lambda: errors of about 0.2^order
    atol = 0.15 if SOLVERS[solver].order == 1 else 0.04
    torch.testing.assert_close(ended, truth, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_stochastic_solver_keeps_mean_and_spread_of_a_gaussian(solver):
    generator = torch.Generator().manual_seed(3)
    count, mean, variance = 4000, torch.tensor([0.7, -0.2], dtype=torch.float64), 0.3

    def batch_noise(like, step, role="step"):
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    world = Mixture(torch.ones(1).double(), mean[None], torch.tensor([variance]).double())
    begin, end = (float(VP.t_of_lam(lam)) for lam in (-3.0, 3.0))
    a, s = (float(level(begin)) for level in (VP.a, VP.s))
    std = (a**2 * variance + s**2) ** 0.5
    grid = grids.uniform_lam(VP, 100, start=begin, end=end)
    z = a * mean + std * start(count)
    ended = run(solver, world.model(VP), z, grid, batch_noise)
    a, s = (float(level(end)) for level in (VP.a, VP.s))
    std = (a**2 * variance + s**2) ** 0.5
    # three standard errors, and the bias of 100 steps
    torch.testing.assert_close(ended.mean(0), a * mean, rtol=0, atol=3 * std / count**0.5 + 0.004)
    expected = torch.full((2,), std, dtype=torch.float64)
    torch.testing.assert_close(ended.std(0), expected, rtol=3 / (2 * count) ** 0.5 + 0.01, atol=0)


def test_heun_is_worse_than_ddim_below_sixteen_evaluations(golden):
    arrays = golden("diffusion-principles_gmm")
    model, begun = world_of(arrays).model(VP), torch.from_numpy(arrays["xT"])
    truth = torch.from_numpy(arrays["pf_end_t1e-3"])
    ddim, heun = (
        float((run(solver, model, begun, grids.uniform_lam(VP, steps)) - truth).norm(dim=1).mean())
        for solver, steps in (("ddim", 8), ("heun", 4))
    )
    assert heun > ddim


# ---------------------------------------------------------------------- what must be equal


def test_all_paths_share_their_trajectories():
    """Equal lambda, samples scaled by a: a change of path changes no DDIM step."""
    world = three_modes()
    lams = np.linspace(-3, 4, 9)
    ended = []
    for path in (VP, schedules.edm(), schedules.flow(), schedules.subvp()):
        times = path.t_of_lam(lams)
        z = start() * float(path.a(times[0]))
        out = run("dpmpp_2m", world.model(path), z, grids.timesteps(times))
        ended.append(out / float(path.a(times[-1])))
    for other in ended[1:]:
        torch.testing.assert_close(other, ended[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("to_zero", [False, True])
def test_ancestral_is_ddim_with_full_noise(to_zero):
    grid = grids.uniform_lam(VP, 12, to_zero=to_zero)
    model = three_modes().model(VP)
    with_eta = run("ddim", model, start(), grid, Noise(5), eta=1.0)
    torch.testing.assert_close(with_eta, run("ancestral", model, start(), grid, Noise(5)))


def test_first_order_on_noise_and_on_data_agree():
    grid = grids.uniform_lam(VP, 2)
    model = three_modes().model(VP)
    once = grids.timesteps(grid.times[:2])
    data, noise = (run(name, model, start(), once) for name in ("dpmpp_2m", "dpm_2m_eps"))
    torch.testing.assert_close(data, noise)
    torch.testing.assert_close(data, run("ddim", model, start(), once))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_ends_equal_alone_and_in_a_batch(solver):
    grid, model = grids.uniform_lam(VP, 7), three_modes().model(VP)
    batch = run(solver, model, start(5), grid, Noise(2))
    alone = run(solver, model, start(5)[3:4], grid, Noise(2, first=3))
    torch.testing.assert_close(batch[3:4], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_columns_of_a_grid_equal_the_shared_grid(solver):
    shared = grids.uniform_lam(VP, 7)
    columns = grids.timesteps(np.repeat(shared.times[:, None], 4, 1))
    model = three_modes().model(VP)
    torch.testing.assert_close(
        run(solver, model, start(4), columns, Noise(2)),
        run(solver, model, start(4), shared, Noise(2)),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_shifted_anchor_shifts_the_result(solver):
    """The network sees x = y + z; a world moved by y, and the same world at 0, agree in z."""
    y = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    world = three_modes()
    net = world.model(VP).net
    moved = Model(lambda x, label: net(x - y, label), VP, anchor=y)
    grid = grids.uniform_lam(VP, 7)
    plain = run(solver, world.model(VP), start(4), grid, Noise(2))
    torch.testing.assert_close(run(solver, moved, start(4), grid, Noise(2)), plain)


# a step of the reverse equation is no projection
REVERSE = ("euler_maruyama", "reverse_diffusion")


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in REVERSE])
@pytest.mark.parametrize("path", [VP, schedules.edm(), DISCRETE])
def test_last_step_without_noise_gives_exactly_the_clean_estimate(solver, path):
    grid = grids.karras(path, 6, to_zero=True)
    z = start(4) * (path.t_max if path.name == "edm" else 1.0)
    *_, last = solve(solver, three_modes().model(path), z, grid, Noise(1))
    assert torch.equal(last.z, last.x0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_counter_equals_the_calls_and_the_declared_evaluations(solver):
    calls = []
    net = three_modes().model(VP).net

    def counted(x, label):
        calls.append(len(x))
        return net(x, label)

    entry = SOLVERS[solver]
    for to_zero in (False, True):
        calls.clear()
        model = Model(counted, VP)
        grid = grids.uniform_lam(VP, 6, to_zero=to_zero)
        *_, last = solve(solver, model, start(3), grid, Noise(1))
        assert len(calls) == model.nfe == last.nfe == entry.evals(6, to_zero=to_zero)
        assert model.rows == sum(calls)
        assert entry.steps_for(last.nfe, to_zero=to_zero) == 6


# ---------------------------------------------------------------------- stopping, hooks, ends


@pytest.mark.parametrize("solver", SOLVERS)
def test_stopping_after_any_step_leaves_no_state(solver):
    model, grid = three_modes().model(VP), grids.uniform_lam(VP, 4)
    whole = [step.z for step in solve(solver, model, start(3), grid, Noise(1))]
    for stop in range(4):
        for step in solve(solver, model, start(3), grid, Noise(1)):
            if step.i == stop:
                break
    again = [step.z for step in solve(solver, model, start(3), grid, Noise(1))]
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_hook_changes_the_state_that_is_gone_on_from(solver):
    model = three_modes().model(VP)
    grid = grids.uniform_lam(VP, 5)
    seen = list(
        solve(solver, model, start(3), grid, Noise(1), hook=lambda step: torch.zeros_like(step.z))
    )
    # from a state of zeros the clean estimate does not depend on the start
    torch.testing.assert_close(seen[3].x0, seen[3].x0[:1].expand(3, 2))


def test_final_x0_costs_one_evaluation_and_final_mean_drops_the_noise():
    model = three_modes().model(VP)
    clean = list(solve("ddim", model, start(), grids.uniform_lam(VP, 4, final="x0")))
    assert clean[-1].nfe == 5
    torch.testing.assert_close(clean[-1].z, model(clean[-2].z, 1e-3).x0)
    *_, last = solve("ancestral", model, start(), grids.uniform_lam(VP, 4, final="mean"), Noise(0))
    assert torch.equal(last.z, last.mean)


def test_float32_and_complex_states_keep_their_format():
    def net(x, label):
        return 0.3 * x

    for dtype in (torch.float32, torch.complex64):
        model = Model(net, schedules.ouve(), "eps")
        grid = grids.uniform_lam(schedules.ouve(), 5)
        for solver in SOLVERS:
            ended = run(solver, model, start(3).to(dtype), grid, Noise(0))
            assert ended.dtype == dtype


# ---------------------------------------------------------------------- what is refused


def test_unknown_solver_names_those_there_are():
    with pytest.raises(SamplerError, match=r'"warp"\. Choose ddim'):
        find("warp")
    assert find("mrs_ode_d_2").name == "dpmpp_2m_exact"


def test_missing_noise_is_refused():
    with pytest.raises(SamplerError, match="draws noise"):
        next(solve("ancestral", three_modes().model(VP), start(), grids.uniform_lam(VP, 3)))


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_its_range_is_refused(eta):
    grid = grids.uniform_lam(VP, 3)
    with pytest.raises(SamplerError, match="eta"):
        next(solve("ddim", three_modes().model(VP), start(), grid, Noise(0), eta=eta))


def test_too_few_evaluations_are_refused_with_the_least():
    with pytest.raises(SamplerError, match="at least 4 network evaluations, got 3"):
        SOLVERS["rk4"].steps_for(3, to_zero=False)
    assert SOLVERS["heun"].steps_for(10, to_zero=True) == 5


def test_numbers_out_of_range_name_solver_step_and_time():
    def net(x, label):
        return torch.full_like(x, torch.inf)

    with pytest.raises(SamplerError, match=r"DDIM left the range of numbers by step 2, t = 0\.1"):
        run("ddim", Model(net, VP), start(), grids.timesteps([1.0, 0.5, 0.1]))


@pytest.mark.parametrize(
    ("weights", "variances"), [([1.0], [0.0]), ([-1.0], [1.0]), ([0.0], [1.0])]
)
def test_unsound_mixture_is_refused(weights, variances):
    from engine.core.errors import BadInput

    with pytest.raises(BadInput):
        Mixture(
            torch.tensor(weights, dtype=torch.float64),
            torch.zeros(1, 2, dtype=torch.float64),
            torch.tensor(variances, dtype=torch.float64),
        )
