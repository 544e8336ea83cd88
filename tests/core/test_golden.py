"""Golden cases: the arrays of a file, errors, and every check with its seconds."""

import math

import numpy as np
import pytest

from engine.core.errors import AssetMissing
from engine.core.golden import apart, arrays_of, check_all, collect, largest
from engine.core.job import finish


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(AssetMissing, match="nothing_like_it"):
        arrays_of("nothing_like_it")


def test_errors_are_absolute_or_relative_to_what_is_large():
    assert apart([1.0, 2.5], np.array([1.0, 2.0], dtype=np.float32)) == 0.5
    assert largest([0.5], [0.25]) == 0.25
    assert largest([11.0, 0.0], [10.0, 0.0]) == pytest.approx(0.1)
    assert apart([], []) == largest([], []) == 0


def test_what_is_no_number_is_never_within_a_tolerance():
    assert math.isnan(apart([0.0, math.nan], [0.0, 0.0]))
    assert math.isnan(largest([0.0, math.nan], [0.0, 0.0]))


def test_every_check_of_every_file_is_a_case():
    checks = {
        "rece_small": (("keys", 0.0, lambda arrays: float(len(arrays) == 0)),),
        "spm_small": (("one", 2.0, lambda _: 1.0), ("two", 0.5, lambda _: 1.0)),
    }
    cases = finish(check_all(checks)).cases
    assert [case.name for case in cases] == ["rece_small: keys", "spm_small: one", "spm_small: two"]
    assert [case.error <= case.tolerance for case in cases] == [True, True, False]
    assert all(case.seconds >= 0 for case in cases)


def test_progress_is_told_after_each_comparison():
    told = list(collect([("a", 0.0, 1.0), ("b", 0.0, 1.0)], 2))
    assert [(event.done, event.total, event.note) for event in told] == [(1, 2, "a"), (2, 2, "b")]
