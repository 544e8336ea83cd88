"""CHAIR and cover with their intervals, on sets one can count by hand."""

from engine.metrics.hallucination import Told, chair, intervals

SET = (
    Told(("cat", "dog"), ("cat", "rose")),  # one of two is false, one of two found
    Told(("rose", "rose"), ("rose",)),
    Told((), ("car", "bus")),  # silence counts in CHAIR_s and cover
)


def test_rates_are_shares_of_mentions_texts_and_objects():
    rates = chair(SET)
    assert rates.chair_i == 1 / 4
    assert rates.chair_s == 1 / 3
    assert rates.cover == 2 / 5


def test_nothing_said_and_nothing_there_is_no_division_by_zero():
    assert chair([Told((), ())]).chair_i == 0
    assert chair([]).cover == 0


def test_silence_wins_chair_and_loses_cover():
    silent = [Told((), one.present) for one in SET]
    assert chair(silent).chair_i == 0 < chair(SET).chair_i
    assert chair(silent).cover == 0 < chair(SET).cover


def test_intervals_hold_the_rates_and_repeat():
    many = [SET[number % 3] for number in range(90)]
    found = intervals(many)
    rates = chair(many)
    for (low, high), rate in zip(found, (rates.chair_i, rates.chair_s, rates.cover), strict=True):
        assert low <= rate <= high
    assert intervals(many) == found
