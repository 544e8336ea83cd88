"""Training the small network without true depth, under five policies of augmentation.

All arms of a seed share first weights, rooms and draws. Colours and sparse points are changed at
the input of the network alone, in every arm but the first; the losses always read untouched
colours. What differs is the geometry, and in which frame the loss is asked:

    none         nothing is changed
    photometric  colours and points
    naive        and geometry; the loss in the transformed frame, cameras as they were
    transformed  the same with both cameras A K
    undo         and geometry; the loss in the original frame, on the undone depth

All geometric arms are given a mask of what is real, so that none learns from padding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.core.rng import generator
from engine.core.shapes import Float, Tensor
from engine.networks.augundo import losses, scenes
from engine.networks.augundo.augmentation import Augmentation, Ranges
from engine.networks.augundo.network import DepthNetwork, spread, untrained
from engine.networks.augundo.scenes import Scene

ARMS: Mapping[str, str] = {
    "none": "no augmentation",
    "photometric": "colours and points only",
    "naive": "naive, geometry unchanged",
    "transformed": "naive, geometry transformed",
    "undo": "undo",
}
SIZE = (64, 96)
POINTS = 0.01  # share of the pixels that are measured
TEST_ROOMS = 10_000  # seeds from here on are places that no training has seen
# Harder than what is drawn in training, where a rotation comes once in twenty times.
MOVED = Ranges(flip=0.5, crop_pad=1.0, resize_pad=1.0, rotate=1.0, resize_crop=0.0)
WEIGHTS = losses.Weights(smooth=0.1)


@dataclass(frozen=True)
class Reached:
    """Mean absolute error in metres on rooms never seen: as they are, and transformed."""

    step: int
    still: float
    moved: float


def rooms(seeds: Sequence[int]) -> Iterator[Scene]:
    """The rooms of these seeds, at the size of the training."""
    for seed in seeds:
        yield scenes.room(seed, *SIZE)


def train(
    arm: str, train_set: Scene, steps: int, seed: int, *, batch: int = 4, rate: float = 2e-3
) -> Iterator[DepthNetwork]:
    """The network after every step; the same object each time."""
    network = untrained(seed).train()
    points = scenes.measured_points(train_set.depth, POINTS, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps) + 0.02)
        draw = generator(seed, "step", step)
        chosen = torch.randint(len(train_set.depth), (batch,), generator=draw)
        with torch.enable_grad():
            loss = loss_of(arm, network, train_set[chosen], points[chosen], draw)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        yield network


def loss_of(
    arm: str,
    network: DepthNetwork,
    scene: Scene,
    points: Float[Tensor, "n 1 h w"],
    draw: torch.Generator,
) -> Float[Tensor, ""]:
    """The loss of one batch under a policy."""
    is_geometric = arm in ("naive", "transformed", "undo")
    none = Augmentation(scene.size)
    drawn = [Augmentation.sample(scene.size, draw) for _ in range(len(points))]
    augs = drawn if is_geometric else [none] * len(points)
    image, sparse = scene.image, points
    if arm != "none":
        image, sparse = recoloured(image, draw), thinned(points, draw)
    moved = [aug(one) for aug, one in zip(augs, image, strict=True)]
    moved_points = [aug(one, fill="zero") for aug, one in zip(augs, sparse, strict=True)]
    k = torch.stack([aug.intrinsics(one) for aug, one in zip(augs, scene.k, strict=True)])
    depth = network(_together(moved), _together(moved_points), k)
    if arm in ("naive", "transformed"):
        return _in_transformed_frame(arm, scene, points, augs, depth)
    undone = torch.stack([aug.undo(_cut(one, aug)) for aug, one in zip(augs, depth, strict=True)])
    mask = torch.cat([aug.mask() for aug in augs])
    return _loss(undone, scene, points, mask)


def _in_transformed_frame(
    arm: str,
    scene: Scene,
    points: Float[Tensor, "n 1 h w"],
    augs: Sequence[Augmentation],
    depth: Float[Tensor, "n 1 i j"],
) -> Float[Tensor, ""]:
    """The naive way: pictures and points are transformed, and so is the frame of the loss."""
    parts = []
    for place, aug in enumerate(augs):
        one, turned = scene[place], arm == "transformed"
        moved = Scene(
            aug(one.image), aug(one.next_image), aug(one.depth, fill="zero"),
            aug.intrinsics(one.k) if turned else one.k,
            aug.intrinsics(one.k_next) if turned else one.k_next, one.pose,
        )  # fmt: skip
        mask = aug(torch.ones_like(one.depth), fill="zero")
        there = aug(points[place : place + 1], fill="zero")
        parts.append(_loss(_cut(depth[place], aug)[None], moved, there, mask))
    return torch.stack(parts).mean()


def _loss(
    depth: Float[Tensor, "n 1 h w"],
    scene: Scene,
    points: Float[Tensor, "n 1 h w"],
    mask: Float[Tensor, "n 1 h w"],
) -> Float[Tensor, ""]:
    xy = losses.seen_from(depth, scene.k, scene.k_next, scene.pose)
    recon = losses.read_at(scene.next_image, xy)
    return losses.loss_of(depth, scene.image, recon, points, weights=WEIGHTS, weight=mask).total


def _together(frames: Sequence[Float[Tensor, "c h w"]]) -> Float[Tensor, "n c h w"]:
    """Frames of several sizes as a batch, with zeros to the right and below."""
    height, width = (max(int(one.shape[axis]) for one in frames) for axis in (-2, -1))
    return torch.stack(
        [F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2])) for one in frames]
    )


def _cut(frame: Float[Tensor, "c h w"], aug: Augmentation) -> Float[Tensor, "c i j"]:
    height, width = aug.augmented_size
    return frame[..., :height, :width]


def recoloured(image: Float[Tensor, "n 3 h w"], draw: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Brightness, contrast and saturation from half to one and a half, each half of the time."""
    for kind in ("brightness", "contrast", "saturation"):
        factor = 0.5 + torch.rand(len(image), 1, 1, 1, generator=draw)
        keep = torch.rand(len(image), 1, 1, 1, generator=draw) < 0.5
        grey = image.mean(1, keepdim=True)
        mean = grey.mean((2, 3), keepdim=True)
        base = {"brightness": 0 * mean, "contrast": mean, "saturation": grey}[kind]
        image = torch.where(keep, image, base + (image - base) * factor).clamp(0, 1)
    return image


def thinned(points: Float[Tensor, "n 1 h w"], draw: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """60 to 70 % of the sparse points gone, half of the time."""
    share = 0.6 + 0.1 * torch.rand(len(points), 1, 1, 1, generator=draw)
    keep = torch.rand(len(points), 1, 1, 1, generator=draw) < 0.5
    stays = torch.rand(points.shape, generator=draw) >= share
    return torch.where(keep | stays, points, torch.zeros_like(points))


# ---------------------------------------------------------------------- measuring


@torch.no_grad()
def reached(network: DepthNetwork | None, test_set: Scene, step: int = 0) -> Reached:
    """The errors on a test set; without a network, those of the spread points alone."""

    def predict(image: Tensor, points: Tensor, k: Tensor) -> Tensor:
        return spread(points) if network is None else network(image, points, k)

    points = scenes.measured_points(test_set.depth, POINTS, TEST_ROOMS)
    if network is not None:
        network.eval()
    still = mean_error(predict(test_set.image, points, test_set.k), test_set.depth)
    moved = []
    for place in range(len(points)):
        aug = Augmentation.sample(test_set.size, generator(TEST_ROOMS, "moved", place), MOVED)
        one = test_set[place]
        sparse = aug(points[place : place + 1], fill="zero")
        depth = predict(aug(one.image), sparse, aug.intrinsics(one.k))
        moved.append(mean_error(depth, aug(one.depth, fill="zero")))
    if network is not None:
        network.train()
    return Reached(step, still, sum(moved) / len(moved))


def mean_error(depth: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"]) -> float:
    """Mean absolute error in metres where the truth is known."""
    known = truth > 0
    return float((depth - truth)[known].abs().mean())
