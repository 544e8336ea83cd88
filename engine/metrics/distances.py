"""Distances between two sets of samples."""

import numpy as np
import torch

from engine.core.shapes import Array, Float, Tensor


def profile(x: Float[Tensor, "n d"], directions: int = 64) -> Float[Tensor, "levels k"]:
    """Quantiles of the projections on fixed directions, even ones in the plane."""
    if x.shape[1] == 2:
        angle = torch.arange(directions, dtype=x.dtype) * np.pi / directions
        along = torch.stack([angle.cos(), angle.sin()])
    else:
        generator = torch.Generator().manual_seed(0)
        along = torch.randn(x.shape[1], directions, generator=generator, dtype=x.dtype)
        along = along / along.norm(dim=0)
    levels = (torch.arange(512, dtype=x.dtype) + 0.5) / 512
    return torch.quantile(x @ along, levels, dim=0)


def sliced_w2(x: Float[Tensor, "levels k"], y: Float[Tensor, "levels k"]) -> float:
    """The 2-Wasserstein distance of projections, from two profiles; root of the mean square.

    Two draws of one density are not at 0: show that floor beside it.
    """
    return float((x - y).square().mean().sqrt())


def kernel_distance(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, seed: int = 0, subsets: int = 50
) -> tuple[float, tuple[float, float]]:
    """Squared kernel distance of features (KID, Binkowski et al. 2018) and its 95 % interval.

    Polynomial kernel (x.y / d + 1)^3, unbiased, so that it may fall below 0 for equal sets. The
    spread is that of `subsets` random halves: drawn without replacement, the variance of a half
    about the whole is (1/(n/2) - 1/n) = 1/n times that of one sample, which is that of the whole.
    """
    generator = np.random.default_rng(seed)
    whole, found = _mmd(x, y), []
    for _ in range(subsets):
        halves = (generator.permutation(len(side))[: len(side) // 2] for side in (x, y))
        i, j = halves
        found.append(_mmd(x[i], y[j]))
    spread = 1.96 * float(np.std(found, ddof=1))
    return whole, (whole - spread, whole + spread)


def _mmd(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> float:
    size = x.shape[1]
    xx, yy, xy = ((a @ b.T / size + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    first = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    second = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(first + second - 2 * xy.mean())
