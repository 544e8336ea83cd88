"""Corrective unlearning: the rule, what is flagged, and the repair of a poisoned network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.core.job import finish
from engine.core.patch import state_fingerprint
from engine.core.recipe import ModelRef
from engine.core.settings import checked
from engine.models.library import load
from engine.unlearning import _baselines as baselines
from engine.unlearning._baselines import Sets
from engine.unlearning._learning import Course, Training
from engine.unlearning._samples import garments
from engine.unlearning._trigger import as_picture
from engine.unlearning.corrective import algorithm as corrective
from engine.unlearning.corrective import repair as repairing
from engine.unlearning.corrective import rule
from engine.unlearning.corrective.results import Tried


def run(**settings: object):
    given = checked(corrective.run, {"retained": 1500, **settings})
    return finish(corrective.run(seed=0, **given))


@pytest.fixture(scope="module")
def repaired():
    return run()


@pytest.mark.slow
def test_ten_per_cent_of_flags_close_the_backdoor(repaired):
    original, edited = repaired.cards
    assert original.attack_success.rate > 0.95
    assert edited.attack_success.rate < 0.15
    assert edited.corrected.rate > original.corrected.rate + 0.5
    assert edited.kept.rate > original.kept.rate - 0.03
    assert repaired.flagged.flagged == 20
    assert repaired.undo.exactness is Exactness.BITWISE


@pytest.mark.slow
def test_the_automatic_choice_looked_at_no_test(repaired):
    assert "no test data" in repaired.tuned_on
    best = rule.automatic(repaired.tried)
    assert (repaired.alpha, repaired.lam) == (best.alpha, best.lam)


@pytest.mark.slow
def test_settings_given_by_hand_carry_the_word_oracle():
    assert "oracle" in run(alpha=5.0).tuned_on


def test_the_rule_takes_the_best_sum_and_of_equals_the_weaker_edit():
    rows = [
        Tried(1.0, 1.0, 0.30, 0.9, 0.80),
        Tried(2.0, 1.0, 0.02, 0.9, 0.80),
        Tried(3.0, 1.0, 0.01, 0.2, 0.95),
    ]
    assert rule.automatic(rows) is rows[1]


@pytest.mark.slow
def test_the_chain_from_a_recovered_trigger_closes_the_backdoor_without_flags():
    from engine.unlearning._world import TRIGGERS

    # What the trigger changes on a black picture stands for what SmoothInv recovers.
    trigger = TRIGGERS["fashion-poisoned"]
    delta = trigger.stamped(torch.zeros(1, 1, 28, 28), 1.0)
    found = run(trigger=as_picture(delta), target="T-shirt")
    assert found.flagged.kind == "recovered trigger"
    assert found.cards[1].attack_success.rate < 0.2
    assert found.cards[1].kept.rate > found.cards[0].kept.rate - 0.05


@pytest.mark.slow
def test_false_flags_are_named(repaired):
    found = run(false_flags=10, alpha=5.0)
    assert (found.flagged.flagged, found.flagged.false_flags) == (30, 10)
    assert any("10 of the flagged samples are clean" in note for note in found.notes)


def test_confused_labels_are_warned_of_and_a_trigger_is_not(repaired):
    assert repaired.flagged.warning == ""
    repair = repairing.opened("fashion-confused", repairing.Flags(), 0)
    assert "confused labels" in repair.told.warning
    assert repair.attacked is None
    assert repair.missing["attack_success"] == "there is no trigger"


def test_attack_success_counts_no_picture_of_the_target():
    repair = repairing.opened("fashion-poisoned", repairing.Flags(), 0)
    assert repair.target == 0
    assert 0 not in repair.attacked.labels.tolist()
    assert set(repair.corrected.labels.tolist()) == set(range(10))


def test_what_is_flagged_is_neither_retained_nor_held_out():
    repair = repairing.opened("fashion-poisoned", repairing.Flags(), 0)
    parts = [repair.flagged.ids, repair.retained.ids, repair.held_out.ids]
    assert len(torch.cat(parts).unique()) == sum(map(len, parts)) == 20_000


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"gamma": 0.0}, "Nothing is flagged"),
        ({"gamma": 0.001}, "less than one"),
        ({"gamma": 2.0}, "gamma must be"),
        ({"way": "prayer"}, "way cannot be"),
        ({"unit": "sorted"}, "unit cannot be"),
        ({"indices": [20_000]}, "not part of the training data"),
        ({"model": "fashion"}, "was not manipulated"),
    ],
)
def test_bad_settings_are_one_sentence(settings, match):
    with pytest.raises(BadInput, match=match):
        run(**settings)


def test_a_trigger_of_another_size_is_refused():
    wrong = np.full((8, 8, 3), 128, np.uint8)
    with pytest.raises(BadInput, match="8 x 8 pixels"):
        run(trigger=wrong, target="T-shirt")


@pytest.mark.slow
def test_a_visitors_model_is_repaired_with_flagged_pictures(own_model, picture_set):
    found = run(
        model=own_model,
        pictures=picture_set({"left": 4}),
        retain=picture_set({"plain": 8, "right": 8}),
        test=picture_set({"plain": 4}, 20),
        retained=16,
    )
    original, edited = found.cards
    assert edited.kept is not None
    assert original.corrected is None
    assert "not known" in original.missing["corrected"]
    with pytest.raises(BadInput, match="retained samples"):
        run(model=own_model, pictures=picture_set({"left": 4}))


@pytest.mark.slow
def test_curves_begin_with_the_original():
    found = finish(
        corrective.curves(seed=0, gammas=[0.2, 1.0], methods=["SSD"], alpha=5.0, retained=256)
    )
    assert [(p.gamma, p.card.method) for p in found.points] == [
        (0.0, "original"),
        (0.2, "SSD"),
        (1.0, "SSD"),
    ]
    assert [p.flagged for p in found.points] == [0, 40, 200]


# ---------------------------------------------------------------------- ways that train


def few_sets(count: int = 96) -> Sets:
    train = garments("train").take(torch.arange(count))
    bags = train.labels == 8
    return Sets(train.take(~bags), train.take(bags), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", baselines.WAYS)
def test_a_way_trains_a_copy_repeats_and_can_be_left(name):
    model = load(ModelRef("fashion"), dtype="float32").model
    before, noise = state_fingerprint(model.state_dict()), torch.get_rng_state()
    settings = {"UNSIR": {"images": 2, "each": 4}, "SCRUB": {"steps": 4, "ascents": 2}}
    settings |= {"CF": {"steps": 3}, "Fisher forgetting": {"samples": 8}}
    way = baselines.WAYS[name]
    first, again = (
        finish(way(model, few_sets(), **settings.get(name, {}))).state_dict() for _ in range(2)
    )
    assert state_fingerprint(first) == state_fingerprint(again) != before
    left = way(model, few_sets(), **settings.get(name, {}))
    next(left)
    left.close()
    assert state_fingerprint(model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), noise)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been():
    samples, course = few_sets().retain, Course(epochs=2, batch=16)
    model = load(ModelRef("fashion"), dtype="float32").model

    def fresh():
        return baselines.untrained(model, 5).requires_grad_(True)

    whole = Training(fresh(), samples, course, 3)
    assert list(whole.run())[-1] == whole.total
    begun = Training(fresh(), samples, course, 3)
    for step in begun.run():
        if step == 7:
            break
    resumed = Training(fresh(), samples, course, 3)
    resumed.restore({name: value.clone() for name, value in begun.state().items()})
    list(resumed.run())
    assert state_fingerprint(resumed.model.state_dict()) == state_fingerprint(
        whole.model.state_dict()
    )


def test_retraining_is_from_new_weights():
    model = load(ModelRef("fashion"), dtype="float32").model
    short = Course(epochs=1, batch=48)
    found = finish(baselines.retrain(model, few_sets(), short))
    name = "classifier.1.weight"
    assert not torch.equal(found.state_dict()[name], model.state_dict()[name])


@pytest.mark.slow
def test_noise_by_fisher_is_where_the_retain_set_does_not_look():
    """The head's row of the class that is gone is noise alone; what matters most moves least."""
    model, sets = load(ModelRef("fashion"), dtype="float32").model, few_sets()
    fisher = finish(baselines._model_fisher(model, sets.retain.take(torch.arange(8)), 10))
    noisy = dict(finish(baselines.fisher_noise(model, sets, samples=8)).named_parameters())
    head = noisy["classifier.1.weight"]
    assert float(head[8].abs().max()) < 0.2 < float(head[0].abs().max())
    name = "resnet.embedder.embedder.convolution.weight"
    variance = baselines._variance(fisher[name], 1e-6, is_head=False)
    assert float(variance.max()) <= 1e-3
    loud, quiet = variance.flatten().argmax(), variance.flatten().argmin()
    assert fisher[name].flatten()[loud] < fisher[name].flatten()[quiet]


def test_the_last_layers_alone_are_trained_and_batch_statistics_before_them_stay():
    model, sets = load(ModelRef("fashion"), dtype="float32").model, few_sets()
    short = Course(epochs=1, batch=48)
    old = model.state_dict()
    for new in (
        finish(baselines.catastrophic(model, sets, steps=2, last=2)),
        finish(baselines.retrain(model, sets, short, last=2)),
    ):
        changed = {n for n, v in new.state_dict().items() if not torch.equal(v, old[n])}
        assert "classifier.1.weight" in changed
        assert not any("embedder" in name or "stages.0" in name for name in changed)


def test_the_rule_takes_the_training_that_forgets_flags_and_keeps_the_rest():
    """Three trainings, of which the second answers flagged samples as labelled no more."""
    model, sets = load(ModelRef("fashion"), dtype="float32").model, few_sets()
    bags = sets.forget

    def train(settings):
        answers = {0.0: model, 1.0: Blind(model, 8), 2.0: Blind(model, 0)}
        yield
        return answers[settings["kind"]]

    grid = [{"kind": float(kind)} for kind in range(3)]
    best, tried = finish(rule.trained_best(train, bags, sets.retain, grid))
    assert isinstance(best, Blind)
    assert [one.settings for one in tried] == grid
    assert tried[1].forgotten == 1
    assert tried[1].score == max(one.score for one in tried)


class Blind(torch.nn.Module):
    """The network without one class."""

    def __init__(self, model: torch.nn.Module, label: int) -> None:
        super().__init__()
        self.model, self.label = model, label

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model(x).logits
        logits[:, self.label] = -1e3
        return logits


def test_layers_are_chosen_for_ways_that_have_some():
    with pytest.raises(BadInput, match="last is for CF and RewoD"):
        run(last=2)


def test_a_rewound_world_is_that_of_its_seed_without_its_flags():
    from engine.unlearning._nets import WORLDS, rewound
    from engine.unlearning._world import manipulated

    for seed in (0, 1):
        tampered = manipulated("fashion-poisoned", seed)
        left = rewound(WORLDS["fashion-poisoned"], 0.5).training_set(seed)
        assert len(left) == 20_000 - 100
        assert int(torch.isin(left.ids, tampered.ids).sum()) == 100


def test_unsir_wants_one_class():
    sets = few_sets()
    mixed = replace(sets, forget=sets.retain)
    with pytest.raises(BadInput, match="one whole class"):
        finish(baselines.unsir(load(ModelRef("fashion"), dtype="float32").model, mixed))


def test_distillation_is_nothing_between_equal_outputs():
    logits = torch.randn(5, 4, dtype=torch.float64)
    assert float(baselines.distillation(logits, logits)) == pytest.approx(0, abs=1e-12)
