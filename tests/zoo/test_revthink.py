"""The build of the students from end to end, on a very small network and for a few steps."""

import json

import pytest
import torch

from engine.models import library
from engine.models.language import LanguageBundle
from engine.verifying.revthink import fleet, students
from engine.verifying.revthink.arms import MAIN
from engine.verifying.revthink.fleet import Plan, Shape
from engine.zoo import revthink as zoo
from engine.zoo.training import Options


@pytest.mark.slow
def test_a_build_publishes_base_students_and_figures(tmp_path, monkeypatch):
    folder = tmp_path / "revthink"
    monkeypatch.setattr(zoo, "Shape", lambda: Shape(width=16, inner=24))
    publish = zoo.Record.publish
    monkeypatch.setattr(zoo.Record, "publish", lambda self: publish(self, folder))
    zoo.build(tmp_path, Options(steps=2, device="cpu"))
    results = json.loads((folder / "results.json").read_text())
    told = {(row["arm"], row["fraction"], row["lora"]) for row in results["students"]}
    assert told == {(arm, 0.5, False) for arm in MAIN}
    assert set(results["training"]) == {"small"}
    shelf = students.shelf.__wrapped__(folder)
    assert set(shelf.students) == {Plan(arm, 0.5, 0) for arm in MAIN}
    assert len(shelf.weights([Plan(arm, 0.5, 0) for arm in MAIN])[fleet.EMBEDDING]) == len(MAIN)
    monkeypatch.setattr(
        library, "MODELS", {"revthink": library.ModelCard.read(folder / "card.json")}
    )
    monkeypatch.setattr(library, "ASSETS", tmp_path)
    bundle = library.load(library.ModelRef("revthink"), "cpu", "float32")
    assert isinstance(bundle, LanguageBundle)
    state, shape = students.state_of(bundle)
    assert shape.width == 16
    assert torch.equal(state[fleet.EMBEDDING][0], shelf.base[fleet.EMBEDDING])


def test_seconds_end_a_stage_before_its_steps(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(zoo.time, "monotonic", lambda: float(next(now)))
    assert [step for step, _ in zoo._clock(100, 5.0, 0.0)] == [0, 1, 2, 3, 4]


def test_the_plans_hold_every_method_at_every_share_and_seed():
    plans = zoo.scratch_plans()
    assert len(set(plans)) == len(plans)
    assert {*zoo.SHIPPED} <= set(plans)
    assert {*zoo.SHIPPED_LORA} <= set(zoo.lora_plans())
