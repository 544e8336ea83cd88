"""Intervals of means, and the distances and orders that scores are made of."""

import numpy as np
import pytest

from engine.metrics.means import bootstrap, harmonic, kernel_distance, not_dominated


def test_the_interval_holds_the_mean_and_narrows_with_more_values():
    draw = np.random.default_rng(0)
    few, many = draw.normal(3, 1, 10), draw.normal(3, 1, 1000)
    for values in (few, many):
        low, high = bootstrap(values)
        assert low < values.mean() < high
    assert np.diff(bootstrap(many)) < np.diff(bootstrap(few)) / 3
    assert bootstrap(few) == bootstrap(few)


def test_an_interval_of_nothing_is_everything():
    assert bootstrap(np.zeros(0)) == (-np.inf, np.inf)


def test_the_harmonic_mean_is_zero_when_a_part_is():
    assert harmonic(1.0, 1.0, 1.0) == 1
    assert harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic(0.9, 0.0, 0.8) == 0


def test_the_kernel_distance_is_near_zero_within_one_world_only():
    draw = np.random.default_rng(1)
    x, y, z = draw.normal(size=(200, 8)), draw.normal(size=(200, 8)), draw.normal(1, 1, (200, 8))
    assert abs(kernel_distance(x, y)) < 0.1 < kernel_distance(x, z)


def test_points_that_others_beat_are_not_best():
    points = np.array([(0.9, 0.9), (1.0, 0.5), (0.8, 0.8), (0.9, 0.9), (0.2, 1.0)])
    assert not_dominated(points).tolist() == [True, True, False, True, True]
