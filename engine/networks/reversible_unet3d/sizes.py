"""Bytes at any size without the memory: the network on the meta device."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from engine.networks import _unet3d as nets
from engine.networks.reversible_unet3d.results import Cube
from engine.reversible import Mode
from engine.reversible.memory import Cost, Told, counting

STEP, LONGEST = 8, 512


@dataclass(frozen=True)
class Policy:
    """A way to train: the memory mode, ordinary convolutions or bottlenecks."""

    title: str
    mode: Mode
    anchor_every: int | None = None
    block: nets.BlockKind = "mbconv"


POLICIES: Mapping[str, Policy] = {
    "plain": Policy("plain autograd", "plain"),
    "checkpoint": Policy("checkpoint per block", "checkpoint", 2),
    "reversible": Policy("reversible", "reversible"),
    "plain-conv": Policy("ordinary convolutions, plain autograd", "plain", None, "conv"),
    "reversible-conv": Policy("ordinary convolutions, reversible", "reversible", None, "conv"),
}


def network_of(config: nets.UNetConfig, policy: Policy) -> nets.RevUNet3d:
    """The network under a policy."""
    return nets.RevUNet3d(
        replace(config, block=policy.block), mode=policy.mode, anchor_every=policy.anchor_every
    ).train()


def cost(
    config: nets.UNetConfig, policy: Policy, side: int, told: Callable[[int], Told]
) -> Generator[Told, None, Cost]:
    """A training step on one cube, computed on shapes; `told` is of the operations so far."""
    with torch.device("meta"):
        network = network_of(config, policy)
        x = torch.zeros(1, config.modalities, side, side, side)
        target = torch.zeros(1, side, side, side, dtype=torch.long)
    loss = lambda: nets.segmentation_loss(network(x), target)  # noqa: E731
    return (yield from counting(loss, network, [x, target], told))


def _still(told: Callable[[Cube], Told], best: Cube, operations: int) -> Told:
    """The best so far, while the next one is counted."""
    return told(best)


def largest(
    config: nets.UNetConfig, name: str, most: int, told: Callable[[Cube], Told]
) -> Generator[Told, None, Cube]:
    """Binary search over multiples of 8, `told` of the best so far. The search ends at 512, and at
    0 where even the smallest cube does not fit."""
    policy = POLICIES[name]
    low, high = 0, LONGEST // STEP
    best = Cube(name, policy.title, 0, 0, 0)
    while low < high:
        middle = (low + high + 1) // 2
        side = middle * STEP
        found = yield from cost(config, policy, side, partial(_still, told, best))
        if found.peak_bytes <= most:
            low, best = middle, Cube(name, policy.title, side, found.peak_bytes, side**3)
        else:
            high = middle - 1
        yield told(best)
    return best
