"""Intervals of rates, against values from the published formula worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.rates import wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (48, 50, 0.8654, 0.9890),
    ],
)
def test_known_intervals(successes: int, count: int, low: float, high: float):
    assert wilson(successes, count) == pytest.approx((low, high), abs=2e-4)


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500), st.data())
def test_the_rate_lies_within_and_more_counts_narrow_it(count: int, data):
    successes = data.draw(st.integers(0, count))
    low, high = wilson(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    wider = wilson(10 * successes, 10 * count)
    assert wider[1] - wider[0] <= high - low
