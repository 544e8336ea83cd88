"""The erasure lab: one sheet, one table, one plane, from one noise."""

from pathlib import Path

import numpy as np
import pytest

from engine.core.job import Failed, Job, Progress
from engine.erasing import _baselines as baselines
from engine.erasing import _evaluation as evaluation
from engine.erasing import erasure_lab as lab
from engine.erasing._baselines import MAKERS
from engine.erasing._eraser import contenders
from engine.erasing._evaluation import Protocol
from engine.erasing._subject import Subject
from engine.erasing.erasure_lab.algorithm import SHEET, _Settings
from tests.tiny import tiny_checkpoint

TARGET = "engine.erasing.erasure_lab.algorithm:run"
QUICK = {
    "concept": "cat",
    "methods": ["word filter", "UCE"],
    "each": 2,
    "sweep": 2,
    "steps": 2,
    "guidance_scale": 2.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def open_gate(monkeypatch: pytest.MonkeyPatch):
    """The random checkpoint draws nothing; its scores are wanted here all the same."""
    monkeypatch.setattr(evaluation, "LEAST_ORIGINAL", 0.0)
    baselines._MADE.clear()


def job(folder: Path, **changed: object) -> Job:
    return Job(TARGET, {**QUICK, "model": str(folder), **changed}, seed=3)


def test_every_listed_method_can_be_made():
    known = {**MAKERS, **contenders()}
    assert set(lab.methods()) <= set(known)
    assert set(lab.METHODS) - set(lab.methods()) <= set(lab.OPTIONAL)


@pytest.mark.slow
def test_the_sheet_grows_and_then_the_table(folder: Path, run_job):
    seen = run_job(job(folder))
    shown = [e.preview for e in seen if isinstance(e, Progress) and e.preview is not None]
    rows = [len(one.rows) for one in shown]
    assert rows == sorted(rows)
    assert all(len(one.rows) == 3 for one in shown if one.scores)
    found = seen[-1].result
    assert [row.name for row in found.rows] == ["original", "word filter", "UCE"]
    assert found.groups == SHEET
    assert found.rows[0].pictures.shape == (len(SHEET), 64, 64, 3)
    told = [(one.name, one.strength) for one in found.scores]
    assert told == [("original", 1.0), ("word filter", 1.0), ("UCE", 1.0), ("UCE", 0.5)]
    assert len(found.points) == 4
    assert all(one.target.of == 2 for one in found.scores)


@pytest.mark.slow
def test_all_models_draw_the_same_prompts_from_the_same_noise(folder: Path, run_job):
    *_, end = run_job(job(folder))
    found = end.result
    original, filtered = found.rows[0], found.rows[1]
    near = found.groups.index("near")
    assert np.array_equal(original.pictures[near], filtered.pictures[near])
    told = {(one.model, one.strength, one.attack, one.number): one for one in found.seen}
    assert len(told) == len(found.seen)
    for one in found.seen:
        first = told["original", 1.0, one.attack, one.number]
        assert (one.prompt, one.group) == (first.prompt, first.group)


@pytest.mark.slow
def test_a_filter_on_words_changes_no_kept_picture(folder: Path, run_job):
    *_, end = run_job(job(folder))
    filtered = next(one for one in end.result.scores if one.name == "word filter")
    assert filtered.change.value == 0
    assert filtered.empty_change == 0


@pytest.mark.slow
def test_the_gate_shuts_for_a_model_that_draws_nothing(folder: Path, run_job, monkeypatch):
    monkeypatch.setattr(evaluation, "LEAST_ORIGINAL", 0.85)
    *_, end = run_job(job(folder))
    found = end.result
    assert "nothing can be said" in found.gate
    assert found.points == ()
    assert all(one.target is None for one in found.scores if one.name != "original")
    assert all(one.change.of == 4 for one in found.scores)


@pytest.mark.parametrize(
    "bad",
    [
        {"concept": "zebra"},
        {"concept": " "},
        {"concept": None},
        {"concept": "x" * 1000},
        {"anchor": None},
        {"methods": []},
        {"methods": ["magic"]},
        {"methods": None},
        {"each": 0},
        {"each": 1000},
        {"each": 2.5},
        {"attacks": ["bribe"]},
        {"sweep": 9},
        {"steps": 0},
        {"guidance_scale": float("nan")},
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_advice(folder: Path, run_job, bad: dict):
    (end,) = run_job(job(folder, **bad), may_fail=True)
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert end.advice


def test_a_concept_that_the_judge_does_not_know_is_refused_before_anything_else(folder, run_job):
    (end,) = run_job(job(folder, concept="zebra"), may_fail=True)
    assert isinstance(end, Failed)
    assert "zebra" in end.message


def test_methods_keep_their_order_and_the_original_comes_first():
    names = ["RECE", "word filter", "RECE"]
    chosen = _Settings.of(Subject.of("cat"), names, Protocol(), ())
    assert chosen.names == ("original", "word filter", "RECE")
