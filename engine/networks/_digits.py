"""1,797 scanned digits of 8 x 8 pixels, and the same turned into another task.

Optical recognition of handwritten digits, E. Alpaydin and C. Kaynak, as scikit-learn ships them. A
pixel is a count from 0 to 16; the sheet holds 15 times that. The first 1,297 are for training.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from PIL import Image

from engine.core.catalog import ROOT
from engine.core.errors import AssetMissing
from engine.core.shapes import Array, Int, Tensor, UInt8
from engine.networks._backbones import Batch

FOLDER = ROOT / "assets" / "data" / "digits"
SIDE, COLUMNS, TRAIN = 8, 60, 1297
STEP = 15  # of grey for each count
PATCH = 2
Task = Literal["a", "b"]
"""a: digits as they are. b: inverted and transposed, which a network of task a cannot read."""


@dataclass(frozen=True)
class Digits:
    """Counts 0 to 16 and the digit of each."""

    pixels: UInt8[Array, "n 8 8"]
    labels: UInt8[Array, " n"]

    def task(self, task: Task) -> "Digits":
        """The pictures as the task shows them."""
        if task == "a":
            return self
        return Digits(16 - self.pixels.transpose(0, 2, 1), self.labels)


@cache
def digits(part: Literal["train", "test"]) -> Digits:
    """The pictures of a part. Raises `AssetMissing` where they are not there."""
    try:
        with Image.open(FOLDER / "digits.png") as sheet:
            pixels = from_sheet(np.asarray(sheet)) // STEP
        labels = json.loads((FOLDER / "labels.json").read_text(encoding="utf-8"))["labels"]
    except OSError as error:
        raise AssetMissing(
            "The scanned digits are not in assets/data/digits.", "Fetch the repository again."
        ) from error
    known = np.frombuffer(labels.encode(), np.uint8) - ord("0")
    rows = slice(0, TRAIN) if part == "train" else slice(TRAIN, len(known))
    return Digits(pixels[: len(known)][rows], known[rows])


def batch_of(pixels: UInt8[Array, "n 8 8"]) -> Batch:
    """Sixteen tokens of 2 x 2 pixels each, in [0, 1]."""
    n, tokens = len(pixels), SIDE // PATCH
    cut = pixels.reshape(n, tokens, PATCH, tokens, PATCH).transpose(0, 1, 3, 2, 4)
    flat = torch.from_numpy(np.ascontiguousarray(cut.reshape(n, tokens**2, PATCH**2)))
    return Batch(flat.float() / 16, torch.ones(n, tokens**2, dtype=torch.long))


def labels_of(found: Digits) -> Int[Tensor, " n"]:
    """The digits as torch takes them."""
    return torch.from_numpy(found.labels.astype(np.int64))


def to_sheet(pixels: UInt8[Array, "n 8 8"]) -> UInt8[Array, "height width"]:
    """Pictures side by side, `COLUMNS` in a row, the last row filled up with black."""
    short = -len(pixels) % COLUMNS
    full = np.concatenate([pixels, np.zeros((short, SIDE, SIDE), np.uint8)])
    rows = full.reshape(-1, COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3)
    return rows.reshape(-1, COLUMNS * SIDE)


def from_sheet(sheet: UInt8[Array, "height width"]) -> UInt8[Array, "n 8 8"]:
    """The pictures of a sheet."""
    rows = sheet.reshape(-1, SIDE, COLUMNS, SIDE).transpose(0, 2, 1, 3)
    return rows.reshape(-1, SIDE, SIDE)
