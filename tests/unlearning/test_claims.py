"""What the panels of knowledge and time say, on the shipped models: claims and controls."""

import pytest

from engine.core.job import Job
from engine.unlearning.restor import algorithm as restor
from engine.unlearning.ununlearning import algorithm as ununlearning

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def restored():
    """The run that the panel of RESTOR opens with."""
    from engine.core.job import finish

    return finish(restor.run(seed=0, beside=("ga", "kl")))


def test_npo_holds_where_gradient_ascent_and_kl_lose_the_truth_again(restored):
    ends = {c.method: c.last.standing.truths.rate for c in restored.courses}
    assert ends["npo"] >= ends["ga"] >= ends["kl"]
    best = max(p.standing.truths.rate for c in restored.courses[2:] for p in c.points)
    assert best > ends["kl"]


def test_npo_leaves_fewer_than_half_of_the_lies_of_the_control(restored):
    lies = {c.method: c.last.standing.lies.rate for c in restored.courses}
    assert lies["npo"] <= 0.1
    assert 2 * lies["npo"] <= lies["retain_only"]


def test_the_control_restores_most_truths_by_itself(restored):
    truths = {c.method: c.last.standing.truths.rate for c in restored.courses}
    assert truths["retain_only"] > restored.corrupted.truths.rate + 0.2


def test_without_a_retain_term_nothing_stays_restored(run_job):
    job = Job(f"{restor.__name__}:run", {"with_retain": False, "beside": ["ga"]}, 0)
    for course in run_job(job)[-1].result.courses:
        if course.method != "retain_only":
            assert course.last.standing.truths.rate < 0.1


def test_hints_bring_back_what_was_exactly_unlearned(run_job):
    shown = run_job(Job(f"{ununlearning.__name__}:run", {}, 0))[-1].result
    by = {curve.key: curve for curve in shown.curves}
    own, ceiling = by["name"].p_true, by["ceiling"].p_true
    assert own[0] == pytest.approx(ceiling[0], abs=0.08)
    assert own[4] >= 2 * own[0]
    assert by["alias"].p_true[4] >= 0.8
    assert min(by["full"].p_true) > 0.9
    exact = next(corpus for corpus in shown.corpora if "exact" in corpus.title.lower())
    assert exact.mentions == 0


def test_models_that_never_saw_a_property_twice_do_not_repeat_one_and_it_is_said(run_job):
    shown = run_job(Job(f"{ununlearning.__name__}:run", {"mode": "direct"}, 0))[-1].result
    direct = next(curve for curve in shown.curves if curve.key == "direct")
    assert min(direct.accuracy) < 1
    assert "never learnt to repeat" in shown.notes[0]


def test_the_name_filter_stops_the_name_alone(run_job):
    shown = run_job(Job(f"{ununlearning.__name__}:screen", {}, 0))[-1].result
    gates = {gate.kind: gate for gate in shown.gates}
    assert (gates["name"].blocked_name, gates["name"].blocked_alias) == (1, 0)
    assert gates["name"].leak_alias > 0.5
    assert gates["knowledge"].blocked_kin > gates["knowledge"].blocked_harmless


def test_refresh_learning_at_the_published_size_neither_harms_nor_helps(run_job):
    job = Job("engine.unlearning.refresh_learning.algorithm:run", {"seeds": 3}, 0)
    shown = run_job(job)[-1].result
    assert abs(shown.paired[0].mean.mean) < 0.01
    plain, refresh = (arm.runs[0].steps for arm in shown.arms)
    assert plain == refresh
