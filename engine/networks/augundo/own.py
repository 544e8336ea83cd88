"""A visitor's own picture with depth and intrinsics: read, checked, made small enough to look at.

Depth comes as `.npy` (metres) or as a PNG of 16 bit (256 to the metre, 0 unknown, as KITTI and VOID
have it). Every size is read from the head of the file before anything is laid out.
"""

import base64
import binascii
import io
import struct

import numpy as np
import torch
from PIL import Image

from engine.core.errors import BadInput
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.networks.augundo.augmentation import Augmentation

MOST_BYTES = 8_000_000
MOST_TEXT = MOST_BYTES * 4 // 3 + 100
LARGEST_PIXELS, LONGEST_SHOWN = 4_000_000, 256
PNG_STEPS = 256  # to the metre
DEPTH_FILES = "Save metres as .npy, or a PNG of 16 bit with 256 to the metre."
K_FORMS = "Write fx, fy, cx, cy or the nine numbers of K, in pixels."
LARGEST_DEPTH = 1000.0


def depth_of(text: str) -> Float[Array, "h w"]:
    """Metres, 0 where unknown, from a file as base64 or a data URL. Raises `BadInput`."""
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("The depth file did not arrive whole.", "Upload it again.") from error
    if len(data) > MOST_BYTES:
        raise BadInput("The depth file is larger than 8 MB.", "Make the pictures smaller.")
    if data.startswith(b"\x93NUMPY"):
        depth = _of_npy(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        depth = _of_png(data)
    else:
        raise BadInput("The depth file is neither .npy nor PNG.", DEPTH_FILES)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
    if not (depth > 0).any() or depth.max() > LARGEST_DEPTH:
        raise BadInput("The depth has no value between 0 and 1000 m.", DEPTH_FILES)
    return depth


def _of_npy(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, TypeError) as error:
        raise BadInput("The .npy file is damaged.", DEPTH_FILES) from error
    sides = [side for side in shape if side != 1]
    size = int(np.prod([int(side) for side in shape], dtype=object)) if shape else 0
    if len(sides) != 2 or dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise BadInput("The .npy file holds no numbers of one picture, h x w.", DEPTH_FILES)
    if size > LARGEST_PIXELS or size * dtype.itemsize != len(data) - file.tell():
        raise BadInput("The .npy file does not hold what its head says.", DEPTH_FILES)
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(sides, order="F" if fortran else "C").astype(np.float64)


def _of_png(data: bytes) -> np.ndarray:
    width, height = struct.unpack_from(">II", data.ljust(24, b"\0"), 16)
    if not 0 < width * height <= LARGEST_PIXELS:
        raise BadInput("The depth has too many pixels.", "Take one below 4 megapixels.")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if not image.mode.startswith("I"):
                raise BadInput("The depth PNG has 8 bit, which is no depth.", DEPTH_FILES)
            return np.asarray(image).astype(np.float64) / PNG_STEPS
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput("The depth PNG is damaged.", DEPTH_FILES) from error


def intrinsics_of(text: str, height: int, width: int) -> Float[Array, "3 3"]:
    """K of a text with four or nine numbers; without a text, a camera that sees 65 degrees.

    Raises `BadInput` for what is no intrinsic matrix of such a picture.
    """
    if not text.strip():
        focal = 0.785 * width
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    try:
        numbers = [float(word) for word in text.replace(";", ",").replace(",", " ").split()]
    except ValueError as error:
        raise BadInput("K holds something that is no number.", K_FORMS) from error
    if len(numbers) == 4:
        fx, fy, cx, cy = numbers
        numbers = [fx, 0, cx, 0, fy, cy, 0, 0, 1]
    if len(numbers) != 9:
        raise BadInput(f"K has {len(numbers)} numbers.", K_FORMS)
    return checked_intrinsics(np.array(numbers).reshape(3, 3), height, width)


def checked_intrinsics(k: Float[Array, "3 3"], height: int, width: int) -> Float[Array, "3 3"]:
    """The same matrix. Raises `BadInput` when it is no intrinsic one of a picture of this size."""
    triangular = np.isfinite(k).all() and k[1, 0] == 0 and np.array_equal(k[2], (0, 0, 1))
    if not triangular or min(k[0, 0], k[1, 1]) <= 0:
        raise BadInput(
            "K is no intrinsic matrix: below its diagonal stand zeros, the last row is 0 0 1, and "
            "both focal lengths are above 0.",
            K_FORMS,
        )
    if not (-width < k[0, 2] < 2 * width and -height < k[1, 2] < 2 * height):
        raise BadInput(
            f"The middle of K, ({k[0, 2]:g}, {k[1, 2]:g}), is far outside of the "
            f"{width} x {height} pixels.",
            "Give K in pixels of this very picture.",
        )
    return k


def fitted(
    picture: UInt8[Array, "h w 3"], depth: Float[Array, "rows columns"], k: Float[Array, "3 3"]
) -> tuple[Float[Tensor, "1 3 i j"], Float[Tensor, "1 1 i j"], Float[Tensor, "1 3 3"], int]:
    """Picture, depth and K with sides divided by a whole number, so that 256 pixels are not passed.

    Depths are picked and not averaged. Raises `BadInput` for different sizes.
    """
    if picture.shape[:2] != depth.shape:
        height, width = picture.shape[:2]
        raise BadInput(
            f"The picture has {width} x {height} pixels and the depth "
            f"{depth.shape[1]} x {depth.shape[0]}.",
            "Both must be of one size.",
        )
    shrink = -(-max(depth.shape) // LONGEST_SHOWN)
    if min(depth.shape) // shrink < 16:
        raise BadInput("The picture is too small or too narrow.", "Take at least 16 x 16 pixels.")
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.avg_pool2d(image, shrink)
    height, width = image.shape[-2:]
    picked = depth[shrink // 2 :: shrink, shrink // 2 :: shrink][:height, :width]
    smaller = np.diag([1 / shrink, 1 / shrink, 1.0])
    smaller[:2, 2] = -(shrink - 1) / (2 * shrink)
    return (
        image,
        torch.from_numpy(picked.copy()).float()[None, None],
        torch.from_numpy(smaller @ k).float()[None],
        shrink,
    )


def script(aug: Augmentation, settings: str, k: Float[Tensor, "1 3 3"]) -> str:
    """A Python file that makes the same augmentation and says where undo and mask go."""
    rows = ", ".join(str([round(float(v), 4) for v in row]) for row in k[0])
    return f'''"""The augmentation of this run, for your own training loop."""

import torch

from engine.networks.augundo.augmentation import Augmentation

aug = Augmentation.of({aug.size}, {settings})
K = torch.tensor([{rows}])
K_aug = aug.intrinsics(K)  # a new tensor; the loss goes on with K
mask = aug.mask()  # 1 where the network has seen the pixel


def step(network, image, sparse, loss):
    """One training step: geometry in, depth out, undone, and compared where it began."""
    depth = network(aug(image), aug(sparse, fill="zero"), K_aug.expand(len(image), 3, 3))
    return loss(aug.undo(depth), image, sparse, K, weight=mask)
'''
