"""The exact world: its text, its true curves, orders, readings, guidance and flow maps."""

import math

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput
from engine.core.job import Job, finish
from engine.diffusion import grids
from engine.diffusion.denoiser import Pred
from engine.diffusion.mixture import Mixture
from engine.sampling.principles import (
    PROCESSES,
    READINGS,
    SOLVERS,
    TARGETS,
    WORLDS,
    flow_map,
    golden,
    guidance,
)
from engine.sampling.principles import algorithm as orders
from engine.sampling.principles.world import VP, modes_of, process_of, world_of
from tests.diffusion.closed_form import gaussian_flow

MODULE = "engine.sampling.principles.algorithm"


def result(run_job, action: str, seed: int = 0, **params):
    return run_job(Job(f"{MODULE}:{action}", params, seed))[-1].result


def drained(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def points(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- the text of a world


@pytest.mark.parametrize("text", WORLDS.values(), ids=WORLDS)
def test_ready_worlds_are_read_and_have_two_classes(text):
    modes = modes_of(text)
    assert {mode.label for mode in modes} == {"A", "B"}
    assert float(world_of(text).weights.sum()) > 0


def test_a_semicolon_ends_a_line_and_the_class_may_be_left_out():
    first, second = modes_of("1 0 0 .1; 2, -1, 1, 0.2, B")
    assert (first.label, second.weight, second.x, second.label) == ("A", 2, -1, "B")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0"),
        ("1 0 0", "Line 1"),
        ("1 0 0 .1\n1 nan 0 .1", "line 2"),
        ("1 0 0 inf", "variance"),
        ("1 0 0 0", "variance"),
        ("-1 0 0 .1", "weight"),
        ("1 9 0 .1", "x"),
        ("1 0 0 .1 <b>", "class"),
        ("one two three four", "numbers"),
        ("1 0 0 .1\n" * 33, "33"),
    ],
)
def test_a_bad_world_is_refused_with_the_line_and_an_example(text, said):
    with pytest.raises(BadInput, match=said) as refused:
        modes_of(text)
    assert refused.value.advice


# ---------------------------------------------------------------------- true curves and orders


@pytest.mark.golden
def test_every_golden_case_is_met():
    found = finish(golden.run(seed=0))
    assert len(found.cases) == 13
    for case in found.cases:
        assert case.error <= case.tolerance, case


@pytest.mark.parametrize("name", PROCESSES)
def test_true_curve_of_one_gaussian_is_the_closed_form(name):
    path, x = process_of(name), points(3)
    times = path.t_of_lam(np.array([-3.0, -1.0, 0.5, 3.0]))
    one = Mixture(
        torch.ones(1).double(), torch.tensor([[0.7, -0.2]]).double(), 0.3 * torch.ones(1).double()
    )
    states = drained(orders.reference(one, path, x * float(path.s(times[0])), times))
    for t, state in zip(times, states, strict=True):
        closed = gaussian_flow(states[0], path, times[0], t, mean=one.means[0], variance=0.3)
        torch.testing.assert_close(state, closed, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_errors_fall_and_nfe_is_what_the_network_counted(run_job):
    found = result(run_job, "run", solvers=["ddim", "unipc2", "rk4"], particles=4, most=64)
    for name in ("ddim", "unipc2", "rk4"):
        mine = [point for point in found.points if point.solver == name]
        assert [point.nfe for point in mine] == [4, 8, 16, 32, 64]
        assert mine[-1].error < mine[0].error / 4
    assert {one.solver: one.order for one in found.slopes} == {"ddim": 1, "unipc2": 3, "rk4": 4}
    assert found.truth.states.shape == (81, 4, 2)


def test_a_slope_is_the_power_of_a_made_up_fall():
    made = [orders.Point("heun", nfe, 3.0 * nfe**-2.0, 5.0 * nfe**-1.5) for nfe in (8, 16, 32)]
    (slope,) = orders.slopes(made)
    assert slope.slope == pytest.approx(2)
    assert slope.mean_slope == pytest.approx(1.5)


@pytest.mark.slow
def test_heun_is_worse_than_ddim_with_few_evaluations(run_job):
    found = result(run_job, "run", solvers=["heun", "ddim"], particles=16, most=8)
    few = {point.solver: point.error for point in found.points if point.nfe == 8}
    assert few["heun"] > few["ddim"]


@pytest.mark.slow
def test_equal_steps_in_time_cost_unipc_its_lead(run_job):
    last = {}
    for spacing in ("uniform_lam", "uniform_t"):
        found = result(run_job, "run", solvers=["unipc2"], particles=8, most=64, spacing=spacing)
        last[spacing] = found.points[-1].error
    assert last["uniform_t"] > 5 * last["uniform_lam"]


def test_neither_reading_nor_process_changes_the_curve():
    found = list(orders.one_curve(world_of(WORLDS["three modes"]), points(3), steps=6))
    assert len(found) == len(READINGS) + len(PROCESSES)
    for one in found:
        assert one.distance < 1e-11, one


# ---------------------------------------------------------------------- readings


@pytest.mark.parametrize("process", PROCESSES)
def test_readings_come_back_and_losses_are_one_loss(run_job, process):
    found = result(run_job, "views", process=process, reading="u", t=0.6)
    assert found.trips.max() < 1e-11
    assert [one.reading for one in found.losses] == list(READINGS)
    assert max(one.gap for one in found.losses) < 1e-9


def test_views_show_the_readings_of_the_state(run_job):
    found = result(run_job, "views", reading="eps", t=0.4, x=0.5, y=-0.5)
    world = world_of(WORLDS["three modes"])
    score = world.score(torch.tensor([[0.5, -0.5]]).double(), VP.a(0.4), VP.s(0.4))[0]
    by_name = dict(zip(READINGS, found.values, strict=True))
    np.testing.assert_allclose(by_name["score"], score, rtol=1e-12)
    pred = Pred(VP, torch.tensor([[0.5, -0.5]]).double(), 0.4, "score", score[None])
    np.testing.assert_allclose(by_name["u"], pred.u[0], rtol=1e-10)


# ---------------------------------------------------------------------- guidance


def test_divergence_of_the_score_is_the_trace_of_its_jacobian():
    world, x = world_of(WORLDS["three modes"]), points(4)
    found = guidance.score_divergence(world, x, 0.6, 0.5)
    for row, value in zip(x, found, strict=True):
        jacobian = torch.func.jacrev(lambda z: world.score(z[None], 0.6, 0.5)[0])(row)
        assert float(value) == pytest.approx(float(jacobian.trace()), rel=1e-9)


def test_without_guidance_the_flow_has_the_density_that_is_known(run_job):
    found = result(run_job, "guide", guidance_scale=1.0, particles=64, steps=24)
    assert found.divergence == found.plain
    assert abs(found.divergence) < 0.05
    assert found.classifier_gap < 1e-12


def test_guidance_overshoots_the_tilted_density(run_job):
    """The figures measured in one dimension, for classes N(-1, 1/4) and N(1, 1/4)."""
    found = result(run_job, "guide", of_class="B", guidance_scale=2.0, particles=400, steps=24)
    guided, tilted, _ = found.summaries
    assert (tilted.mean_x, tilted.std_x) == pytest.approx((1.036, 0.468), abs=0.002)
    assert (guided.mean_x, guided.std_x) == pytest.approx((1.328, 0.358), abs=0.06)
    assert found.interval[0] > 0.15


def test_a_class_that_is_not_there_is_refused(run_job):
    failed = run_job(Job(f"{MODULE}:guide", {"of_class": "Z"}, 0), may_fail=True)[-1]
    assert "A, B" in failed.advice


# ---------------------------------------------------------------------- flow maps


def test_a_jump_to_where_one_is_changes_nothing():
    net, x = flow_map.Net(0), points(5).float()
    torch.nn.init.normal_(net.weights[-2].data, generator=torch.Generator().manual_seed(0))
    log_t = torch.linspace(-3, 2, 5)
    assert torch.equal(net.jump(x, log_t, log_t), x)


def test_the_mean_flow_target_is_the_truth_where_g_is():
    """For one Gaussian g is known; the identity must give it back."""
    variance, mean = 0.3, torch.tensor([0.7, -0.2])

    def g(x, log_t, log_r):
        t, r = log_t.exp()[:, None], log_r.exp()[:, None]
        scale = torch.sqrt((variance + r**2) / (variance + t**2))
        end = mean + (x - mean) * scale
        return (end - r / t * x) / (1 - r / t)

    x, log_t = points(6).float(), torch.linspace(-1, 2, 6)
    log_r = log_t - torch.linspace(0.3, 2, 6)
    t2 = (2 * log_t).exp()[:, None]
    x0 = (variance * x + t2 * mean) / (variance + t2)
    found, wanted = flow_map.mean_flow_target(g, x, x0, log_t, log_r)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_training_lowers_the_error(run_job, target):
    found = result(run_job, "distil", target=target, steps=30, batch=64, world="1 0.5 0 0.1")
    assert np.isfinite(found.losses).all()
    assert found.errors[-1] < found.errors[0]
    assert found.parameters == 34434
    assert (found.two_calls is None) == (target == "consistency")


@pytest.mark.slow
def test_one_call_beats_four_of_ddim(run_job):
    found = result(run_job, "distil", steps=600)
    assert found.one_call < next(rival.error for rival in found.rivals if rival.nfe == 4)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("run", {"solvers": []}),
        ("run", {"solvers": ["magic"]}),
        ("run", {"nfe": 3}),
        ("run", {"particles": 10**9}),
        ("run", {"spacing": "random"}),
        ("views", {"t": 0.0}),
        ("views", {"process": "snow"}),
        ("guide", {"guidance_scale": -1.0}),
        ("guide", {"guidance_scale": math.inf}),
        ("distil", {"target": ""}),
        ("distil", {"steps": 0}),
        ("distil", {"batch": True}),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_advice(run_job, action, params):
    (failed,) = run_job(Job(f"{MODULE}:{action}", params, 0), may_fail=True)
    assert failed.advice
    assert not failed.error_id


def test_chosen_solvers_are_known_to_the_engine_by_the_same_order():
    for name, (_, order) in SOLVERS.items():
        assert orders.REGISTRY[name].order == order
    assert set(orders.GRIDS) == {"uniform_lam", "karras", "uniform_t"}
    assert grids.uniform_lam(VP, 4).steps == 4
