"""Golden cases of a method: arrays made by published code, compared with what runs here."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"
Arrays = Mapping[str, np.ndarray]
Check = tuple[str, float, Callable[[Arrays], float]]
"""Title, tolerance, and the largest error on the arrays of one file."""


@dataclass(frozen=True)
class Case:
    """One comparison: the largest error, relative to the largest number where that is above 1."""

    name: str
    error: float
    tolerance: float
    seconds: float


@dataclass(frozen=True)
class GoldenResult:
    cases: tuple[Case, ...]


def check_all(checks: Mapping[str, Sequence[Check]]) -> Steps[GoldenResult]:
    """Every check of every file."""
    cases: list[Case] = []
    total = sum(map(len, checks.values()))
    for name, listed in checks.items():
        for case in compare(name, arrays_of(name), listed):
            cases.append(case)
            yield Progress(len(cases), total, case.name)
    return GoldenResult(tuple(cases))


def compare(name: str, arrays: Arrays, checks: Sequence[Check]) -> Iterator[Case]:
    """All comparisons with one file."""
    for title, tolerance, check in checks:
        start = time.perf_counter()
        error = check(arrays)
        yield Case(f"{name}: {title}", error, tolerance, time.perf_counter() - start)


def arrays_of(name: str) -> Arrays:
    """The arrays of a file. Raises `AssetMissing` where the tests are not installed."""
    try:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except OSError as error:
        raise AssetMissing(
            "The golden arrays are not installed here.", "Check the repository out whole."
        ) from error


def largest(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest error, relative to the largest number where that is above 1."""
    scale = max(1.0, float(np.abs(truth).max(initial=0)))
    return float(np.abs(np.asarray(found, dtype=np.float64) - truth).max(initial=0)) / scale
