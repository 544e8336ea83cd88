"""Golden cases: arrays that published code made, compared with what runs here.

    def run(*, seed: int = 0) -> Steps[Golden]:
        return (yield from check_all({"rece_small": (("UCE, replace", 1e-12, replaced), ...)}))

A method's `golden.run` is run by its tests, in its panel, and for all methods on the evidence page.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from engine.core.catalog import ROOT
from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps

FOLDER = ROOT / "tests" / "golden"
Arrays = Mapping[str, np.ndarray]
Check = tuple[str, float, Callable[[Arrays], float]]
"""Title, tolerance, and the error on the arrays of one file."""
Compared = tuple[str, float, float]
"""Name, error, tolerance."""
Numbers: TypeAlias = ArrayLike | float
"""Arrays, tensors, lists, or one number, which the type check of the tests tells from complex."""


@dataclass(frozen=True)
class Case:
    """One comparison: the largest error, or the number or share of what differs."""

    name: str
    error: float
    tolerance: float
    seconds: float


@dataclass(frozen=True)
class Golden:
    """All comparisons."""

    cases: tuple[Case, ...]


def check_all(checks: Mapping[str, Sequence[Check]]) -> Steps[Golden]:
    """Every check of every file."""
    return (yield from collect(_checked(checks), sum(map(len, checks.values()))))


def _checked(checks: Mapping[str, Sequence[Check]]) -> Iterator[Compared]:
    for name, listed in checks.items():
        arrays = arrays_of(name)
        for title, tolerance, check in listed:
            yield f"{name}: {title}", check(arrays), tolerance


def collect(compared: Iterable[Compared], total: int) -> Steps[Golden]:
    """Comparisons as they are made, each with its seconds."""
    cases: list[Case] = []
    started = time.perf_counter()
    for name, error, tolerance in compared:
        cases.append(Case(name, error, tolerance, time.perf_counter() - started))
        yield Progress(len(cases), total, name)
        started = time.perf_counter()
    return Golden(tuple(cases))


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """The arrays of a file by name. Raises `AssetMissing` where the tests are not installed."""
    try:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except OSError as error:
        raise AssetMissing(
            f"The golden arrays {name}.npz are not on this server.",
            "They lie in tests/golden of the repository.",
        ) from error


def apart(found: Numbers, truth: Numbers) -> float:
    """The largest error, of complex numbers its absolute value."""
    pair = np.asarray(found), np.asarray(truth)
    wide = np.complex128 if any(map(np.iscomplexobj, pair)) else np.float64
    gap = pair[0].astype(wide) - pair[1].astype(wide)
    return float(np.abs(gap).max(initial=0))


def largest(found: Numbers, truth: Numbers) -> float:
    """The largest error, relative to the largest number where that is above 1."""
    return apart(found, truth) / max(1.0, float(np.abs(np.asarray(truth)).max(initial=0)))
