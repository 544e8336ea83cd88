"""Pictures inside recipes: a PNG as text, so that a recipe file holds all that a run needs."""

import base64
import binascii
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.core.errors import BadInput

HEAD = "data:image/png;base64,"
MOST_PIXELS = 4_000_000


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


def unpacked(params: Mapping[str, object]) -> dict[str, object]:
    """The settings of a recipe with its pictures as arrays, as a job takes them."""
    return {name: _unpacked(value) for name, value in params.items()}


def _unpacked(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_unpacked(item) for item in value]
    return from_text(value) if isinstance(value, str) and value.startswith(HEAD) else value


def _too_large() -> BadInput:
    return BadInput("The picture has too many pixels.", "Take one below 4 megapixels.")
