"""Rates from counts, with their intervals."""

import math


def wilson(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927); it stays within 0 and 1 for small counts too.

    (p + z^2 / 2n  ±  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    if count == 0:
        return 0.0, 1.0
    rate, spread = successes / count, z * z / count
    centre = rate + spread / 2
    reach = z * math.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    low, high = ((centre + side * reach) / (1 + spread) for side in (-1, 1))
    # exact at the ends, where the two terms cancel to round-off only
    return (low if successes else 0.0), (high if successes < count else 1.0)
