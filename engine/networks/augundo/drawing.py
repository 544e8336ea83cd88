"""Depth, masks, errors and sparse points as pictures."""

import numpy as np

from engine.core.shapes import Array, Float, Tensor, UInt8

PAPER = np.array([232, 230, 224])
# From near to far: light and warm, then dark and cold.
COLOURS = np.array(
    [[255, 240, 205], [246, 190, 110], [214, 110, 98], [128, 62, 124], [54, 44, 104], [16, 18, 42]]
)
ERROR = np.array([196, 61, 23])
LARGEST_ERROR = 0.3  # metres


def picture(image: Float[Tensor, "1 3 h w"]) -> UInt8[Array, "h w 3"]:
    """Colours in [0, 1] as bytes."""
    return (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def depth_picture(
    depth: Float[Tensor, "1 1 h w"], low: float, high: float
) -> UInt8[Array, "h w 3"]:
    """Depth from `low` to `high`, unknown places like paper."""
    values = depth[0, 0].numpy()
    place = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * (len(COLOURS) - 1)
    colour = np.stack(
        [np.interp(place, np.arange(len(COLOURS)), COLOURS[:, c]) for c in range(3)], -1
    )
    return np.where((values > 0)[..., None], colour, PAPER).round().astype(np.uint8)


def with_points(
    image: UInt8[Array, "h w 3"], points: Float[Tensor, "1 1 h w"], low: float, high: float
) -> UInt8[Array, "h w 3"]:
    """Sparse points on a picture, two pixels wide so that they can be seen."""
    shown, dots = image.copy(), depth_picture(points, low, high)
    rows, columns = np.nonzero(points[0, 0].numpy() > 0)
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        to = (
            np.minimum(rows + down, len(shown) - 1),
            np.minimum(columns + across, shown.shape[1] - 1),
        )
        shown[to] = dots[rows, columns]
    return shown


def masked(image: UInt8[Array, "h w 3"], mask: Float[Tensor, "1 1 h w"]) -> UInt8[Array, "h w 3"]:
    """The picture where the mask is 1; stripes where nothing may be asked."""
    seen = mask[0, 0].numpy()[..., None] > 0.5
    down, across = np.mgrid[: image.shape[0], : image.shape[1]]
    stripes = np.where(((down + across) // 4 % 2)[..., None], PAPER, ERROR)
    return np.where(seen, image, stripes).astype(np.uint8)


def error_picture(
    gap: Float[Tensor, "1 1 h w"], known: Float[Tensor, "1 1 h w"]
) -> UInt8[Array, "h w 3"]:
    """An error in metres, full at 0.3; places without one like paper."""
    share = np.clip(gap[0, 0].numpy() / LARGEST_ERROR, 0, 1)[..., None] ** 0.7
    colour = 255 + share * (ERROR - 255)
    return np.where(known[0, 0].numpy()[..., None] > 0, colour, PAPER).round().astype(np.uint8)


def on_canvas(frame: UInt8[Array, "h w 3"], height: int, width: int) -> UInt8[Array, "i j 3"]:
    """The frame in the middle of a larger one, so that a film does not jump."""
    canvas = np.broadcast_to(PAPER.astype(np.uint8), (height, width, 3)).copy()
    top, left = (height - frame.shape[0]) // 2, (width - frame.shape[1]) // 2
    canvas[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    return canvas
