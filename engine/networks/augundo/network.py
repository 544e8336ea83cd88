"""A small network for depth completion: a picture and a few measured depths in, all depths out.

In the manner of KBNet it is told the ray of every pixel, K^-1 (x, y, 1), so that it may know of a
zoom; and it begins from the measured depths spread over the picture by averages over larger and
larger windows, of which it predicts the correction: depth = spread * exp(correction).
"""

import torch
import torch.nn.functional as F
from torch import nn

from engine.core.rng import generator
from engine.core.shapes import Float, Tensor

NEAREST, FARTHEST = 0.1, 8.0  # metres, as published for indoor scenes
STRIDE = 8
WINDOWS = (5, 11, 23, 47)
WIDTHS = (16, 24, 32, 48)


class DepthNetwork(nn.Module):
    """66,000 parameters; sides of any length, padded to multiples of 8 inside."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _block(before, after, stride)
            for before, after, stride in zip((7, *widths), widths, (1, 2, 2, 2), strict=False)
        )
        self.up = nn.ModuleList(
            _block(deep + skip, skip, 1)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0], 1, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(
        self,
        image: Float[Tensor, "n 3 h w"],
        points: Float[Tensor, "n 1 h w"],
        k: Float[Tensor, "n 3 3"],
    ) -> Float[Tensor, "n 1 h w"]:
        """Depth in metres. `points` holds 0 where nothing was measured."""
        begin = spread(points)
        x = torch.cat([image - 0.5, begin.log(), (points > 0).to(image), rays(k, image)], dim=1)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], dim=1))
        correction = torch.tanh(self.out(x))[..., :height, :width]
        return (begin * torch.exp(correction)).clamp(NEAREST, FARTHEST)


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1), nn.GroupNorm(4, after), nn.ELU()
    )


def spread(points: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Everywhere the mean of the measured depths in the smallest window that holds one.

    Where nothing was measured at all, 2 m.
    """
    valid = (points > 0).to(points)
    mean = points.sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True).clamp(min=1)
    found = torch.where(mean > 0, mean, torch.full_like(mean, 2.0)).expand_as(points)
    for window in reversed(WINDOWS):
        near, count = (_averaged(x, window) for x in (points, valid))
        found = torch.where(count > 0, near / count.clamp(min=1e-9), found)
    return found.clamp(NEAREST, FARTHEST)


def _averaged(x: Float[Tensor, "n 1 h w"], window: int) -> Float[Tensor, "n 1 h w"]:
    """Means over square windows: along rows and then along columns, which is much less work."""
    half = window // 2
    return F.avg_pool2d(F.avg_pool2d(x, (1, window), 1, (0, half)), (window, 1), 1, (half, 0))


def rays(k: Float[Tensor, "n 3 3"], like: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 h w"]:
    """The direction of every pixel, x / z and y / z of K^-1 (x, y, 1)."""
    height, width = like.shape[-2:]
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([across, down, torch.ones_like(down)]).flatten(1).to(like)
    found = torch.linalg.solve(k, pixels.expand(len(k), -1, -1))
    return (found[:, :2] / found[:, 2:]).unflatten(-1, (height, width))


def untrained(seed: int) -> DepthNetwork:
    """A network whose first weights are those of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return DepthNetwork()
