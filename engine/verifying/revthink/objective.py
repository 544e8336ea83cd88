"""The objective of RevThink: three losses of the same questions, averaged in every step.

    L = 1/3 [ l(S(Q), Rf) + l(S(Q, A), Qb) + l(S(Qb), Rb) ]

l is the cross-entropy of the target's tokens given the prompt's. The published code gives the
second objective the answer too, and so do we: from Q alone the student would have to solve it in
silence. It also counts prompt and padding as targets ("official"); the paper does not.
"""

from typing import Literal

import torch
import torch.nn.functional as F

from engine.core.shapes import Bool, Float, Int, Tensor

Mean = Literal["sequences", "tokens", "official"]
TASKS = ("FR", "BQ", "BR")


def is_target(
    prompt_len: Int[Tensor, "*b"], length: Int[Tensor, "*b"], size: int
) -> Bool[Tensor, "*b n"]:
    """Positions that count: from the end of the prompt to the end of the sequence."""
    position = torch.arange(size, device=length.device)
    return (position >= prompt_len[..., None]) & (position < length[..., None])


def token_losses(
    logits: Float[Tensor, "*b n v"], ids: Int[Tensor, "*b n"]
) -> Float[Tensor, "*b m"]:
    """Cross-entropy of token t + 1 under the logits at t; one shorter than the sequence."""
    flat = F.cross_entropy(
        logits[..., :-1, :].flatten(0, -2), ids[..., 1:].flatten(), reduction="none"
    )
    return flat.view(ids[..., 1:].shape)


def objective(
    logits: Float[Tensor, "b n v"],
    ids: Int[Tensor, "b n"],
    prompt_len: Int[Tensor, "b"],
    length: Int[Tensor, "b"],
    mean: Mean = "sequences",
) -> Float[Tensor, ""]:
    """l of one of the three tasks, for a batch padded on the right.

    "tokens" is the mean over all target tokens of the batch, "sequences" the mean of the means of
    each sequence, "official" the mean over all positions, prompt and padding included.
    """
    losses = token_losses(logits, ids)
    if mean == "official":
        return losses.mean()
    counted = is_target(prompt_len, length, ids.shape[-1])[..., 1:]
    if mean == "tokens":
        return losses[counted].mean()
    return sequence_means(losses, counted).mean()


def sequence_means(
    losses: Float[Tensor, "*b m"], counted: Bool[Tensor, "*b m"]
) -> Float[Tensor, "*b"]:
    """The mean of each sequence over its target tokens."""
    return (losses * counted).sum(-1) / counted.sum(-1).clamp(min=1)


def joint(losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """The three losses with equal weight; with summed losses the long ones would rule."""
    return torch.stack(list(losses.values())).mean()
