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


def kernel_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> float:
    """Squared kernel distance of features (KID, Binkowski et al. 2018), n and m at least 2.

    Mean over pairs of k(x, x') + k(y, y') - 2 k(x, y) with k(a, b) = (a . b / d + 1)^3. Unbiased,
    so that it may fall below 0 for equal sets, by chance only.
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (x, y))
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    first = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    second = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(first + second - 2 * xy.mean())


def kernel_thousandths(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, seed: int = 0
) -> list[float]:
    """The kernel distance and its 95 % interval in thousandths, as benchmarks record it."""
    found = kernel_distance(x, y), *kernel_interval(x, y, seed=seed)
    return [round(1000 * value, 2) for value in found]


def kernel_interval(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, seed: int = 0, subsets: int = 50
) -> tuple[float, float]:
    """95 % interval of the kernel distance of two sets.

    The spread is that of `subsets` random halves: drawn without replacement, the variance of a half
    about the whole is (1/(n/2) - 1/n) = 1/n times that of one sample, which is that of the whole.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        i, j = (generator.permutation(len(side))[: len(side) // 2] for side in (x, y))
        found.append(kernel_distance(x[i], y[j]))
    whole, spread = kernel_distance(x, y), 1.96 * float(np.std(found, ddof=1))
    return whole - spread, whole + spread
