"""Transforms of a frame, each with its undo and the matrix that moves its pixels.

A frame is `... h w`. All of them pick pixels (nearest neighbour) and mix none, so labels and depth
keep their values. Every one but the rotation moves rows and columns apart: an `Axis` says for each
place of the result where its value lies.

Order and parameters follow the surviving code of the paper, held by tests/golden: the place of a
resized pixel is floor(i * in / out), computed in float32 (float64 moves whole columns), and a
rotation rounds half to even on pixel centres.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Array, Float, Shaped, Tensor

Size = tuple[int, int]
Fill = Literal["edge", "zero"]
LARGEST_SIDE = 4096


@runtime_checkable
class Transform(Protocol):
    """One step of an augmentation, on frames of a size."""

    def grown(self, size: Size) -> Size:
        """The size after the step."""

    def matrix(self, size: Size) -> Float[Array, "3 3"]:
        """A, which takes a pixel (x, y, 1) to its new place."""

    def forward(self, x: Tensor, fill: Fill) -> Tensor:
        """The transformed frame."""

    def undo(self, y: Tensor, size: Size, fill: Fill) -> Tensor:
        """What stands in the transformed frame `y`, back in a frame of `size`."""


@dataclass(frozen=True)
class Axis:
    """Where each row (or column) of the result is taken from, and whether there was one."""

    index: Shaped[Array, " n"]
    inside: Shaped[Array, " n"]

    @classmethod
    def at(cls, place: np.ndarray, low: int, high: int) -> "Axis":
        """Places within `low` to `high`; those beyond repeat the nearest."""
        return cls(place.clip(low, high - 1), (place >= low) & (place < high))

    def then(self, source: np.ndarray) -> "Axis":
        """The same places, looked up in another list of places."""
        return Axis(source[self.index], self.inside)


def picked(x: Tensor, rows: Axis, columns: Axis, fill: Fill) -> Tensor:
    """The rows and columns of `... h w` that the axes name."""
    y = x.index_select(-2, _index(rows, x)).index_select(-1, _index(columns, x))
    if fill == "zero":
        inside = np.logical_and.outer(rows.inside, columns.inside)
        y = torch.where(torch.from_numpy(inside).to(x.device), y, torch.zeros_like(y))
    return y


def _index(axis: Axis, x: Tensor) -> Tensor:
    return torch.from_numpy(axis.index.astype(np.int64)).to(x.device)


def resized(before: int, after: int) -> np.ndarray:
    """For each of `after` places the one of `before` that nearest resizing takes."""
    step = np.float32(before / after)
    return np.floor(np.arange(after, dtype=np.float32) * step).astype(int).clip(0, before - 1)


def scaled(length: int, scale: float) -> int:
    """A side at a scale, cut to whole pixels."""
    return max(1, int(length * scale))


# ---------------------------------------------------------------------- rows and columns apart


class Separable(ABC):
    """A transform whose rows and columns do not know of each other, and that keeps the size."""

    def grown(self, size: Size) -> Size:
        return size

    def forward(self, x: Tensor, fill: Fill) -> Tensor:
        height, width = x.shape[-2:]
        return picked(x, self.axis(0, height), self.axis(1, width), fill)

    def undo(self, y: Tensor, size: Size, fill: Fill) -> Tensor:
        return picked(y, self.axis_back(0, size[0]), self.axis_back(1, size[1]), fill)

    def matrix(self, size: Size) -> Float[Array, "3 3"]:
        (scale_y, move_y), (scale_x, move_x) = self.moves(0, size[0]), self.moves(1, size[1])
        return np.array([[scale_x, 0, move_x], [0, scale_y, move_y], [0, 0, 1.0]])

    @abstractmethod
    def axis(self, which: int, length: int) -> Axis:
        """Where each place of the result is read along an axis: 0 down, 1 across."""

    @abstractmethod
    def axis_back(self, which: int, length: int) -> Axis:
        """The same for the way back."""

    @abstractmethod
    def moves(self, which: int, length: int) -> tuple[float, float]:
        """Scale and shift of a coordinate along an axis: 0 down, 1 across."""


@dataclass(frozen=True)
class Flip(Separable):
    """A mirror image, left to right (`horizontal`) or upside down."""

    horizontal: bool = True

    def axis(self, which: int, length: int) -> Axis:
        place = np.arange(length)
        return Axis.at(length - 1 - place if which == self.horizontal else place, 0, length)

    axis_back = axis

    def moves(self, which: int, length: int) -> tuple[float, float]:
        return (-1.0, length - 1.0) if which == self.horizontal else (1.0, 0.0)


@dataclass(frozen=True)
class CropPad(Separable):
    """A window (top, left, bottom, right) of the frame, put back with `pad` (top, left) around it.

    Undo takes back the shift alone, which keeps more of a prediction than cutting the window again.
    """

    crop: tuple[int, int, int, int]
    pad: tuple[int, int]

    def axis(self, which: int, length: int) -> Axis:
        start, stop = self.crop[which], self.crop[which + 2]
        return Axis.at(np.arange(length) - self.pad[which] + start, start, stop)

    def axis_back(self, which: int, length: int) -> Axis:
        return Axis.at(np.arange(length) + self.pad[which] - self.crop[which], 0, length)

    def moves(self, which: int, length: int) -> tuple[float, float]:
        return 1.0, float(self.pad[which] - self.crop[which])


@dataclass(frozen=True)
class ResizePad(Separable):
    """Zooms out: the frame made smaller by `scale`, `pad` (top, left) away from the corner.

    Depths are left as they are: the focal length shrinks with the picture instead.
    """

    scale: float
    pad: tuple[int, int]

    def axis(self, which: int, length: int) -> Axis:
        small = scaled(length, self.scale)
        place = Axis.at(np.arange(length) - self.pad[which], 0, small)
        return place.then(resized(length, small))

    def axis_back(self, which: int, length: int) -> Axis:
        small = scaled(length, self.scale)
        return Axis.at(self.pad[which] + resized(small, length), 0, length)

    def moves(self, which: int, length: int) -> tuple[float, float]:
        return scaled(length, self.scale) / length, float(self.pad[which])


@dataclass(frozen=True)
class ResizeCrop(Separable):
    """Zooms in: the frame made larger by `scale`, of which a frame from `start` (top, left) stays.

    Undo has edge values where the picture went out of the frame.
    """

    scale: float
    start: tuple[int, int]

    def axis(self, which: int, length: int) -> Axis:
        large = scaled(length, self.scale)
        return Axis.at(resized(length, large)[self.start[which] :][:length], 0, length)

    def axis_back(self, which: int, length: int) -> Axis:
        large = scaled(length, self.scale)
        return Axis.at(resized(large, length) - self.start[which], 0, length)

    def moves(self, which: int, length: int) -> tuple[float, float]:
        return scaled(length, self.scale) / length, -float(self.start[which])


# ---------------------------------------------------------------------- both together


@dataclass(frozen=True)
class Rotate:
    """Turns by `degrees`, counter-clockwise, into a frame so large that no pixel is lost.

    The corners are zeros, whatever the filling. Undo turns back and cuts the middle out.
    """

    degrees: float

    def grown(self, size: Size) -> Size:
        turn = _turn(self.degrees)[:2, :2]
        corners = np.array([[x, y] for x in (-0.5, 0.5) for y in (-0.5, 0.5)]) * size[::-1]
        reach = (corners @ turn.T) + np.array(size[::-1]) / 2
        # Four decimals, so that round-off at 90 degrees does not add a row.
        high, low = (np.trunc(end * 1e4) / 1e4 for end in (reach.max(0), reach.min(0)))
        width, height = np.ceil(high) - np.floor(low)
        return int(height), int(width)

    def matrix(self, size: Size) -> Float[Array, "3 3"]:
        return _centred(_turn(self.degrees), size, self.grown(size))

    def forward(self, x: Tensor, fill: Fill) -> Tensor:
        size = int(x.shape[-2]), int(x.shape[-1])
        return sampled(x, np.linalg.inv(self.matrix(size)), self.grown(size))

    def undo(self, y: Tensor, size: Size, fill: Fill) -> Tensor:
        turned = Rotate(-self.degrees).forward(y, fill)
        top, left = (round((turned.shape[axis - 2] - size[axis]) / 2) for axis in (0, 1))
        return turned[..., top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class Affine:
    """Any affine matrix of pixels, as augmentation libraries report the one that they drew.

    `values` are its rows, `to` is the size of the frame that it leads to.
    """

    values: tuple[tuple[float, float, float], ...]
    to: Size

    def __post_init__(self) -> None:
        matrix = np.array(self.values, dtype=float)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise BadInput(
                "The matrix is not 3 x 3 numbers.", "Give A of (x', y', 1) = A (x, y, 1)."
            )
        if not np.allclose(matrix[2], (0, 0, 1)) or abs(np.linalg.det(matrix)) < 1e-6:
            raise BadInput(
                "The matrix is no affine map that can be undone.",
                "Its last row must be 0 0 1, and its determinant not 0.",
            )
        if not 0 < min(self.to) <= max(self.to) <= LARGEST_SIDE:
            raise BadInput(f"{self.to[1]} x {self.to[0]} is no size of a frame.", "Try 128 x 96.")

    def grown(self, size: Size) -> Size:
        return self.to

    def matrix(self, size: Size) -> Float[Array, "3 3"]:
        return np.array(self.values, dtype=float)

    def forward(self, x: Tensor, fill: Fill) -> Tensor:
        return sampled(x, np.linalg.inv(self.matrix(self.to)), self.to)

    def undo(self, y: Tensor, size: Size, fill: Fill) -> Tensor:
        return sampled(y, self.matrix(size), size)


def sampled(x: Tensor, places: Float[Array, "3 3"], size: Size) -> Tensor:
    """A frame of `size` whose pixel p is the nearest one of `x` to `places` p; zero beyond it."""
    height, width = x.shape[-2:]
    across, down = moved(places, size)
    column, row = np.rint(across).astype(int), np.rint(down).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = torch.from_numpy(np.where(inside, row * width + column, 0).ravel()).to(x.device)
    y = x.flatten(-2).index_select(-1, flat).unflatten(-1, size)
    return torch.where(torch.from_numpy(inside).to(x.device), y, torch.zeros_like(y))


def moved(matrix: Float[Array, "3 3"], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Where an affine matrix takes the pixels of a frame: across and down, each `h w`."""
    down, across = np.mgrid[: size[0], : size[1]].astype(float)
    (a, b, c), (d, e, f) = matrix[:2]
    # Rounded, so that the last bit of a sine does not decide a tie between two pixels.
    return np.round(a * across + b * down + c, 9), np.round(d * across + e * down + f, 9)


def _turn(degrees: float) -> np.ndarray:
    """Counter-clockwise as one sees it: y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def _centred(turn: np.ndarray, size: Size, grown: Size) -> np.ndarray:
    """The turn about the middle of one frame, into the middle of another."""
    off, on = np.eye(3), np.eye(3)
    off[:2, 2] = -(np.array(size[::-1]) - 1) / 2
    on[:2, 2] = (np.array(grown[::-1]) - 1) / 2
    return on @ turn @ off
