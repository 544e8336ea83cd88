"""The forgetting lab: its measures, its plane, and two edits in every order."""

import pytest
import torch

from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.core.job import finish
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Recipe
from engine.metrics.intervals import Rate
from engine.models.library import load
from engine.unlearning import _compare as comparing
from engine.unlearning._card import Card
from engine.unlearning._compare import Agreement, similarity
from engine.unlearning.forgetting_lab import algorithm as lab
from engine.unlearning.forgetting_lab.results import Row

# ---------------------------------------------------------------------- measures


def gram(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"layer": comparing._centred(x @ x.T)}


def test_cka_does_not_mind_rotation_and_scale_and_sees_what_is_unrelated():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    other = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    assert similarity(gram(x), gram(3 * x @ q + 1))["layer"] == pytest.approx(1)
    assert similarity(gram(x), gram(other))["layer"] < 0.4


def test_agreement_is_whole_with_itself_and_a_bit_with_the_opposite():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    same, opposite = Agreement.of(a, a), Agreement.of(a, a.flip(1))
    assert (same.same, same.divergence) == (1.0, pytest.approx(0))
    assert (opposite.same, opposite.divergence) == (0.0, pytest.approx(1))


def test_layers_are_thinned_evenly_and_keep_both_ends():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(30)))
    names = comparing.layers_of(model, 5)
    assert (len(names), names[0], names[-1]) == (5, "0", "29")


def rate(value: float) -> Rate:
    return Rate(0, 100, value, value, value)


def row(name: str, forget: float, retain: float) -> Row:
    card = Card(name, "task", forget_test=rate(forget), retain_test=rate(retain))
    return Row(name, card)


def test_the_plane_marks_what_no_other_way_beats():
    rows = [
        row("original", 0.9, 0.90),
        row("retrained", 0.0, 0.95),
        row("a", 0.1, 0.89),
        row("b", 0.2, 0.88),
    ]
    best = [point.name for point in lab.plane(rows) if point.is_best]
    assert best == ["original", "a"]


# ---------------------------------------------------------------------- orders


def patches(overlap: bool) -> tuple[dict[str, torch.Tensor], Patch, Patch]:
    state = {"u": torch.randn(5), "v": torch.randn(5)}
    first = {**state, "u": state["u"] * 0.3}
    name = "u" if overlap else "v"
    second = {**state, name: state[name] * 0.7}
    made = [
        Patch.between(state, new, Recipe("ssd", label=label), sparse=True)
        for new, label in ((first, "first"), (second, "second"))
    ]
    return state, *made


def test_edits_of_different_tensors_come_off_in_any_order():
    found = lab.orders(*patches(overlap=False))
    assert [order.is_exact for order in found] == [True] * 4
    assert {order.outcome for order in found} == {"every bit is back"}


def test_an_edit_that_lies_on_another_is_refused_by_name():
    found = lab.orders(*patches(overlap=True))
    assert [order.is_exact for order in found] == [True, True, False, False]
    assert '"second" does not fit u' in found[2].outcome


# ---------------------------------------------------------------------- jobs


@pytest.fixture(scope="module")
def sheet():
    return finish(lab.run(seed=0, what="bag", methods=["SSD"], unit="sample", relearn_steps=40))


@pytest.mark.slow
def test_the_original_and_the_retrained_network_stand_first(sheet):
    assert [one.name for one in sheet.rows] == ["original", "retrained", "SSD"]
    assert sheet.reference == "fashion-without-bag"


@pytest.mark.slow
def test_what_was_dampened_is_relearnt_sooner_than_what_was_never_known(sheet):
    retrained, dampened = sheet.rows[1].relearning, sheet.rows[2].relearning
    assert dampened.back_at is not None
    assert retrained.back_at is None or dampened.back_at < retrained.back_at
    assert retrained.accuracy[0] == 0


def test_the_retrained_network_is_nearest_to_itself(sheet):
    original, retrained, dampened = sheet.rows
    assert retrained.agreement.same == 1
    assert min(retrained.similarity.values()) == pytest.approx(1)
    assert dampened.agreement_forgotten.same > original.agreement_forgotten.same


def test_every_edit_undoes_exactly_and_tells_its_cost(sheet):
    dampened = sheet.rows[2]
    assert dampened.undo.exactness is Exactness.BITWISE
    assert dampened.first_seconds >= dampened.stored_seconds > 0
    assert sheet.rows[0].patch is None


@pytest.mark.slow
def test_a_planted_trigger_is_counted_too():
    found = finish(
        lab.run(seed=0, model="fashion-poisoned", methods=[], relearn_steps=0, what="bag")
    )
    assert found.rows[0].attack_success.rate > 0.9


@pytest.mark.slow
def test_two_networks_are_compared_by_class_picture_and_layer():
    found = finish(
        lab.pair(seed=0, what="bag", first="original", second="SSD", unit="sample", stack=True)
    )
    (bags,) = [one for one in found.classes if one.is_forgotten]
    assert bags.name == "bag"
    assert bags.second.rate < bags.first.rate - 0.5
    assert sum(one.is_forgotten for one in found.pictures) > len(found.pictures) / 2
    assert found.layers[0].weight_distance >= 0
    assert found.orders == ()


@pytest.mark.slow
def test_an_edit_made_on_top_of_another_comes_off_first():
    found = finish(
        lab.pair(seed=0, what="bag", first="SSD", second="UNSIR", unit="sample", stack=True)
    )
    allowed, forbidden = found.orders[-2:]
    assert allowed.is_exact
    assert not forbidden.is_exact
    assert "UNSIR" in forbidden.steps[1]
    assert "blocked" in forbidden.outcome


@pytest.mark.slow
def test_nothing_is_left_changed():
    model = load(ModelRef("fashion"), dtype="float32").model
    before = state_fingerprint(model.state_dict())
    finish(lab.run(seed=0, what="bag", methods=["label-free SSD"], relearn_steps=1))
    assert state_fingerprint(model.state_dict()) == before


@pytest.mark.slow
def test_a_reference_that_is_not_there_is_said():
    found = finish(lab.run(seed=0, what="coat", methods=[], relearn_steps=0))
    assert [one.name for one in found.rows] == ["original"]
    assert any("No network was retrained" in note for note in found.notes)
    with pytest.raises(BadInput, match="No network was retrained"):
        finish(lab.pair(seed=0, what="coat", first="original", second="retrained"))
