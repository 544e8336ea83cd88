"""Groups within a class by what the network sees: k-means on the features before its end."""

import torch
from torch import nn

from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Int, Tensor
from engine.models.classifier import ClassifierBundle
from engine.unlearning._samples import Samples

ROUNDS = 20


def last_linear(model: nn.Module) -> nn.Linear:
    """The layer that gives the logits. Raises `ModelMismatch` where there is none."""
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ModelMismatch("This model has no linear layer at its end.", "Pick another model.")
    return found[-1]


@torch.no_grad()
def features(model: nn.Module, samples: Samples, size: int = 500) -> Float[Tensor, "n d"]:
    """What goes into the last linear layer."""
    kept: list[Tensor] = []
    handle = last_linear(model).register_forward_pre_hook(
        lambda module, inputs: kept.append(inputs[0].flatten(1).float().cpu())
    )
    try:
        for inputs, _ in samples.batches(size):
            model(inputs)
    finally:
        handle.remove()
    return torch.cat(kept)


def clusters(bundle: ClassifierBundle, samples: Samples, count: int) -> Int[Tensor, " n"]:
    """The group of each sample, the largest group first."""
    return k_means(features(bundle.model, samples), count)


def k_means(x: Float[Tensor, "n d"], count: int) -> Int[Tensor, " n"]:
    """Lloyd's algorithm from centres that lie far apart; nothing in it is random."""
    centres = x.mean(0, keepdim=True)
    for _ in range(count):
        farthest = torch.cdist(x, centres).min(1).values.argmax()
        centres = torch.cat([centres, x[farthest][None]])
    centres = centres[1:]
    for _ in range(ROUNDS):
        nearest = torch.cdist(x, centres).argmin(1)
        parts = [x[nearest == k] for k in range(count)]
        centres = torch.stack(
            [p.mean(0) if len(p) else c for p, c in zip(parts, centres, strict=True)]
        )
    order = torch.bincount(nearest, minlength=count).argsort(descending=True)
    return order.argsort()[nearest]
