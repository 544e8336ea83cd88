"""Adapters as if they had been compressed after training, as the paper's PT-SVD is.

The SVD of a delta forgets how training wrote its factors; see `fine_tunes` for checkpoints that
were never trained as factors.
"""

from dataclasses import fields
from functools import cached_property

from engine.core.shapes import Float, Tensor
from engine.merging import _baselines as merges
from engine.merging.reversible_merging.collection import Collection
from engine.models.adapters import Lora, folded


class Recompressed(Lora):
    """An adapter whose deltas went through an SVD, which forgets how training wrote them."""

    @cached_property
    def sha256(self) -> str:
        return f"{super().sha256}:svd"

    def as_saved(self, module: str) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r d"], float]:
        a, b = folded(*super().as_saved(module))
        left, right = merges.fewer_ranks(a[None].double(), b[None].double(), a.shape[1])
        return left[0].float(), right[0].float(), 1.0


def recompressed(collection: Collection) -> Collection:
    """The same adapters as if each delta had been compressed after training."""
    names = [field.name for field in fields(Lora)]
    loras = [Recompressed(**{n: getattr(lora, n) for n in names}) for lora in collection.loras]
    return Collection(tuple(loras), collection.shapes)
