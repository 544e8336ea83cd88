"""UCE and RECE as published: every projection for itself, in the number format of the weights.

This is what the reformulation of `closed_form` is measured against, in the panel and in the
benchmark. Texts are encoded outside, once, which the published code does again for each projection.
"""

from collections.abc import Sequence

import torch

from engine.core.shapes import Float, Tensor
from engine.erasing.rece.closed_form import Pair, Scales


def uce(
    weight: Float[Tensor, "o d"],
    pairs: Sequence[Pair],
    kept: Sequence[Float[Tensor, "_ d"]],
    scales: Scales,
) -> Float[Tensor, "o d"]:
    """One projection after the UCE edit: W' = A B^-1 with both sums taken token by token."""
    a = scales.ridge * weight
    b = scales.ridge * torch.eye(weight.shape[1], dtype=weight.dtype)
    everything = [(p.old, p.new, scales.erase) for p in pairs]
    everything += [(rows, rows, scales.preserve) for rows in kept]
    for old, new, scale in everything:
        # One outer product for each token, then their sum, as in the published code.
        context, value = old[:, :, None], (new @ weight.T)[:, :, None]
        a = a + scale * (value @ context.transpose(1, 2)).sum(0)
        b = b + scale * (context @ context.transpose(1, 2)).sum(0)
    return a @ torch.inverse(b)


def derived(
    weights: Sequence[Float[Tensor, "_ d"]],
    originals: Sequence[Float[Tensor, "_ d"]],
    concept: Float[Tensor, "n d"],
    reg: float,
) -> Float[Tensor, "n d"]:
    """The embedding that brings a concept back, with both sums taken over all projections."""
    h, x = reg * torch.eye(concept.shape[1], dtype=concept.dtype), torch.zeros(())
    for weight, original in zip(weights, originals, strict=True):
        h, x = h + weight.T @ weight, x + weight.T @ original
    return concept @ x.T @ torch.inverse(h)
