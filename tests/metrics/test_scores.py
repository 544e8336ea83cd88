"""The distances and orders that scores are made of."""

import numpy as np
import pytest

from engine.metrics.distances import kernel_distance, kernel_interval
from engine.metrics.scores import harmonic, not_dominated


def test_the_harmonic_mean_is_zero_when_a_part_is():
    assert harmonic(1.0, 1.0, 1.0) == 1
    assert harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic(0.9, 0.0, 0.8) == 0


def test_the_kernel_distance_is_near_zero_within_one_world_only():
    draw = np.random.default_rng(1)
    x, y, z = draw.normal(size=(200, 8)), draw.normal(size=(200, 8)), draw.normal(1, 1, (200, 8))
    assert abs(kernel_distance(x, y)) < 0.1 < kernel_distance(x, z)
    low, high = kernel_interval(x, z)
    assert 0.1 < low < kernel_distance(x, z) < high


def test_points_that_others_beat_are_not_best():
    points = np.array([(0.9, 0.9), (1.0, 0.5), (0.8, 0.8), (0.9, 0.9), (0.2, 1.0)])
    assert not_dominated(points).tolist() == [True, True, False, True, True]
