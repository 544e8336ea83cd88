"""A picture of any size, cut into overlapping tiles that are restored one after another.

Noise is a function of the place in the whole picture, so two tiles see equal noise where they
overlap, and their results differ there only by what each one sees beyond. They are blended with
weights that rise from the border of a tile. A network that looks at single pixels gives exactly
what it gives without tiles.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch

from engine.core import rng
from engine.core.shapes import Float, Tensor

BLOCK = 32
"""Noise is drawn in squares of this side."""


@dataclass(frozen=True)
class Tile:
    """A part of the picture: its upper left corner and its size."""

    y: int
    x: int
    height: int
    width: int

    def of(self, picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _ _"]:
        return picture[..., self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True)
class PlacedNoise:
    """Standard normal noise of one tile, the same at a place of the picture in every tile."""

    seed: int
    tile: Tile

    def __call__(
        self, like: Float[Tensor, "1 c h w"], step: int, role: str = "step"
    ) -> Float[Tensor, "1 c h w"]:
        tile, channels = self.tile, like.shape[1]
        rows = range(tile.y // BLOCK, (tile.y + tile.height - 1) // BLOCK + 1)
        columns = range(tile.x // BLOCK, (tile.x + tile.width - 1) // BLOCK + 1)
        blocks = [
            torch.cat([self._block(channels, role, step, y, x) for x in columns], -1) for y in rows
        ]
        whole = torch.cat(blocks, -2)
        y, x = tile.y - rows[0] * BLOCK, tile.x - columns[0] * BLOCK
        return whole[None, :, y : y + tile.height, x : x + tile.width].to(like)

    def _block(self, channels: int, role: str, step: int, y: int, x: int) -> Tensor:
        return rng.noise(
            (channels, BLOCK, BLOCK), rng.generator(self.seed, f"placed {role}", step, y, x)
        )


def cut(height: int, width: int, side: int, overlap: int) -> list[Tile]:
    """Tiles of at most `side` pixels that cover the picture and overlap by at least `overlap`."""
    tall, wide = min(side, height), min(side, width)
    places = product(_starts(height, tall, overlap), _starts(width, wide, overlap))
    return [Tile(y, x, tall, wide) for y, x in places]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Equally spaced beginnings, the first at 0 and the last such that the tile ends at the end."""
    count = max(1, math.ceil((length - overlap) / max(side - overlap, 1)))
    if count == 1:
        return [0]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


class Canvas:
    """The blended picture so far; where no tile has been yet it shows `before`."""

    def __init__(self, before: Float[Tensor, "1 c h w"], overlap: int) -> None:
        self.before, self.overlap = before, overlap
        self.total, self.weight = torch.zeros_like(before), torch.zeros_like(before[:, :1])

    def put(self, tile: Tile, restored: Float[Tensor, "1 c h w"]) -> None:
        weight = self._rise(tile.height)[:, None] * self._rise(tile.width)[None]
        tile.of(self.total).add_(weight * restored.to(self.total))
        tile.of(self.weight).add_(weight)

    @property
    def picture(self) -> Float[Tensor, "1 c h w"]:
        done = self.weight > 0
        return torch.where(done, self.total / self.weight.clamp(min=1e-12), self.before)

    def _rise(self, length: int) -> Float[Tensor, " n"]:
        """Weight from a small value at both borders up to 1 at `overlap` pixels inside."""
        place = torch.arange(length, dtype=torch.float32) + 1
        return (torch.minimum(place, place.flip(0)) / max(self.overlap, 1)).clamp(max=1.0)
