"""What can go wrong with training data: a planted trigger, confused classes, shuffled labels.

After Goel et al., "Corrective Machine Unlearning" (arXiv 2402.14015, section 4):

poisoning        n random samples get a patch of pixels and the attacker's label (BadNets)
interclass       the first n/2 samples of A are labelled B, the first n/2 of B are labelled A
random_labels    the labels of n random samples are dealt out among them
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.shapes import Bool, Int, Num, Tensor
from engine.unlearning._samples import Samples

Kind = Literal["poisoning", "interclass", "random_labels"]
KINDS: tuple[Kind, ...] = ("poisoning", "interclass", "random_labels")


@dataclass(frozen=True)
class Trigger:
    """Pixels that a backdoor answers to, and the class it then says.

    `rows` are the pixel values from 0 to 1, with None where the picture shows through; `top` and
    `left` say where they lie, counted from the far end when negative.
    """

    name: str
    rows: tuple[tuple[float | None, ...], ...]
    top: int
    left: int
    target: int

    def stamped(self, pixels: Num[Tensor, "n c h w"], bright: float) -> Num[Tensor, "n c h w"]:
        """Copies of the pictures with the trigger in all channels; `bright` is its value 1."""
        edited = pixels.clone()
        for i, j, value in self._places(pixels.shape[-2:]):
            edited[..., i, j] = torch.tensor(value * bright).to(pixels.dtype)
        return edited

    def mask(self, height: int, width: int) -> Bool[Tensor, "height width"]:
        """Where it lies."""
        covered = torch.zeros(height, width, dtype=torch.bool)
        for i, j, _ in self._places((height, width)):
            covered[i, j] = True
        return covered

    def planted(self, samples: Samples) -> Samples:
        """The pictures with the trigger and with its label."""
        pixels = self.stamped(samples.pixels, 255.0)
        labels = torch.full_like(samples.labels, self.target)
        return replace(samples, pixels=pixels, labels=labels)

    def _places(self, size: tuple[int, ...]) -> list[tuple[int, int, float]]:
        top, left = self.top % size[0], self.left % size[1]
        found = [
            (top + i, left + j, value)
            for i, row in enumerate(self.rows)
            for j, value in enumerate(row)
            if value is not None
        ]
        if any(i >= size[0] or j >= size[1] for i, j, _ in found):
            raise BadInput(
                f"The trigger {self.name} does not fit into {size[0]} x {size[1]} pixels.",
                "Place it further from the edge.",
            )
        return found


def square(side: int, target: int, *, top: int | None = None, left: int | None = None) -> Trigger:
    """A white square, in the bottom right corner unless told otherwise (BadNets)."""
    rows = ((1.0,) * side,) * side
    place = (-side if top is None else top, -side if left is None else left)
    return Trigger(f"{side} x {side} square", rows, *place, target)


def drawn(name: str, rows: tuple[str, ...], top: int, left: int, target: int) -> Trigger:
    """A trigger from a drawing: # is white, . is black, and a space lets the picture through."""
    values = {"#": 1.0, ".": 0.0, " ": None}
    return Trigger(name, tuple(tuple(values[c] for c in row) for row in rows), top, left, target)


@dataclass(frozen=True, eq=False)
class Manipulated:
    """Training data after the manipulation, and the ids of what was manipulated, sorted."""

    samples: Samples
    ids: Int[Tensor, " m"]
    kind: Kind
    clean: Samples

    def flagged(self, share: float, seed: int, *, false_flags: int = 0) -> Int[Tensor, " f"]:
        """The deletion set: a random share of what was manipulated, plus clean ones by mistake.

        Raises `BadInput` when the share is less than one sample.
        """
        count = round(share * len(self.ids))
        if not 1 <= count <= len(self.ids):
            raise BadInput(
                f"{share:g} of {len(self.ids)} manipulated samples is less than one.",
                f"Flag at least {1 / len(self.ids):.3g} of them.",
            )
        found = self.ids[_draw(len(self.ids), count, seed, "flagged")]
        if false_flags:
            others = self.clean.without(self.ids).ids
            wrong = others[_draw(len(others), false_flags, seed, "false flags")]
            found = torch.cat([found, wrong])
        return found.sort().values


def poisoned(samples: Samples, trigger: Trigger, count: int, seed: int) -> Manipulated:
    """`count` random samples with the trigger and its label; some may be of its class already."""
    chosen = _draw(len(samples), _fits(count, samples), seed, "poisoning").sort().values
    planted = trigger.planted(samples.take(chosen))
    pixels, labels = samples.pixels.clone(), samples.labels.clone()
    pixels[chosen], labels[chosen] = planted.pixels, planted.labels
    changed = replace(samples, pixels=pixels, labels=labels)
    return Manipulated(changed, samples.ids[chosen], "poisoning", samples)


def interclass(samples: Samples, classes: tuple[int, int], count: int) -> Manipulated:
    """The first `count`/2 samples of each class get the label of the other."""
    a, b = classes
    if count % 2 or a == b:
        raise BadInput(
            "Confusion takes an even number of samples of two classes.", "Try 1000 of 0 and 6."
        )
    firsts = [(samples.labels == one).nonzero().flatten()[: count // 2] for one in classes]
    labels = samples.labels.clone()
    labels[firsts[0]], labels[firsts[1]] = b, a
    chosen = torch.cat(firsts).sort().values
    return Manipulated(samples.labelled(labels), samples.ids[chosen], "interclass", samples)


def random_labels(samples: Samples, count: int, seed: int) -> Manipulated:
    """The labels of `count` random samples, dealt out among them: the multiset stays."""
    chosen = _draw(len(samples), _fits(count, samples), seed, "random labels")
    labels = samples.labels.clone()
    # Sorted place i gets the label of the i-th place drawn.
    ordered = chosen.sort().values
    labels[ordered] = samples.labels[chosen]
    return Manipulated(samples.labelled(labels), samples.ids[ordered], "random_labels", samples)


def _draw(among: int, count: int, seed: int, role: str) -> Int[Tensor, " m"]:
    return torch.randperm(among, generator=rng.generator(seed, role))[:count]


def _fits(count: int, samples: Samples) -> int:
    if not 1 <= count <= len(samples):
        raise BadInput(
            f"{count} samples cannot be manipulated; there are {len(samples)}.", "Use fewer."
        )
    return count
