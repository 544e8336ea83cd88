"""What the benchmarks of the erasers share: whether an edit comes off in every number format."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.reversible import compare

State = Mapping[str, Tensor]


def equal_bits_after_undo(
    weights: State, edited: Callable[[State], State], method: str
) -> dict[str, float]:
    """Share of equal bits after the patch of an edit is applied and undone, by number format.

    `edited` gives the new values of weights that it is given in one format.
    """
    found = {}
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        old = {name: tensor.to(kind) for name, tensor in weights.items()}
        new = edited(old)
        old = {name: old[name] for name in new}
        patch = Patch.between(old, new, Recipe(method))
        trip = compare(old, patch.undo(patch.apply(old)))
        found[str(kind).removeprefix("torch.")] = trip.equal_bits
    return found
