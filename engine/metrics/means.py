"""Means with their intervals, and distances between sets of features."""

import numpy as np
from numpy.typing import NDArray


def bootstrap(
    values: NDArray[np.floating], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """The 95 % interval of a mean by resampling (percentiles of `draws` means)."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return float("-inf"), float("inf")
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[chosen].mean(1), [2.5, 97.5])
    return float(low), float(high)


def harmonic(*parts: float) -> float:
    """Harmonic mean; 0 when any part is 0."""
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


def kernel_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """KID (Binkowski et al. 2018) of two sets of features n d, unbiased; below 0 by chance only.

    Mean over pairs of k(x, x') + k(y, y') - 2 k(x, y) with k(a, b) = (a b / d + 1)^3.
    """
    wide_x, wide_y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: NDArray[np.float64]) -> float:
        k = kernel(a, a)
        return float((k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)))

    between = float(kernel(wide_x, wide_y).mean())
    return within(wide_x) + within(wide_y) - 2 * between


def not_dominated(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which rows no other row beats: as good in every column and better in one (more is better)."""
    rows = np.asarray(points, dtype=np.float64)
    as_good = (rows[:, None] >= rows[None]).all(-1)
    better = (rows[:, None] > rows[None]).any(-1)
    return np.asarray(~(as_good & better).any(0))
