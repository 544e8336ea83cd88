"""The golden case: the published steering loss with its gradient, and the density of times.

    python -m pytest tests/erasing -m golden

Made by the official functions in float64 on a random token table of 40 rows. Tolerance 1e-12 for
the loss and its gradient, 1e-15 for the density.
"""

import torch

from engine.core.golden import Arrays, Check, Golden, apart, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.erasing.reversion.steering import importance, negative_ids, steering_loss


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def _steered(arrays: Arrays) -> tuple[Tensor, Tensor]:
    table, placeholder = torch.from_numpy(arrays["emb"]), int(arrays["placeholder"])
    special = {int(i) for i in arrays["special_ids"]}
    silent = frozenset(special | {int(i) for i in arrays["stop_ids"]})
    near = [int(i) for i in arrays["positive_ids"].flatten() if int(i) not in special]
    far = negative_ids(torch.from_numpy(arrays["input_ids"]), placeholder, silent)
    row = table[placeholder].clone().requires_grad_()
    loss = steering_loss(row, table[near], table[far], tau=float(arrays["tau"]))
    (gradient,) = torch.autograd.grad(loss, row)
    return loss.detach(), gradient


def _loss(arrays: Arrays) -> float:
    return largest(_steered(arrays)[0].numpy(), arrays["steer_loss"])


def _gradient(arrays: Arrays) -> float:
    return largest(_steered(arrays)[1].numpy(), arrays["grad_placeholder"])


def _density(arrays: Arrays) -> float:
    steps = int(arrays["T"])
    return max(
        apart(importance(steps, alpha), arrays[f"prob_alpha_{alpha}"]) for alpha in (0.0, 0.5, 1.0)
    )


CHECKS: dict[str, tuple[Check, ...]] = {
    "reversion_steer": (
        ("steering loss", 1e-12, _loss),
        ("its gradient", 1e-12, _gradient),
        ("density of the times", 1e-15, _density),
    ),
}
