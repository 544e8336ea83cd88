"""The golden cases: operations and losses of the authors' surviving code, compared with these.

    python -m pytest tests/networks/test_augundo.py -m golden

`augundo_geometric`: six operations with fixed parameters, exact indices, so nothing may differ.
`augundo_losses`: the losses in float64 with one neighbouring view, and the gradient; 1e-10.
"""

from functools import partial

import numpy as np
import torch

from engine.core.golden import Arrays, Check, Golden, apart, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.networks.augundo import losses
from engine.networks.augundo.geometry import (
    CropPad,
    Flip,
    ResizeCrop,
    ResizePad,
    Rotate,
    Transform,
)

EXACT, TOLERANCE = 1e-6, 1e-10
OPERATIONS = ("hflip", "vflip", "crop_pad", "resize_pad", "resize_crop", "rotate")


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def transform_of(arrays: Arrays, name: str) -> Transform:
    """The operation with the parameters that the arrays hold."""
    if name in ("hflip", "vflip"):
        return Flip(name == "hflip")
    if name == "rotate":
        return Rotate(float(arrays["angle"]))
    if name == "crop_pad":
        top, left, bottom, right = map(int, arrays["crop"])
        down, across = map(int, arrays["pad"])
        return CropPad((top, left, bottom, right), (down, across))
    scale, y, x = map(float, arrays[name])
    kind = ResizePad if name == "resize_pad" else ResizeCrop
    return kind(scale, (int(y), int(x)))


def _operation(arrays: Arrays, name: str) -> float:
    """Picture, sparse points and undo of one operation."""
    step = transform_of(arrays, name)
    image, points, ahead = (
        torch.from_numpy(arrays[key]) for key in ("image", "sparse", f"{name}_undo_in")
    )
    size = image.shape[-2], image.shape[-1]
    return max(
        apart(step.forward(image, "edge"), arrays[f"{name}_image"]),
        apart(step.forward(points, "zero"), arrays[f"{name}_sparse"]),
        apart(step.undo(ahead, size, "edge"), arrays[f"{name}_undo"]),
    )


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def _parts(arrays: Arrays) -> float:
    """Filter, re-projection and each of the four losses."""
    a = _tensors(arrays)
    xy = losses.seen_from(a["depth"], a["K"], a["K"], a["pose0to1"])
    recon = losses.read_at(a["image1"], xy)
    points = losses.without_outliers(a["sparse"])
    found = losses.loss_of(a["depth"], a["image0"], recon, points)
    return max(
        apart(points, arrays["filtered_sparse"]),
        largest(xy, arrays["xy"]),
        apart(recon, arrays["recon"]),
        apart(found.color, arrays["color"]),
        apart(found.structure, arrays["structure"]),
        apart(found.sparse, arrays["sparse_loss"]),
        apart(found.smooth, arrays["smooth"]),
        apart(found.total, arrays["total"]),
    )


def _gradient(arrays: Arrays) -> float:
    """The gradient of the sum with respect to the depth."""
    a = _tensors(arrays)
    with torch.enable_grad():
        depth = a["depth"].requires_grad_()
        recon = losses.read_at(a["image1"], losses.seen_from(depth, a["K"], a["K"], a["pose0to1"]))
        total = losses.loss_of(
            depth, a["image0"], recon, losses.without_outliers(a["sparse"])
        ).total
        (found,) = torch.autograd.grad(total, [depth])
    return apart(found, arrays["grad_depth"])


CHECKS: dict[str, tuple[Check, ...]] = {
    "augundo_geometric": tuple(
        (f"{name}, there and back", EXACT, partial(_operation, name=name)) for name in OPERATIONS
    ),
    "augundo_losses": (
        ("re-projection and four losses", TOLERANCE, _parts),
        ("gradient", TOLERANCE, _gradient),
    ),
}
