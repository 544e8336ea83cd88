"""Rates, means and ratios with their 95 % intervals: the statistics of every benchmark.

The interval is over the unit that was drawn at random (a run, a world, a photograph, a sentence).
What belongs to one unit is kept together by `groups`: three crops of one photograph are not three
photographs.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 5000
LEVEL = 0.95


@dataclass(frozen=True)
class Rate:
    """A share with Wilson's 95 % interval (1927), which stays within 0 and 1 for small counts."""

    hits: int
    of: int
    rate: float
    low: float
    high: float

    @classmethod
    def of_hits(cls, hits: Sequence[bool] | NDArray[np.bool_]) -> "Rate":
        """The share of true values; of nothing the interval is everything, 0 to 1."""
        return cls.counted(int(np.sum(hits)), int(np.size(hits)))

    @classmethod
    def counted(cls, hits: int, of: int) -> "Rate":
        """`hits` out of `of`."""
        if not of:
            return cls(0, 0, 0.0, 0.0, 1.0)
        from scipy.stats import binomtest  # half a second to import, which most runs do without

        found = binomtest(hits, of).proportion_ci(LEVEL, method="wilson")
        return cls(hits, of, hits / of, float(found.low), float(found.high))

    @classmethod
    def pooled(cls, rates: Iterable["Rate"]) -> "Rate":
        """All trials of several rates together."""
        every = list(rates)
        return cls.counted(sum(rate.hits for rate in every), sum(rate.of for rate in every))

    @property
    def complement(self) -> "Rate":
        """The share of the others."""
        return Rate(self.of - self.hits, self.of, 1 - self.rate, 1 - self.high, 1 - self.low)


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval (bootstrap); `of` is the number of values."""

    value: float
    low: float
    high: float
    of: int

    @classmethod
    def of_values(
        cls, values: ArrayLike, *, groups: Sequence[Hashable] | None = None, seed: int = 0
    ) -> "Mean":
        """The mean of the values; of nothing it is 0 and so is its interval."""
        array = np.asarray(values, dtype=np.float64)
        if not array.size:
            return cls(0.0, 0.0, 0.0, 0)
        return cls(float(array.mean()), *bootstrap(array, groups=groups, seed=seed), array.size)


def bootstrap(
    values: ArrayLike, *, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of resampled sets.

    `groups` names the unit that each value belongs to; whole units are drawn together. Of nothing
    the interval is everything; of one unit it is its value alone, as nothing is known of others.
    """
    array = np.asarray(values, dtype=np.float64)
    if groups is None:
        return ratio_interval(array, np.ones_like(array), seed=seed)
    units = {unit: place for place, unit in enumerate(dict.fromkeys(groups))}
    place = [units[unit] for unit in groups]
    sums, counts = np.bincount(place, array), np.bincount(place).astype(np.float64)
    return ratio_interval(sums, counts, seed=seed)


def ratio_interval(above: ArrayLike, below: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of sum(above) / sum(below), rows drawn in pairs; 0 / 0 counts as 0."""
    pair = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if not len(pair[0]):
        return float("-inf"), float("inf")
    if len(pair[0]) == 1:
        alone = float(_ratio(*pair))
        return alone, alone
    from scipy.stats import bootstrap as resampled

    found = resampled(
        pair,
        _ratio,
        n_resamples=RESAMPLES,
        batch=max(1, 10**7 // len(pair[0])),  # at most 80 MB of resampled values at a time
        paired=True,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    total = below.sum(axis)
    return np.asarray(above.sum(axis) / np.where(total == 0, 1, total))


def student(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of a few runs with the 95 % interval of Student's t; of one run it is that run alone."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean, mean
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean, mean - half, mean + half


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """How often a positive scores above a negative, ties counted half; NaN where one is empty.

    This is the U of Mann and Whitney (1947) as a share of all pairs.
    """
    p, n = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if not (p.size and n.size):
        return float("nan")
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(p, n, method="asymptotic").statistic / (p.size * n.size))
