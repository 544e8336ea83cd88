"""Real volumes to segment: an average of 152 brains with tissue labels, and one brain besides.

The MNI ICBM 152 average (2009a, symmetric) and the Colin 27 average of one man's scans, both by
the McConnell Brain Imaging Centre, averaged to 2 mm. They are templates, not patients. Labels:
0 outside, 1 grey matter, 2 white matter, 3 other brain, out of the template's probability maps.

The template is symmetric, so it must never be split left and right: training has the posterior 62
coronal slices, the test the anterior 48, with a gap of six in between.
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
from engine.core.shapes import Array, Float, Tensor, UInt8

FOLDER = ROOT / "assets" / "data" / "brain"
CLASSES = ("outside", "grey matter", "white matter", "other brain")
COLUMNS = 10
TRAIN, GAP = 62, 6  # coronal slices from the back
Name = Literal["average", "single"]


@dataclass(frozen=True)
class Volume:
    """Intensities, labels (None where there are none), and the place of every voxel in mm."""

    voxels: UInt8[Array, "d h w"]
    labels: UInt8[Array, "d h w"] | None
    affine: Float[Array, "4 4"]

    def part(self, which: Literal["train", "test", "all"]) -> "Volume":
        """The posterior slices, the anterior ones, or everything."""
        first = {"train": 0, "test": TRAIN + GAP, "all": 0}[which]
        last = TRAIN if which == "train" else self.voxels.shape[1]
        moved = self.affine.copy()
        moved[:3, 3] += self.affine[:3, 1] * first
        labels = None if self.labels is None else self.labels[:, first:last]
        return Volume(self.voxels[:, first:last], labels, moved)


@cache
def volume(name: Name) -> Volume:
    """A shipped volume, axes right, anterior, superior. Raises `AssetMissing`."""
    try:
        told = json.loads((FOLDER / "volumes.json").read_text(encoding="utf-8"))[name]
        voxels = _read(f"{name}.png", told["shape"])
        labels = _read(f"{name}-labels.png", told["shape"]) if told["has_labels"] else None
    except (OSError, KeyError) as error:
        raise AssetMissing(
            "The brain volumes are not in assets/data/brain.",
            "Fetch the repository again, or run: python -m engine.zoo build brain-data",
        ) from error
    return Volume(voxels, labels, np.array(told["affine"], np.float64))


def standardised(voxels: Array) -> Float[Tensor, "1 1 d h w"]:
    """Zero mean and unit deviation inside the brain, zero outside, as the network takes it."""
    x = torch.from_numpy(np.array(voxels)).float()
    inside = x > 0
    chosen = x[inside]
    spread = chosen.std() if chosen.numel() > 1 else torch.tensor(1.0)
    return torch.where(inside, (x - chosen.mean()) / spread.clamp(min=1e-6), 0.0)[None, None]


def to_sheet(voxels: UInt8[Array, "d h w"]) -> UInt8[Array, "height width"]:
    """Axial slices side by side, `COLUMNS` in a row, the last row filled up with zeros."""
    slices = voxels.transpose(2, 0, 1)
    short = -len(slices) % COLUMNS
    full = np.concatenate([slices, np.zeros((short, *slices.shape[1:]), np.uint8)])
    rows = full.reshape(-1, COLUMNS, *slices.shape[1:]).transpose(0, 2, 1, 3)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1)


def from_sheet(sheet: UInt8[Array, "height width"], shape: list[int]) -> UInt8[Array, "d h w"]:
    """The volume of a sheet."""
    d, h, w = shape
    rows = sheet.reshape(-1, d, COLUMNS, h).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows.reshape(-1, d, h)[:w].transpose(1, 2, 0))


def _read(name: str, shape: list[int]) -> UInt8[Array, "d h w"]:
    with Image.open(FOLDER / name) as sheet:
        found = from_sheet(np.asarray(sheet), shape)
    found.flags.writeable = False
    return found
