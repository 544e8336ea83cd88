"""Rates, means and ratios with their intervals, against values that one can work out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.intervals import Mean, Rate, auroc, bootstrap, ratio_interval, student

# ---------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (48, 50, 0.8654, 0.9890),
    ],
)
def test_known_intervals_of_rates(hits: int, count: int, low: float, high: float):
    found = Rate.counted(hits, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)
    assert Rate.of_hits([True] * hits + [False] * (count - hits)) == found


def test_nothing_counted_says_nothing():
    assert Rate.of_hits([]) == Rate(0, 0, 0.0, 0.0, 1.0)


@pytest.mark.slow
@given(st.integers(1, 500), st.data())
def test_the_rate_lies_within_and_more_counts_narrow_it(count: int, data):
    hits = data.draw(st.integers(0, count))
    few, many = Rate.counted(hits, count), Rate.counted(10 * hits, 10 * count)
    assert 0 <= few.low <= few.rate <= few.high <= 1
    assert many.high - many.low <= few.high - few.low


def test_rates_are_pooled_by_their_counts_and_turned_round():
    pooled = Rate.pooled([Rate.of_hits([True, False]), Rate.of_hits([True] * 6)])
    assert (pooled.hits, pooled.of) == (7, 8)
    others = pooled.complement
    assert (others.hits, others.rate) == (1, pytest.approx(1 / 8))
    assert others.low <= others.rate <= others.high


# ---------------------------------------------------------------------- means and ratios


@pytest.mark.slow
def test_the_interval_holds_the_mean_and_narrows_with_more_values():
    draw = np.random.default_rng(0)
    few, many = draw.normal(3, 1, 10), draw.normal(3, 1, 1000)
    for values in (few, many):
        low, high = bootstrap(values)
        assert low < values.mean() < high
    assert np.diff(bootstrap(many)) < np.diff(bootstrap(few)) / 3
    assert bootstrap(few) == bootstrap(few)


def test_an_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(0, 1, 400)
    low, high = bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_copies_of_one_unit_bring_no_new_knowledge():
    alone = np.random.default_rng(2).normal(0, 1, 30)
    copied, names = np.repeat(alone, 5), np.repeat(np.arange(30), 5).tolist()
    assert bootstrap(copied, groups=names) == pytest.approx(bootstrap(alone))
    assert np.diff(bootstrap(copied)) < np.diff(bootstrap(copied, groups=names)) / 2


def test_units_count_by_how_many_values_they_hold():
    mean = Mean.of_values([0.0, 0.0, 0.0, 4.0], groups=["a", "a", "a", "b"])
    assert mean.low <= mean.value == 1.0 <= mean.high


def test_an_interval_of_nothing_is_everything_and_of_one_value_that_value():
    assert bootstrap([]) == (-np.inf, np.inf)
    assert bootstrap([2.0]) == (2.0, 2.0)
    assert bootstrap([1.0, 3.0], groups=["a", "a"]) == (2.0, 2.0)
    assert Mean.of_values([]) == Mean(0.0, 0.0, 0.0, 0)


def test_a_ratio_draws_its_rows_in_pairs():
    below = np.random.default_rng(3).uniform(1, 9, 50)
    assert ratio_interval(3 * below, below) == pytest.approx((3.0, 3.0))
    assert ratio_interval(np.zeros(5), np.zeros(5)) == (0.0, 0.0)


def test_a_few_runs_have_the_interval_of_student():
    mean, low, high = student([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2)
    half = 4.303 * 0.1 / 3**0.5  # the 97.5 % point of t at two degrees of freedom
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-3)
    assert student([0.5]) == (0.5, 0.5, 0.5)


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize(
    ("positive", "negative", "wanted"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1, 1], [1, 1], 0.5), ([1, 3], [0, 2], 0.75)],
)
def test_auroc_counts_pairs(positive, negative, wanted):
    assert auroc(positive, negative) == wanted


def test_auroc_of_an_empty_side_is_not_a_number():
    assert np.isnan(auroc([1.0], []))
