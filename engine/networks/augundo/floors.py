"""Loss floors: what the photometric loss charges for the true depth, under each policy.

A network that minimises the loss moves away from the truth as soon as the truth is charged more
than something else. So before anything is trained, one can ask what each way of augmenting charges
for a perfect answer:

    none         the pair as it was taken
    naive        transformed pictures and depth, cameras left as they were
    transformed  transformed pictures and depth, both cameras A K
    undo         original pictures, depth transformed and undone, where the mask is 1
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from engine.core.shapes import Float, Tensor
from engine.networks.augundo import losses
from engine.networks.augundo.augmentation import Augmentation
from engine.networks.augundo.scenes import Scene

POLICIES = {
    "none": "no transform",
    "naive": "naive, geometry unchanged",
    "transformed": "naive, geometry transformed",
    "undo": "undo",
}


@dataclass(frozen=True)
class Floors:
    """The mean absolute difference of colours (of 1, a channel) at the true depth, by policy."""

    none: float
    naive: float
    transformed: float
    undo: float


@dataclass(frozen=True)
class Kept:
    """Of the known pixels the share that is still supervised; of the sparse points, the share that
    is there for the loss; and the mean of |undo(aug(Z)) - Z| in metres."""

    supervised: float
    points_naive: float
    points_undo: float
    undo_error: float


@torch.no_grad()
def floors(
    scene: Scene, aug: Augmentation, interpolation: Literal["nearest", "bilinear"] = "nearest"
) -> Floors:
    """All four on one scene."""
    moved = Scene(
        aug(scene.image), aug(scene.next_image), aug(scene.depth, fill="zero"), scene.k,
        scene.k_next, scene.pose,
    )  # fmt: skip
    turned = replace(moved, k=aug.intrinsics(scene.k), k_next=aug.intrinsics(scene.k_next))
    there = aug(torch.ones(1, 1, *aug.size), fill="zero")
    undone = aug.undo(moved.depth, interpolation=interpolation)
    return Floors(
        none=charged(scene, scene.depth),
        naive=charged(moved, moved.depth, there=there),
        transformed=charged(turned, turned.depth, there=there),
        undo=charged(scene, undone, aug.mask()),
    )


@torch.no_grad()
def kept(
    depth: Float[Tensor, "1 1 h w"],
    points: Float[Tensor, "1 1 h w"],
    aug: Augmentation,
    interpolation: Literal["nearest", "bilinear"] = "nearest",
) -> Kept:
    """What the transform leaves to learn from, with the undo and without."""
    moved, mask = aug(depth, fill="zero"), aug.mask()
    undone = aug.undo(moved, interpolation=interpolation)
    known = (depth > 0) * (undone > 0) * mask
    total = max(1, int((points > 0).sum()))
    return Kept(
        supervised=float(known.sum() / (depth > 0).sum().clamp(min=1)),
        points_naive=int((aug(points, fill="zero") > 0).sum()) / total,
        points_undo=float(((points > 0) * mask).sum()) / total,
        undo_error=float(((undone - depth).abs() * known).sum() / known.sum().clamp(min=1)),
    )


def charged(
    scene: Scene,
    depth: Float[Tensor, "n 1 h w"],
    weight: Float[Tensor, "1 1 h w"] | None = None,
    there: Float[Tensor, "1 1 h w"] | None = None,
) -> float:
    """The difference of colours that a depth is charged, where it is known.

    Asked only where the place lies inside the next picture, which is real where `there` is 1:
    nobody is charged for black corners.
    """
    xy = losses.seen_from(depth, scene.k, scene.k_next, scene.pose)
    height, width = scene.size
    limits = torch.tensor([width - 1.0, height - 1.0])[None, :, None, None]
    asked = (((xy >= 0) & (xy <= limits)).all(1, keepdim=True) & (depth > 0)).to(depth)
    if there is not None:
        asked = asked * (losses.read_at(there.expand(len(xy), -1, -1, -1), xy) > 0.999)
    if weight is not None:
        asked = asked * weight
    recon = losses.read_at(scene.next_image, xy)
    return float(losses.color(recon, scene.image, asked)) / 3
