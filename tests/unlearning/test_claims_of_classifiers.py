"""What the cards claim, once more on the shipped networks; the figures over seeds are stored."""

import pytest

from engine.core.catalog import discover
from engine.core.job import finish
from engine.core.settings import checked
from engine.unlearning.corrective import algorithm as corrective
from engine.unlearning.forgetting_lab import algorithm as lab
from engine.unlearning.smoothinv import algorithm as smoothinv
from engine.unlearning.ssd import algorithm as ssd

pytestmark = pytest.mark.slow
CATALOG = discover()


def run(job, **settings: object):
    return finish(job(seed=0, **checked(job, settings)))


def holds(slug: str, measured: float, versus: float) -> bool:
    return CATALOG[slug].card.claim.holds(measured, versus)


def test_dampening_few_weights_takes_the_class_out_and_every_bit_comes_back():
    found = run(ssd.run, what="bag", unit="sample", curve=0)
    original, edited = found.cards[:2]
    assert holds("ssd", edited.forget_test.rate, original.forget_test.rate)
    assert found.changed.share < 0.03
    assert found.undone == found.before


def test_a_tenth_of_the_flags_closes_the_backdoor_and_training_anew_does_not():
    ours = run(corrective.run, gamma=0.1).cards[1]
    theirs = run(corrective.run, gamma=0.1, way="RewoD").cards[1]
    assert holds("corrective", ours.attack_success.rate, theirs.attack_success.rate)
    assert theirs.attack_success.rate > 0.85
    assert ours.kept.rate > theirs.kept.rate - 0.05


def test_what_is_found_on_the_smoothed_classifier_hijacks_more_pictures():
    found = {one.name: one for one in run(smoothinv.run).found}
    smooth, plain = found["smoothed, sigma 0.25"], found["plain descent"]
    assert holds("smoothinv", smooth.success.rate, plain.success.rate)
    assert smooth.on_trigger > 2 * plain.on_trigger


def test_what_was_dampened_is_known_again_sooner_than_what_was_never_known():
    found = run(lab.run, what="bag", methods=["SSD"], unit="sample", relearn_steps=100)
    steps = {row.name: row.relearning.back_at for row in found.rows if row.relearning}
    assert steps["SSD"] is not None
    assert holds("forgetting_lab", float(steps["retrained"] or 100), float(steps["SSD"]))
