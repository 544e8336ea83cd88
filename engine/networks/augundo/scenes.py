"""Two views of a place with the true depth: rooms drawn here, and a real motorcycle.

The motorcycle is one of the Middlebury 2014 stereo pictures (Nesic, Westling, Wang, Kitajima,
Krathwohl, Scharstein), quartered by scikit-image, in whose package it lies. It has no licence of
its own, so it does not ship here: it is read from the installed package, known by its sha256.
Depth is f B / (disparity + offset of the principal points), 2.1 to 5 metres.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.core.cache import LruCache
from engine.core.errors import AssetMissing
from engine.core.rng import generator
from engine.core.shapes import Float, Tensor
from engine.networks.augundo import rooms

FILES: Mapping[str, str] = {
    "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    "motorcycle_right.png": "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
    "motorcycle_disp.npz": "2e49c8cebff3fa20359a0cc6880c82e1c03bbb106da81a177218281bc2f113d7",
}
FOCAL, CENTRE_X, CENTRE_Y, OFFSET, BASELINE = 994.978, 311.193, 254.877, 31.086, 0.193001
CREDIT = (
    "Middlebury stereo 2014: N. Nesic, P. Westling, X. Wang, Y. Kitajima, G. Krathwohl and "
    "D. Scharstein; quartered by scikit-image."
)


@dataclass(frozen=True)
class Scene:
    """Batches of one or more places: two pictures in [0, 1], depth in metres (0: unknown).

    `pose` takes points of the first camera to the second.
    """

    image: Float[Tensor, "n 3 h w"]
    next_image: Float[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n 1 h w"]
    k: Float[Tensor, "n 3 3"]
    k_next: Float[Tensor, "n 3 3"]
    pose: Float[Tensor, "n 4 4"]

    @property
    def size(self) -> tuple[int, int]:
        return int(self.depth.shape[-2]), int(self.depth.shape[-1])

    def __getitem__(self, place: int | slice | Tensor) -> "Scene":
        """Some of the places, as a batch."""
        which = slice(place, place + 1) if isinstance(place, int) else place
        return Scene(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def room(seed: int, height: int = 144, width: int = 192) -> Scene:
    """A furnished room, and the same from 16 cm to the right."""
    return _ROOMS.get((seed, height, width), lambda: _room(seed, height, width))


# Rooms of the training, and some that are looked at.
_ROOMS: LruCache[Scene] = LruCache(megabytes=24)


def _room(seed: int, height: int, width: int) -> Scene:
    left, right = rooms.pair(seed, height, width)
    k = torch.from_numpy(rooms.intrinsics(height, width)).float()[None]
    return Scene(
        torch.from_numpy(left.picture)[None],
        torch.from_numpy(right.picture)[None],
        torch.from_numpy(left.depth)[None],
        k,
        k,
        _to_the_right(rooms.BASELINE),
    )


def joined(scenes: list[Scene]) -> Scene:
    """Scenes of one size as a batch."""
    names = Scene.__dataclass_fields__
    return Scene(*(torch.cat([getattr(scene, name) for scene in scenes]) for name in names))


def has_motorcycle() -> bool:
    """Whether the package that brings it is installed."""
    return find_spec("skimage") is not None


@lru_cache(maxsize=1)
def motorcycle(shrink: int = 3) -> Scene:
    """The real pair, its sides divided by `shrink`. Raises `AssetMissing`."""
    folder = _package()
    left, right = (
        np.asarray(Image.open(folder / f"motorcycle_{side}.png").convert("RGB"))
        for side in ("left", "right")
    )
    with np.load(folder / "motorcycle_disp.npz", allow_pickle=False) as file:
        disparity = file["arr_0"].astype(np.float64)
    known = np.isfinite(disparity)
    depth = np.where(known, FOCAL * BASELINE / (np.where(known, disparity, 0) + OFFSET), 0)
    height, width = (side // shrink * shrink for side in depth.shape)
    k, k_next = (
        torch.tensor([[FOCAL, 0, x], [0, FOCAL, CENTRE_Y], [0, 0, 1]])[None]
        for x in (CENTRE_X, CENTRE_X + OFFSET)
    )
    # The middle of a block of pixels keeps its place: x / s - (s - 1) / 2s.
    smaller = torch.tensor([[1 / shrink, 0, 0], [0, 1 / shrink, 0], [0, 0, 1.0]])
    smaller[:2, 2] = -(shrink - 1) / (2 * shrink)
    image, next_image = (
        torch.from_numpy(np.array(one[:height, :width])).permute(2, 0, 1)[None].float() / 255
        for one in (left, right)
    )
    middle = shrink // 2
    return Scene(
        torch.nn.functional.avg_pool2d(image, shrink),
        torch.nn.functional.avg_pool2d(next_image, shrink),
        torch.from_numpy(depth[middle:height:shrink, middle:width:shrink]).float()[None, None],
        smaller @ k,
        smaller @ k_next,
        _to_the_right(BASELINE),
    )


def _package() -> Path:
    """The folder of the package's pictures, each of them looked at."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise AssetMissing(
            "The real picture lies in the package scikit-image, which is not installed here.",
            "Take a room, or run: pip install scikit-image==0.26.0",
        )
    folder = Path(found.origin).parent / "data"
    for name, digest in FILES.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise AssetMissing(
                f"{name} of the installed scikit-image is not the file that is known here.",
                "Take a room, or install scikit-image 0.26.0.",
            )
    return folder


def _to_the_right(metres: float) -> Float[Tensor, "1 4 4"]:
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = -metres
    return pose


def measured_points(
    depth: Float[Tensor, "n 1 h w"], share: float, seed: int
) -> Float[Tensor, "n 1 h w"]:
    """Sparse depth: about this share of the known pixels, 0 elsewhere."""
    drawn = torch.rand(depth.shape, generator=generator(seed, "points")).to(depth.device)
    return torch.where((drawn < share) & (depth > 0), depth, torch.zeros_like(depth))
