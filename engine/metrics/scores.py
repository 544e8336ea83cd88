"""Which of several scores are best, and several parts as one score."""

import numpy as np
from numpy.typing import NDArray


def harmonic(*parts: float) -> float:
    """Harmonic mean; 0 when any part is 0."""
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


def not_dominated(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which rows no other row beats: as good in every column and better in one (more is better)."""
    rows = np.asarray(points, dtype=np.float64)
    as_good = (rows[:, None] >= rows[None]).all(-1)
    better = (rows[:, None] > rows[None]).any(-1)
    return np.asarray(~(as_good & better).any(0))
