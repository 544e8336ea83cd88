"""PEFT's own merges, run by PEFT: `add_weighted_adapter`, one layer at a time.

A bare linear layer stands in for the model, so that no base is needed and only one layer is in
memory. Convolutions come flattened and are merged as such. The factors are those of the files, each
with its scale beside it: PEFT trims and votes on them as they are, and folds the scale into the
weight of an adapter.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

from engine.core.shapes import Float, Tensor

MODES = (
    "linear", "svd", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd",
    "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd",
)  # fmt: skip
WITHOUT_DENSITY = ("linear", "svd", "cat")
# PEFT merges these factor by factor, and so takes adapters of one rank alone.
OF_ONE_RANK = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")


class _Bare(nn.Module):
    """One linear layer without a bias, whose weight is never read."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=False)


def merged_by_peft(mode: str) -> Callable[..., Float[Tensor, "m d"]]:
    """The merge of one mode: factors, weight, density, seed and scales to a delta.

    `rank` is that of the largest adapter, to which the svd modes cut; that of the factors if 0.
    """

    def merge(
        a: Float[Tensor, "n m r"],
        b: Float[Tensor, "n r d"],
        weight: float,
        density: float,
        seed: int,
        scales: Sequence[float] = (),
        rank: int = 0,
    ) -> Float[Tensor, "m d"]:
        from peft import LoraConfig, get_peft_model

        n, m, r = a.shape
        config = LoraConfig(r=r, lora_alpha=r, target_modules=["layer"])
        names = [f"t{i}" for i in range(n)]
        # PEFT draws from torch's global generator, which is put back as it was.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            model = get_peft_model(_Bare(m, b.shape[2]), config, adapter_name=names[0])
            for name in names[1:]:
                model.add_adapter(name, config)
            layer = model.base_model.model.layer
            with torch.no_grad():
                for i, name in enumerate(names):
                    layer.lora_A[name].weight.copy_(b[i])
                    layer.lora_B[name].weight.copy_(a[i])
                    layer.scaling[name] = scales[i] if scales else 1.0
            more = {} if mode in WITHOUT_DENSITY else {"density": density}
            more |= {"svd_rank": max(rank, r)} if mode.endswith("svd") else {}
            model.add_weighted_adapter(names, [weight] * n, "merged", combination_type=mode, **more)
            return layer.get_delta_weight("merged").detach().to(a)

    return merge
