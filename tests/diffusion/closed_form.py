"""What a sampler must come to where it can be written down."""

import math

from engine.core.shapes import Float, Tensor
from engine.diffusion.schedules import Path


def gaussian_flow(
    x: Float[Tensor, "b d"],
    path: Path,
    t0: float,
    t1: float,
    *,
    mean: Float[Tensor, " d"],
    variance: float,
) -> Float[Tensor, "b d"]:
    """Where the probability flow of a single Gaussian takes x from time t0 to time t1.

    x1 = a1 mu + (x0 - a0 mu) sqrt((a1^2 v + s1^2) / (a0^2 v + s0^2))
    """
    a0, s0, a1, s1 = (float(c) for c in (path.a(t0), path.s(t0), path.a(t1), path.s(t1)))
    scale = math.sqrt((a1**2 * variance + s1**2) / (a0**2 * variance + s0**2))
    return a1 * mean + (x - a0 * mean) * scale
