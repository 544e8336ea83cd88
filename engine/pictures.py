"""Pictures of visitors: their files, and as text inside recipes.

A recipe holds a picture as a PNG in text, so that the recipe's file holds all that a run needs.
"""

import base64
import io
import struct
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.core import budgets
from engine.core.errors import BadInput

HEAD = "data:image/png;base64,"
Image.MAX_IMAGE_PIXELS = budgets.FILE_PIXELS


def as_text(picture: NDArray[np.uint8]) -> str:
    """A picture, `h w 3`, as a data URL; every pixel kept. A grey one takes a third of the room."""
    is_grey = bool((picture == picture[..., :1]).all())
    buffer = io.BytesIO()
    kept = picture[..., 0] if is_grey else picture
    Image.fromarray(np.ascontiguousarray(kept)).save(buffer, "PNG")
    return HEAD + base64.b64encode(buffer.getvalue()).decode("ascii")


def from_text(text: str) -> NDArray[np.uint8]:
    """The picture in such a text, `h w 3`. Raises `BadInput` when it is none or too large."""
    width, height = size_in(text)
    if width * height > budgets.PICTURE_PIXELS:
        raise BadInput("The picture has too many pixels.", "Take one below 4 megapixels.")
    try:
        data = base64.b64decode(text[len(HEAD) :], validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise _damaged() from error


def size_in(text: str) -> tuple[int, int]:
    """Width and height in the head of such a text; nothing else of it is decoded.

    Raises `BadInput` when it has no head of a PNG.
    """
    try:
        head = base64.b64decode(text[len(HEAD) : len(HEAD) + 32], validate=True)
    except ValueError as error:
        raise _damaged() from error
    if not text.startswith(HEAD) or len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise _damaged()
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


def _damaged() -> BadInput:
    return BadInput("The picture in the recipe is damaged.", "Upload it again.")


@dataclass(frozen=True)
class PictureText:
    """How a job takes a picture: as the text of a recipe, or as an array; see `settings.Packed`."""

    def check(self, name: str, value: object) -> None:
        if isinstance(value, np.ndarray):
            if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3 or not value.size:
                raise BadInput(f"{name} is no picture with three colours.", "Upload PNG or JPEG.")
            return
        if not isinstance(value, str) or not value.startswith(HEAD):
            raise BadInput(f"{name} must be a picture, got {value!r:.40}.", "Upload PNG or JPEG.")
        width, height = size_in(value)
        if not 0 < width * height <= budgets.PICTURE_PIXELS:
            raise BadInput(
                f"{name} is a picture of {width} x {height} pixels, too many to take.",
                f"Take one below {budgets.PICTURE_PIXELS / 1e6:.0f} megapixels.",
            )

    def nbytes(self, value: object) -> int:
        if isinstance(value, np.ndarray):
            return value.nbytes
        width, height = size_in(str(value))
        return 3 * width * height

    def unpack(self, value: object) -> NDArray[np.uint8]:
        return value if isinstance(value, np.ndarray) else from_text(str(value))


# A setting that is a picture, uint8, `h w 3`.
PictureSetting = Annotated[NDArray[np.uint8], PictureText()]


def opened(path: object) -> Image.Image:
    """The picture in a file, in RGB and turned as its camera says. Raises `BadInput`."""
    try:
        with Image.open(str(path)) as image:
            return _in_colour(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels are allowed"
        raise BadInput(f"The picture has too many pixels; {most}.", "Make it smaller.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput("This file does not read as a picture.", "Try PNG or JPEG.") from error


def _in_colour(image: Image.Image) -> Image.Image:
    """The picture in RGB: 16 bits brought to 8, and white where it lets the page through."""
    if image.mode.startswith("I"):  # PIL would cut off all values above 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).astype("uint8")).convert(
            "RGB"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def at_most(picture: Image.Image, side: int | None = None) -> NDArray[np.uint8]:
    """The picture with no longer side than this, or of as many pixels as a recipe may hold."""
    small = picture.copy()
    share = min(1.0, (budgets.PICTURE_PIXELS / (picture.width * picture.height)) ** 0.5)
    longest = int(max(picture.size) * share) if side is None else side
    small.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return np.asarray(small)
