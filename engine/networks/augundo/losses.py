"""The unsupervised losses of depth completion (KBNet), in the frame of the untouched picture.

A pixel p with depth d is seen from the next camera at

    x' = pi(K' g K^-1 [p, 1]^T d)

so the next picture, read at x', must look like this one if d is right. `weight` is the mask of the
undo: pixels that the network never saw are not asked about. Held by tests/golden/augundo_losses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.core.shapes import Float, Tensor
from engine.networks.augundo.geometry import resized


@dataclass(frozen=True)
class Weights:
    """Of colour, structure, sparse points and smoothness; KBNet's for indoor pictures."""

    color: float = 0.15
    structure: float = 0.95
    sparse: float = 2.0
    smooth: float = 2.0


@dataclass(frozen=True)
class Loss:
    """The four parts, and their weighted sum."""

    color: Float[Tensor, ""]
    structure: Float[Tensor, ""]
    sparse: Float[Tensor, ""]
    smooth: Float[Tensor, ""]
    total: Float[Tensor, ""]


def seen_from(
    depth: Float[Tensor, "n 1 h w"],
    k: Float[Tensor, "n 3 3"],
    k_next: Float[Tensor, "n 3 3"],
    pose: Float[Tensor, "n 4 4"],
) -> Float[Tensor, "n 2 h w"]:
    """Where each pixel lies in the next picture, (x, y)."""
    n, _, height, width = depth.shape
    down, across = torch.meshgrid(
        torch.arange(height, dtype=depth.dtype, device=depth.device),
        torch.arange(width, dtype=depth.dtype, device=depth.device),
        indexing="ij",
    )
    pixels = torch.stack([across, down, torch.ones_like(across)]).flatten(1).expand(n, -1, -1)
    points = torch.linalg.solve(k, pixels) * depth.flatten(2)
    points = k_next @ (pose[:, :3, :3] @ points + pose[:, :3, 3:])
    return (points[:, :2] / (points[:, 2:] + 1e-7)).unflatten(-1, (height, width))


def read_at(
    picture: Float[Tensor, "n c h w"], xy: Float[Tensor, "n 2 i j"]
) -> Float[Tensor, "n c i j"]:
    """The picture, read between its pixels; beyond the border, the border."""
    height, width = picture.shape[-2:]
    size = torch.tensor([width - 1, height - 1], dtype=xy.dtype, device=xy.device)
    grid = xy.permute(0, 2, 3, 1) / size * 2 - 1
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)


def color(
    recon: Float[Tensor, "n c h w"],
    image: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """The absolute difference, summed over channels, averaged over pixels."""
    return _mean((recon - image).abs().sum(1, keepdim=True), weight)


def structure(
    recon: Float[Tensor, "n c h w"],
    image: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - SSIM) / 2 over windows of 3 x 3, brought back to full size by nearest neighbour."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = F.avg_pool2d(recon, 3, 1), F.avg_pool2d(image, 3, 1)
    var_x = F.avg_pool2d(recon**2, 3, 1) - mean_x**2
    var_y = F.avg_pool2d(image**2, 3, 1) - mean_y**2
    cov = F.avg_pool2d(recon * image, 3, 1) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    ssim = ssim / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    gap = ((1 - ssim) / 2).clamp(0, 1).sum(1, keepdim=True)
    for axis in (2, 3):
        places = torch.from_numpy(resized(gap.shape[axis], image.shape[axis]))
        gap = gap.index_select(axis, places.to(gap.device))
    return _mean(gap, weight)


def sparse(
    depth: Float[Tensor, "n 1 h w"],
    points: Float[Tensor, "n 1 h w"],
    weight: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """The mean difference at measured points, per picture; a picture without any says nothing."""
    valid = (points > 0).to(depth) * (1 if weight is None else weight)
    gap = (valid * (depth - points).abs()).sum((1, 2, 3))
    return (gap / valid.sum((1, 2, 3)).clamp(min=1)).mean()


def smooth(depth: Float[Tensor, "n 1 h w"], image: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Steps of the depth, less where the picture has an edge."""

    def along(axis: int) -> Float[Tensor, ""]:
        edges = image.diff(dim=axis).abs().mean(1, keepdim=True)
        return (torch.exp(-edges) * depth.diff(dim=axis).abs()).mean()

    return along(3) + along(2)


def without_outliers(
    points: Float[Tensor, "n 1 h w"],
    *,
    window: int = 7,
    nearer: float = 1.5,
    farthest: float = 8.0,
) -> Float[Tensor, "n 1 h w"]:
    """Points without those that shine through: another one in the window is 1.5 m nearer.

    None is farther than a network can predict.
    """
    far = torch.where(points > 0, points, torch.full_like(points, 1e4))
    nearest = -F.max_pool2d(-far, window, stride=1, padding=window // 2)
    kept = torch.where(nearest < points - nearer, torch.zeros_like(points), points)
    return kept.clamp(max=farthest)


def loss_of(
    depth: Float[Tensor, "n 1 h w"],
    image: Float[Tensor, "n 3 h w"],
    recon: Float[Tensor, "n 3 h w"],
    points: Float[Tensor, "n 1 h w"],
    *,
    weights: Weights = Weights(),
    weight: Float[Tensor, "n 1 h w"] | None = None,
) -> Loss:
    """All four parts."""
    parts = (
        color(recon, image, weight),
        structure(recon, image, weight),
        sparse(depth, points, weight),
        smooth(depth, image),
    )
    scales = (weights.color, weights.structure, weights.sparse, weights.smooth)
    total = torch.stack([scale * part for scale, part in zip(scales, parts, strict=True)]).sum()
    return Loss(*parts, total)


def _mean(gap: Float[Tensor, "n 1 h w"], weight: Tensor | None) -> Float[Tensor, ""]:
    if weight is None:
        return gap.mean()
    return (gap * weight).sum() / weight.sum().clamp(min=1)
