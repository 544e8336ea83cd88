"""How far a contraction can be walked back: |a| < 1 multiplies every error by 1 / |a|."""

import math
from collections.abc import Sequence

import torch

from engine.core.errors import BadInput
from engine.reversible.coupling import Coupling


def inverse_error(couplings: Sequence[Coupling], dtype: torch.dtype = torch.float32) -> float:
    """Predicted relative error of undoing the couplings: one unit in the last place, grown by
    1/|a| for every coupling. An upper estimate; normalising layers in F saturate it."""
    growth = sum(-math.log(coupling.size_of_scale()) for coupling in couplings)
    return math.exp(min(math.log(torch.finfo(dtype).eps) + max(growth, 0.0), 700.0))


def suggest_anchor(
    scales: Sequence[float], dtype: torch.dtype = torch.float32, tol: float = 1e-3
) -> int:
    """The largest m for which undoing any m couplings in a row keeps the error below `tol`.

    The error after m couplings is about eps * prod 1/|a|. At least 1: an anchor at every coupling
    is checkpointing, and exact. Raises `BadInput` when `tol` is finer than the number format.
    """
    eps = torch.finfo(dtype).eps
    if not eps < tol < 1:
        raise BadInput(
            f"An error of {tol:g} cannot be asked for in {str(dtype).removeprefix('torch.')}.",
            f"Ask for more than {eps:.1g} and less than 1.",
        )
    if not scales or any(scale == 0 for scale in scales):
        raise BadInput("Anchors need scales that are not zero.", "Give one for each coupling.")
    steps = [-math.log(abs(scale)) for scale in scales]
    room = math.log(tol / eps)
    best = 1
    for m in range(1, len(steps) + 1):
        worst = max(sum(steps[i : i + m]) for i in range(len(steps) - m + 1))
        if worst > room:
            break
        best = m
    return best
