"""How flat a minimum is: the loss along a random direction, scaled filter by filter.

A direction is drawn, and every filter (row) of it is given the length of the network's own filter,
so that a network with larger weights does not look flatter (Li et al. 2018, arXiv 1712.09913).
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.func import functional_call

from engine.core import rng
from engine.core.shapes import Float, Tensor
from engine.unlearning._losses import Batch, logits_of

REACH, POINTS = 0.5, 21


def direction(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A random direction; biases and norms stay where they are."""
    draw, found = rng.generator(seed, "direction"), {}
    for name, weight in model.named_parameters():
        drawn = rng.noise(weight.shape, draw, dtype=weight.dtype)
        if weight.ndim < 2:
            found[name] = torch.zeros_like(weight)
            continue
        rows, own = drawn.flatten(1), weight.detach().flatten(1)
        scale = own.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        found[name] = (rows * scale).view_as(weight)
    return found


@torch.no_grad()
def along(
    model: nn.Module, batch: Batch, towards: dict[str, Tensor], places: Float[Tensor, " n"]
) -> Iterator[float]:
    """The mean loss on a batch at each place of the line, 0 being the network itself."""
    model.eval()
    state = {name: p.detach() for name, p in model.named_parameters()}
    for place in places.tolist():
        moved = {name: value + place * towards[name] for name, value in state.items()}
        logits = logits_of(functional_call(model, moved, (batch[0],)))
        yield float(nn.functional.cross_entropy(logits, batch[1]))


def line() -> Float[Tensor, " n"]:
    """Places from -0.5 to 0.5 of the filters' own length."""
    return torch.linspace(-REACH, REACH, POINTS)


def gradient_norm(model: nn.Module, batch: Batch) -> float:
    """The length of the gradient of the mean loss."""
    parameters = [p for p in model.eval().parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(logits_of(model(batch[0])), batch[1])
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    total = sum(float(g.square().sum()) for g in found if g is not None)
    return float(total**0.5)
