"""Pictures of visitors: their files, and as text inside recipes.

A recipe holds a picture as a PNG in text, so that the recipe's file holds all that a run needs.
"""

import base64
import binascii
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.core.errors import BadInput

HEAD = "data:image/png;base64,"
MOST_PIXELS = 4_000_000
# PIL warns above this number of pixels and refuses above twice as many. Photographs of phones are
# taken; the largest fills 75 MB while it is decoded.
Image.MAX_IMAGE_PIXELS = 12_500_000


def as_text(picture: NDArray[np.uint8]) -> str:
    """A picture, `h w 3`, as a data URL; every pixel kept."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return HEAD + base64.b64encode(buffer.getvalue()).decode("ascii")


def from_text(text: str) -> NDArray[np.uint8]:
    """The picture in such a text, `h w 3`. Raises `BadInput` when it is none or too large."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text[len(HEAD) :], validate=True))) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_large()
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except (OSError, binascii.Error, SyntaxError) as error:
        raise BadInput("The picture in the recipe is damaged.", "Upload it again.") from error


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
    share = min(1.0, (MOST_PIXELS / (picture.width * picture.height)) ** 0.5)
    longest = int(max(picture.size) * share) if side is None else side
    small.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return np.asarray(small)


def unpacked(params: Mapping[str, object]) -> dict[str, object]:
    """The settings of a recipe with its pictures as arrays, as a job takes them."""
    return {name: _unpacked(value) for name, value in params.items()}


def _unpacked(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_unpacked(item) for item in value]
    return from_text(value) if isinstance(value, str) and value.startswith(HEAD) else value


def _too_large() -> BadInput:
    return BadInput("The picture has too many pixels.", "Take one below 4 megapixels.")
