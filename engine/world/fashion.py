"""Real pictures for unlearning: 20,000 garments to train on and 4,000 to test on.

They are the first of Fashion-MNIST (Zalando SE, MIT), 28 x 28 grey, in the order of the data set,
and lie as sheets in `assets/data/fashion`. Place in the sheet is a picture's id.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from engine.core.errors import AssetMissing
from engine.core.shapes import Array, UInt8

FOLDER = Path(__file__).parents[2] / "assets" / "data" / "fashion"
SIDE, COLUMNS = 28, 100
CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
GROUPS = ("top", "trouser", "dress", "shoe", "bag")
# The group of each class. Shirts have their nearest neighbours within their own group.
GROUP_OF = (0, 1, 0, 2, 0, 3, 0, 3, 4, 3)
Part = Literal["train", "test"]
SHEETS: Mapping[Part, tuple[str, ...]] = {"train": ("train-1", "train-2"), "test": ("test",)}
"""Of at most 10,000 pictures: a larger sheet would have more pixels than a picture may."""


@dataclass(frozen=True)
class Garments:
    """One part of the data: pictures, and the class of each in `CLASSES`."""

    pixels: UInt8[Array, "n 28 28"]
    labels: UInt8[Array, " n"]

    @property
    def groups(self) -> UInt8[Array, " n"]:
        """The group of each picture in `GROUPS`."""
        return np.array(GROUP_OF, np.uint8)[self.labels]


@cache
def garments(part: Part) -> Garments:
    """The pictures of a part; read-only. Raises `AssetMissing` where they are not there."""
    try:
        pixels = np.concatenate([_opened(name) for name in SHEETS[part]])
        digits = json.loads((FOLDER / "labels.json").read_text())[part]
    except OSError as error:
        raise AssetMissing(
            "The pictures of garments are not in assets/data/fashion.",
            "Fetch the repository again, or run: python -m engine.zoo build fashion-data",
        ) from error
    pixels.flags.writeable = False
    return Garments(pixels, np.frombuffer(digits.encode(), np.uint8) - ord("0"))


def _opened(name: str) -> UInt8[Array, "n 28 28"]:
    with Image.open(FOLDER / f"{name}.png") as sheet:
        return from_sheet(np.asarray(sheet))


def to_sheet(pixels: UInt8[Array, "n 28 28"]) -> UInt8[Array, "height width"]:
    """Pictures side by side, `COLUMNS` in a row."""
    rows = pixels.reshape(-1, COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3)
    return rows.reshape(-1, COLUMNS * SIDE)


def from_sheet(sheet: UInt8[Array, "height width"]) -> UInt8[Array, "n 28 28"]:
    """The pictures of a sheet."""
    rows = sheet.reshape(-1, SIDE, COLUMNS, SIDE).transpose(0, 2, 1, 3)
    return rows.reshape(-1, SIDE, SIDE).copy()
