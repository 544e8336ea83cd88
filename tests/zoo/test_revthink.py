"""The build of the students from end to end, on a very small network and for a few steps."""

import json

import numpy as np
import pytest
import torch

from engine.models import library
from engine.models.language import LanguageBundle
from engine.verifying.revthink import fleet, students
from engine.verifying.revthink.arms import MAIN
from engine.verifying.revthink.fleet import Fleet, Plan, Schedule, Shape
from engine.zoo import revthink as zoo
from engine.zoo.training import Options
from tests.verifying.conftest import write_students

READ = students.shelf.__wrapped__


@pytest.fixture
def small_folder(tmp_path, monkeypatch):
    """A folder of very small students, in place of the shipped one for whatever is published."""
    folder = write_students(tmp_path / "revthink")
    publish, publish_curve = zoo.Record.publish, zoo.publish_curve
    monkeypatch.setattr(zoo.Record, "publish", lambda self: publish(self, folder))
    monkeypatch.setattr(zoo, "publish_curve", lambda found: publish_curve(found, folder))
    monkeypatch.setattr(zoo, "Shape", lambda: Shape(width=16, inner=24))
    shelf = READ(folder)
    monkeypatch.setattr(students, "shelf", lambda: shelf)
    return folder


@pytest.mark.slow
def test_the_curve_gives_every_method_and_share_as_many_seeds(small_folder, monkeypatch):
    before = json.loads((small_folder / "card.json").read_text())
    monkeypatch.setattr(zoo, "CURVE_SEEDS", 2)
    zoo.build_curve(small_folder, Options(steps=2, device="cpu"))
    found = json.loads((small_folder / "efficiency.json").read_text())
    plans = [zoo.plan_of_row(row) for row in found["students"]]
    assert len(plans) == len(set(plans))
    assert set(plans) == {
        Plan(arm, share, seed)
        for arm in MAIN
        for share in (0.1, 0.25, 0.5, 0.75, 1.0)
        for seed in range(2)
    }
    assert found["seeds"] == 2
    assert found["steps"] == 2
    assert found["versions"]["torch"]
    assert found["machine"]
    card = json.loads((small_folder / "card.json").read_text())
    assert set(card["sha256"]) == {*before["sha256"], "efficiency.json"}
    assert {**card, "sha256": 0} == {**before, "sha256": 0}
    curve = READ(small_folder).efficiency
    assert curve.sequences == 2 * fleet.SEQUENCES_A_STEP
    assert {p.seeds for p in curve.points if p.part == "test"} == {found["seeds"]}


@pytest.mark.slow
def test_products_in_half_precision_train_alike():
    plan, shape = Plan("revthink", 0.25, 0), Shape(width=32, inner=48)
    whole, half = (
        Fleet([plan], Schedule(30, 1e-2, warmup=5), shape, half=half) for half in (False, True)
    )
    losses = np.array([[float(one.advance()) for one in (whole, half)] for _ in range(30)])
    assert losses[-1, 0] < 0.9 * losses[0, 0]
    assert 0 < np.abs(losses[:, 0] - losses[:, 1]).max() < 0.02
    assert all(weight.dtype == torch.float32 for weight in half.state(0).values())


@pytest.mark.slow
def test_lora_students_are_added_to_those_that_are_there(small_folder):
    before = students.shelf()
    zoo.build_lora(small_folder, Options(steps=2, device="cpu"))
    after = READ(small_folder)
    assert {plan.name for plan in after.students if plan.lora} == {
        f"{arm}-lora-0.5-0" for arm in MAIN
    }
    for plan, state in before.students.items():
        if not plan.lora:
            assert all(torch.equal(after.students[plan][name], w) for name, w in state.items())
    assert all(torch.equal(after.base[name], weight) for name, weight in before.base.items())
    told = [row for row in after.figures if row["lora"]]
    assert {row["arm"] for row in told} == set(MAIN)
    assert [row for row in after.figures if not row["lora"]] == list(before.figures)


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
