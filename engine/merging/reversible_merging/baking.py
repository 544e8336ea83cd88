"""A merge written into weights and taken out again: by subtraction, and by a patch."""

from collections.abc import Mapping

import torch

from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.reversible import compare
from engine.core.shapes import Tensor
from engine.merging.reversible_merging import applied
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.results import Lost

FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def added_and_subtracted(
    name: str,
    kind: torch.dtype,
    touched: Mapping[str, Tensor],
    collection: Collection,
    names: Mapping[str, str],
    deltas: applied.Deltas,
) -> Lost:
    """The share of weights that W + delta - delta does not give back, and of those of a patch."""
    off, total = list[Tensor](), 0
    old, new = {}, {}
    for module, weight_name in names.items():
        before = touched[weight_name].detach().to(kind)
        layer = collection.layer(module)
        delta = applied.shaped(deltas[module], before, layer).to(kind)
        added = before + delta
        off.append(((added - delta) != before).sum())
        total += before.numel()
        old[weight_name], new[weight_name] = before, added
    patch = Patch.between(old, new, Recipe("reversible_merging"))
    trip = compare(old, patch.undo(patch.apply(old)))
    lost = int(torch.stack(off).sum()) if off else 0
    return Lost(name, lost / max(total, 1), 1 - trip.equal_bits)
