"""Neural differential equations: ways back, gradients, paths, noise, formulas, bad input."""

import importlib.util
import math

import numpy as np
import pytest
import torch

from engine.core import rng
from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.core.job import Failed, Job
from engine.networks.neural_de import DRAWINGS, paths, sde, series, symbolic
from engine.networks.neural_de.brownian import BrownianInterval
from engine.networks.neural_de.drawing import crosses_itself, points_of, resampled

TARGET = "engine.networks.neural_de.algorithm"


def end_of(run_job, action: str, **params):
    return run_job(Job(f"{TARGET}:{action}", params, seed=0))[-1].result


# ---------------------------------------------------------------------- drawn curves


@pytest.mark.slow
def test_a_drawn_curve_is_learnt_and_its_start_comes_back_in_every_bit(run_job):
    shown = end_of(run_job, "run", rounds=60, steps=32, width=16)
    by = {way.method: way for way in shown.ways}
    assert by["heun"].error > 1e-6
    assert by["reversible_heun"].error < 1e-12
    assert by["on_grid"].error == 0
    assert by["on_grid"].start == by["on_grid"].returned
    assert by["on_grid"].trip.exactness is Exactness.BITWISE
    assert shown.losses[-1] < shown.losses[0] / 10
    assert len(shown.weights) > 1000


@pytest.mark.parametrize(("name", "crosses"), [("spiral", False), ("figure eight", True)])
def test_a_curve_that_crosses_itself_is_given_the_time(run_job, name: str, crosses: bool):
    assert crosses_itself(resampled(points_of(DRAWINGS[name]), 64)) is crosses
    shown = end_of(run_job, "run", drawing=DRAWINGS[name], rounds=10, steps=16, width=8)
    assert shown.knows_time is shown.crosses


# ---------------------------------------------------------------------- stability


@pytest.mark.slow
def test_a_dissipative_field_explodes_and_a_small_c_holds(run_job):
    shown = end_of(run_job, "retrace", field="decay", rate=5.0, end=10.0, steps=100, c=0.5)
    by = {way.method: way for way in shown.ways}
    assert by["heun"].left_at is None
    assert by["reversible_heun"].left_at < 5
    assert by["mccallum_foster"].left_at is None
    assert any("left all bounds" in note for note in shown.notes)
    forward = {pull.c: pull.forward_error for pull in shown.pulls}
    assert math.isinf(forward[1.0])
    assert forward[0.5] < 1e-8


@pytest.mark.slow
def test_c_below_one_pays_on_the_way_back(run_job):
    shown = end_of(run_job, "retrace", steps=200)
    back = {pull.c: pull.return_error for pull in shown.pulls}
    assert back[1.0] < 1e-12
    assert back[0.9] > 1e3 * back[1.0]
    assert back[0.5] > 1e3 * back[0.9]


# ---------------------------------------------------------------------- gradients


@pytest.mark.slow
def test_four_ways_to_a_gradient(run_job):
    shown = end_of(run_job, "gradients", most=64, batch=4)
    at = {(p.method, p.steps): p for p in shown.points}
    assert at["reversible", 16].kept_bytes == at["reversible", 64].kept_bytes
    assert at["plain", 64].kept_bytes > 3 * at["plain", 16].kept_bytes
    assert at["checkpoint", 64].error == 0
    assert at["reversible", 64].error < 1e-12
    ratio = at["adjoint", 16].error / at["adjoint", 64].error
    assert 8 < ratio < 32  # falls like h^2
    assert [at[m, 64].evaluations for m in ("plain", "reversible", "adjoint")] == [65, 130, 256]


@pytest.mark.slow
def test_a_damped_field_spoils_the_solve_and_not_the_gradient_of_the_solve(run_job):
    shown = end_of(run_job, "gradients", most=64, batch=2, rate=2.0, sweep="time")
    last = {p.method: p for p in shown.points if p.steps == 64}
    assert last["reversible"].error < 1e-9
    assert last["reversible"].truth_error > 100 * last["adjoint"].truth_error
    assert any("parasitic" in note for note in shown.notes)


# ---------------------------------------------------------------------- paths


def test_a_later_observation_changes_nothing_before_the_last_one():
    ts = torch.linspace(0, 1, 9, dtype=torch.float64)
    x = rng.noise((9, 2), rng.generator(0), dtype=torch.float64)
    other = x.clone()
    other[7:] += 5
    q = torch.linspace(0, float(ts[6]), 40, dtype=torch.float64)
    assert torch.equal(paths.Hermite(ts, x).at(q), paths.Hermite(ts, other).at(q))


def test_torchcde_draws_the_same_path():
    library = pytest.importorskip("torchcde")
    ts = torch.tensor([0.0, 0.3, 0.4, 0.9, 1.5], dtype=torch.float64)
    x = rng.noise((3, 5, 2), rng.generator(1), dtype=torch.float64)
    x[0, 2, 1] = x[1, 3:, 0] = math.nan
    made = library.hermite_cubic_coefficients_with_backward_differences(x, ts)
    theirs = library.CubicSpline(made, ts)
    ours = paths.Hermite(ts, paths.filled(ts, x))
    for t in torch.linspace(0, 1.5, 16, dtype=torch.float64):
        assert torch.allclose(ours.at(t[None])[:, 0], theirs.evaluate(t), atol=1e-12)
        assert torch.allclose(ours.slope_at(t[None])[:, 0], theirs.derivative(t), atol=1e-12)


def test_windows_of_the_test_share_no_row_with_those_of_the_training():
    rows = series.carbon_dioxide()
    assert len(rows.values) == 2284
    assert int(np.isnan(rows.values).sum()) == 59
    train, test = series.split_of(rows)
    assert max(train) + series.AHEAD < min(test) - series.LENGTH + 1


@pytest.mark.slow
def test_both_forecasters_learn(run_job):
    shown = end_of(run_job, "series", rounds=12, width=8)
    by = {one.name: one for one in shown.learners}
    assert by["controlled"].errors[-1] < by["controlled"].errors[0]
    assert 0.8 < by["controlled"].parameters / by["recurrent"].parameters < 1.25


# ---------------------------------------------------------------------- noise


def test_a_question_asked_twice_has_one_answer_whatever_is_kept():
    path = BrownianInterval(1.0, (3,), seed=0, cached=2)
    asked = [(0.1, 0.4), (0.35, 0.9), (0.0, 1.0), (0.5, 0.55)]
    first = [path(*pair) for pair in asked]
    again = [path(*pair) for pair in reversed(asked)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    whole = path(0.0, 0.1) + path(0.1, 0.4) + path(0.4, 1.0)
    assert torch.allclose(whole, first[2], atol=1e-14)
    assert path.kept <= 2


def test_increments_have_the_variance_of_their_length():
    path = BrownianInterval(2.0, (20_000,), seed=1)
    path(0.5, 1.7)
    for start, end in ((0.0, 2.0), (0.5, 1.0), (0.9, 1.1)):
        assert float(path(start, end).var()) == pytest.approx(end - start, rel=0.05)


def test_the_order_of_the_first_questions_matters(run_job):
    shown = end_of(run_job, "brownian", levels=5, cached=8)
    assert shown.repeat_error == 0
    assert shown.additivity_error < 1e-14
    assert shown.order_difference > 1e-3
    assert shown.kept <= 8


def test_the_process_has_the_moments_of_its_equation():
    x = sde.ornstein_uhlenbeck(20_000, rng.generator(0))
    t = torch.linspace(0, sde.END, sde.POINTS)
    ratio = sde.RISE / sde.PULL
    mean = ratio * (t - 1 / sde.PULL) + ratio / sde.PULL * (-sde.PULL * t).exp()
    keep = (-2 * sde.PULL * t).exp()
    variance = keep + sde.NOISE**2 / (2 * sde.PULL) * (1 - keep)
    assert torch.allclose(x.mean(0), mean, atol=0.05)
    assert torch.allclose(x.var(0), variance, rtol=0.05)


@pytest.mark.slow
def test_the_game_clips_its_critic_and_repeats():
    found = []
    for _ in range(2):
        game = sde.Game.begun(3)
        found.append([game.step(8) for _ in range(2)])
        assert game.critic.largest_weight() <= 1 + 1e-6
    assert found[0] == found[1]


# ---------------------------------------------------------------------- formulas


def test_sparse_regression_finds_the_terms():
    y = rng.noise((200, 2), rng.generator(0), dtype=torch.float64)
    slopes = torch.stack([y[:, 0] - y[:, 0] * y[:, 1], 0.5 * y[:, 1] - 2.0], 1)
    found = symbolic.Polynomial(symbolic.sparse(y, slopes))
    assert found.terms == 4
    assert set(found.words()[0].replace(" ", "").split("1*")) == {"", "x-", "x*y"}


def test_a_prefix_expression_is_multiplied_out():
    text, latex = symbolic.simplified("sub(x, mul(0.5, add(x, y)))")
    assert text == "0.5*x - 0.5*y"
    assert "0.5" in latex
    back = symbolic.polynomial_of([text, "x^2*y"])
    assert back.terms == 3


@pytest.mark.slow
def test_an_oscillator_is_read_back(run_job):
    shown = end_of(run_job, "formula")
    assert shown.refitted < 0.05
    assert shown.terms <= 6


def test_a_reader_that_is_not_installed_is_named(run_job, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    end = run_job(Job(f"{TARGET}:formula", {"reader": "gplearn"}, 0), may_fail=True)[-1]
    assert "not installed" in end.message


@pytest.mark.slow
def test_gplearn_reads_a_field(run_job):
    pytest.importorskip("gplearn")
    shown = end_of(run_job, "formula", reader="gplearn", rounds=60, refit=5)
    assert shown.terms >= 2


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("action", "params", "match"),
    [
        ("run", {"drawing": ""}, "too short"),
        ("run", {"drawing": "0 0"}, "One observation"),
        ("run", {"drawing": "0 0; 1"}, "no list of points"),
        ("run", {"drawing": "0 0; nan 1"}, "between"),
        ("run", {"drawing": "0 0; 9 9"}, "between"),
        ("run", {"drawing": "0 0; 0.001 0"}, "too short"),
        ("retrace", {"field": "decay", "rate": 50.0, "end": 20.0, "steps": 100}, "h λ = 10"),
        ("retrace", {"steps": 0}, "steps"),
        ("gradients", {"rate": -1}, "rate"),
        ("series", {"rows": "0 1\n0 2"}, "must increase"),
        ("series", {"rows": "0\n1 2\n2 3"}, "first row"),
        ("series", {"rows": "0 1"}, "make no path"),
        ("series", {"rows": "0 1\n1 two"}, "Row 2"),
        ("series", {"rows": "0 1\n1 inf"}, "infinite"),
        ("series", {"rows": "\n".join(f"{i} 1" for i in range(20))}, "too few"),
        ("series", {"rows": "\n".join(f"{i} 1" for i in range(200))}, "equal"),
        ("brownian", {"levels": 0}, "levels"),
        ("generate", {"batch": 0}, "batch"),
        ("formula", {"source": "weather"}, "weather"),
    ],
)
def test_bad_settings_end_in_a_sentence(run_job, action: str, params: dict, match: str):
    end = run_job(Job(f"{TARGET}:{action}", params, seed=0), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert match in end.message


@pytest.mark.parametrize("pair", [(0.5, 0.5), (0.6, 0.2), (-1.0, 0.5), (0.5, 2.0)])
def test_intervals_that_do_not_increase_are_refused(pair):
    with pytest.raises(BadInput, match="no interval"):
        BrownianInterval(1.0, seed=0)(*pair)
