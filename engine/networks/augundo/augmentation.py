"""`Augmentation`: a transform of the input that knows how to undo itself on the output.

    aug = Augmentation.of((480, 640), angle=25, zoom=0.6)
    depth = network(aug(image), aug(sparse, fill="zero"), aug.intrinsics(K))
    loss = criterion(aug.undo(depth), image, sparse, K, weight=aug.mask())

It is a plain callable on tensors `... h w`, so it stands in any `Compose`; and `of_matrix` makes
one of the matrix that another library reports. What it undoes may be any output with one value a
pixel: depth, labels, a score. Vectors turn with the picture, so they must be named: `flow` (pixels)
and `normals` are turned, anything else is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.shapes import Array, Float, Shaped, Tensor
from engine.networks.augundo import geometry
from engine.networks.augundo.geometry import (
    Affine,
    CropPad,
    Fill,
    Flip,
    ResizeCrop,
    ResizePad,
    Rotate,
    Size,
    Transform,
)

CHANNELS = {"flow": 2, "normals": 3}
LARGEST_ANGLE, ZOOMS, LARGEST_SHIFT = 45.0, (0.5, 1.5), 0.25


@dataclass(frozen=True)
class Ranges:
    """How often each transform is drawn, and how far it goes; as published for VOID."""

    flip: float = 0.5
    resize_crop: float = 0.10
    crop_pad: float = 0.5
    resize_pad: float = 0.5
    rotate: float = 0.05
    largest_zoom: float = 1.1
    smallest_window: float = 0.9
    smallest_zoom: float = 0.6
    degrees: float = 25.0


@dataclass(frozen=True)
class Augmentation:
    """Transforms in order, on frames of one size. Undo takes them back in reverse order."""

    size: Size
    steps: tuple[Transform, ...] = ()

    # ------------------------------------------------------------------ making one

    @classmethod
    def of(
        cls,
        size: Size,
        *,
        angle: float = 0.0,
        zoom: float = 1.0,
        shift_x: float = 0.0,
        shift_y: float = 0.0,
        flip_x: bool = False,
        flip_y: bool = False,
    ) -> "Augmentation":
        """Centred transforms; `angle` in degrees, shifts as shares of the frame.

        Raises `BadInput` for an angle beyond 45 degrees, a zoom that is not 0.5 to 1.5, and a
        shift beyond a quarter.
        """
        checks.number("angle", angle, -LARGEST_ANGLE, LARGEST_ANGLE, "The paper takes 25 degrees.")
        checks.number("zoom", zoom, *ZOOMS, "The paper takes 0.6 to 1.1.")
        for name, shift in (("shift_x", shift_x), ("shift_y", shift_y)):
            checks.number(name, shift, -LARGEST_SHIFT, LARGEST_SHIFT, "The paper takes up to 0.1.")
        steps: list[Transform] = [*[Flip(True)] * flip_x, *[Flip(False)] * flip_y]
        if zoom > 1:
            spare = [geometry.scaled(side, zoom) - side for side in size]
            steps.append(ResizeCrop(zoom, (spare[0] // 2, spare[1] // 2)))
        moves = (round(shift_y * size[0]), round(shift_x * size[1]))
        if any(moves):
            steps.append(_shifted(size, moves))
        if zoom < 1:
            spare = [side - geometry.scaled(side, zoom) for side in size]
            steps.append(ResizePad(zoom, (spare[0] // 2, spare[1] // 2)))
        if angle:
            steps.append(Rotate(angle))
        return cls(size, tuple(steps))

    @classmethod
    def sample(
        cls, size: Size, generator: torch.Generator, ranges: Ranges = Ranges()
    ) -> "Augmentation":
        """One at random, each transform with its own probability, in the published order."""

        def draw(low: float = 0.0, high: float = 1.0) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        def place(most: int) -> int:
            return int(draw() * (most + 1))

        steps: list[Transform] = []
        steps += [Flip(True)] * (draw() < ranges.flip) + [Flip(False)] * (draw() < ranges.flip)
        if draw() < ranges.resize_crop:
            zoom = draw(1.0, ranges.largest_zoom)
            spare = [geometry.scaled(side, zoom) - side for side in size]
            steps.append(ResizeCrop(zoom, (place(spare[0]), place(spare[1]))))
        if draw() < ranges.crop_pad:
            lost = [place(int(side * (1 - ranges.smallest_window))) for side in size]
            top, left = place(lost[0]), place(lost[1])
            crop = (top, left, top + size[0] - lost[0], left + size[1] - lost[1])
            steps.append(CropPad(crop, (place(lost[0]), place(lost[1]))))
        if draw() < ranges.resize_pad:
            zoom = draw(ranges.smallest_zoom, 1.0)
            spare = [side - geometry.scaled(side, zoom) for side in size]
            steps.append(ResizePad(zoom, (place(spare[0]), place(spare[1]))))
        if draw() < ranges.rotate:
            steps.append(Rotate(draw(-ranges.degrees, ranges.degrees)))
        return cls(size, tuple(steps))

    @classmethod
    def of_matrix(cls, matrix: ArrayLike, size: Size, to: Size) -> "Augmentation":
        """The one that a library says it applied: its 3 x 3 matrix of pixels, and both sizes.

        Raises `BadInput` for what cannot be undone, such as a perspective or a matrix of rank 1.
        """
        try:
            rows = np.array(matrix, dtype=float)
        except (TypeError, ValueError):
            rows = np.empty(0)
        if rows.shape != (3, 3):
            raise BadInput("The matrix is not 3 x 3 numbers.", "Give one matrix, without a batch.")
        return cls(size, (Affine(tuple(map(tuple, rows.tolist())), to),))

    # ------------------------------------------------------------------ using it

    @property
    def augmented_size(self) -> Size:
        """The size of the transformed frame; a rotation makes it larger."""
        size = self.size
        for step in self.steps:
            size = step.grown(size)
        return size

    def __call__(self, x: Tensor, fill: Fill = "edge", quantity: str = "scalar") -> Tensor:
        return self.forward(x, fill=fill, quantity=quantity)

    def forward(
        self,
        x: Shaped[Tensor, "*d h w"],
        *,
        fill: Fill = "edge",
        quantity: str = "scalar",
    ) -> Shaped[Tensor, "*d i j"]:
        """The transformed frame; pictures are filled with edge values, sparse points with zeros."""
        _fits(x, self.size, "The frame")
        for step in self.steps:
            x = step.forward(x, fill)
        return _turned(x, quantity, self.matrix())

    def undo(
        self,
        y: Shaped[Tensor, "*d i j"],
        *,
        fill: Fill = "edge",
        quantity: str = "scalar",
        interpolation: Literal["nearest", "bilinear"] = "nearest",
    ) -> Shaped[Tensor, "*d h w"]:
        """What stands in the transformed frame, back where it belongs.

        Bilinear looks every pixel up once, at A p. It is smoother, and puts depths between two
        surfaces where there is nothing: flying points.
        """
        _fits(y, self.augmented_size, "The output")
        if interpolation == "bilinear":
            y = self._looked_up(y)
        else:
            sizes = [self.size]
            for step in self.steps:
                sizes.append(step.grown(sizes[-1]))
            for step, size in zip(reversed(self.steps), reversed(sizes[:-1]), strict=True):
                y = step.undo(y, size, fill)
        return _turned(y, quantity, np.linalg.inv(self.matrix()))

    def mask(self, device: torch.device | str = "cpu") -> Float[Tensor, "1 1 h w"]:
        """1 where the network has seen the pixel, 0 where undo can only fill in.

        Ones that go forward with zeros around them, and back: what was cut off or never lay in the
        transformed frame must not be supervised.
        """
        ones = torch.ones(1, 1, *self.size, device=device)
        return self.undo(self.forward(ones, fill="zero"), fill="zero")

    def matrix(self) -> Float[Array, "3 3"]:
        """A, which takes a pixel (x, y, 1) to its place in the transformed frame."""
        product, size = np.eye(3), self.size
        for step in self.steps:
            product, size = step.matrix(size) @ product, step.grown(size)
        return product

    def intrinsics(self, k: Float[Tensor, "*d 3 3"]) -> Float[Tensor, "*d 3 3"]:
        """K_aug = A K. Depth along the ray stays, as the focal length takes the zoom.

        A new tensor: K itself is still what the loss needs. Rotated, it is no longer triangular;
        K_aug^-1 p is the ray of a pixel all the same.
        """
        return torch.from_numpy(self.matrix()).to(k) @ k

    def _looked_up(self, y: Tensor) -> Tensor:
        across, down = geometry.moved(self.matrix(), self.size)
        height, width = self.augmented_size
        grid = np.stack([across / max(width - 1, 1), down / max(height - 1, 1)], -1) * 2 - 1
        flat = y.reshape(1, -1, height, width)
        place = torch.from_numpy(grid)[None].to(flat)
        found = F.grid_sample(flat, place, padding_mode="border", align_corners=True)
        return found.reshape(*y.shape[:-2], *self.size)


def _shifted(size: Size, moves: Sequence[int]) -> CropPad:
    """The whole frame moved down and right by so many pixels; what leaves it is lost."""
    start = [max(-move, 0) for move in moves]
    stop = [side - max(move, 0) for move, side in zip(moves, size, strict=True)]
    pad = [max(move, 0) for move in moves]
    return CropPad((start[0], start[1], stop[0], stop[1]), (pad[0], pad[1]))


def _fits(x: Tensor, size: Size, what: str) -> None:
    if x.ndim < 2 or tuple(x.shape[-2:]) != tuple(size):
        found = " x ".join(str(side) for side in reversed(x.shape[-2:]))
        raise BadInput(
            f"{what} has {found} pixels, the augmentation was made for {size[1]} x {size[0]}.",
            "Make one augmentation for each size of frame.",
        )


def _turned(x: Tensor, quantity: str, matrix: Float[Array, "3 3"]) -> Tensor:
    """Vectors turned with the picture: flow by the linear part of A, normals by its rotation.

    Normals of one picture keep their length, so zoom leaves them; depth along the axis too.
    """
    if quantity == "scalar":
        return x
    if quantity not in CHANNELS:
        raise BadInput(
            f'Undo of "{quantity!s:.40}" is not known: vectors turn with the picture.',
            f"Name {' or '.join(CHANNELS)}, or scalar for one value a pixel.",
        )
    wanted = CHANNELS[quantity]
    if x.ndim < 3 or x.shape[-3] != wanted:
        found = x.shape[-3] if x.ndim > 2 else 1
        message = f"{quantity} has {wanted} channels before height and width, got {found}."
        raise BadInput(message, "Put the channels third from last.")
    linear = matrix[:2, :2]
    if quantity == "normals":
        left, _, right = np.linalg.svd(linear)  # the nearest rotation; sides are whole pixels
        linear = left @ right
    turn = torch.from_numpy(linear).to(x)
    plane = torch.einsum("ij,...jhw->...ihw", turn, x[..., :2, :, :])
    return torch.cat([plane, x[..., 2:, :, :]], dim=-3)
