"""Labelled pictures, kept as bytes, and turned into what a network takes a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from engine.core import rng
from engine.core.shapes import Bool, Float, Int, Tensor, UInt8
from engine.unlearning._losses import Batch
from engine.world import fashion


@dataclass(frozen=True)
class Look:
    """How pixels in [0, 1] become the input of a network: (x - mean) / std for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def inputs(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What the network takes; differentiable."""
        mean, std = (
            torch.tensor(values, device=pixels.device, dtype=pixels.dtype)[:, None, None]
            for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


# Mean and spread of the training pictures of Fashion-MNIST.
FASHION = Look((0.2860,), (0.3530,))


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures with labels. `ids` are their places in the data they were drawn from."""

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]
    look: Look = FASHION

    @classmethod
    def of(
        cls, pixels: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"], look: Look = FASHION
    ) -> "Samples":
        """Pictures that are a data set of their own: each one's id is its place."""
        return cls(pixels, labels, torch.arange(len(labels)), look)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Samples":
        """Some of them, by place (not id), in this order."""
        return replace(
            self, pixels=self.pixels[places], labels=self.labels[places], ids=self.ids[places]
        )

    def without(self, ids: Int[Tensor, " m"]) -> "Samples":
        """All but the ones with these ids."""
        return self.take(~torch.isin(self.ids, ids))

    def joined(self, other: "Samples") -> "Samples":
        """These and then those."""
        pixels, labels, ids = (
            torch.cat([getattr(self, name), getattr(other, name)])
            for name in ("pixels", "labels", "ids")
        )
        return Samples(pixels, labels, ids, self.look)

    def labelled(self, labels: Int[Tensor, " n"]) -> "Samples":
        """The same pictures with other labels."""
        return replace(self, labels=labels)

    def shuffled(self, seed: int, *role: str | int) -> "Samples":
        """In random order."""
        return self.take(torch.randperm(len(self), generator=rng.generator(seed, *role)))

    def some(self, most: int, seed: int, *role: str | int) -> "Samples":
        """At most so many of them, drawn at random and left in their order."""
        if len(self) <= most:
            return self
        drawn = torch.randperm(len(self), generator=rng.generator(seed, *role))[:most]
        return self.take(drawn.sort().values)

    def by_class(self) -> "Samples":
        """Sorted by label, otherwise in their order."""
        return self.take(self.labels.argsort(stable=True))

    def batch(self, places: Int[Tensor, " m"] | slice) -> Batch:
        """Inputs and labels of some places, as a loss takes them."""
        return self.look.inputs(self.pixels[places].float() / 255), self.labels[places]

    def batches(self, size: int) -> Iterator[Batch]:
        """All of them in their order; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))


@cache
def garments(part: fashion.Part, *, by_group: bool = False) -> Samples:
    """The shipped pictures, labelled by class or by group."""
    found = fashion.garments(part)
    labels = found.groups if by_group else found.labels
    return Samples.of(
        torch.from_numpy(np.array(found.pixels))[:, None], torch.from_numpy(labels.astype(np.int64))
    )
