"""The golden cases: three reversible blocks by memcnn and by plain autograd, and the loss.

    python -m pytest tests/networks -m golden

The stage was made by memcnn's additive coupling with its inputs freed, and agrees with plain
autograd; the loss is the formula written out in float64. Tolerance 1e-10, of the hard Dice 1e-7, as
the arrays have a small number in its denominator.
"""

import torch

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.networks import _unet3d as nets

TOLERANCE = 1e-10


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def stage_of(arrays: Arrays) -> nets.RevStage:
    """The stage whose weights the arrays hold."""
    width, blocks = arrays["x"].shape[1], int(arrays["blocks"])
    stage = nets.RevStage(
        width,
        blocks,
        expansion=int(arrays["expansion"]),
        kernel=int(arrays["kernel"]),
        groups=int(arrays["groups"]),
    ).double()
    stage.load_state_dict(
        {
            f"blocks.{key[1:]}": torch.from_numpy(arrays[key])
            for key in arrays
            if key[:1] == "b" and key[1:2].isdigit()
        }
    )
    return stage


@torch.no_grad()
def _output(arrays: Arrays) -> float:
    return largest(stage_of(arrays)(torch.from_numpy(arrays["x"])), arrays["y"])


@torch.no_grad()
def _back(arrays: Arrays) -> float:
    return largest(stage_of(arrays).inverse(torch.from_numpy(arrays["y"])), arrays["x"])


def _gradients(arrays: Arrays) -> float:
    """Of sum(y c), for the input and all weights."""
    stage, x = stage_of(arrays), torch.from_numpy(arrays["x"]).requires_grad_()
    with torch.enable_grad():
        loss = (stage(x) * torch.from_numpy(arrays["c"])).sum()
        named = dict(stage.named_parameters())
        found = torch.autograd.grad(loss, [x, *named.values()])
    wanted = [arrays["grad_x"], *(arrays[f"grad.b{name[7:]}"] for name in named)]
    return max(largest(a, b) for a, b in zip(found, wanted, strict=True))


def _loss(arrays: Arrays) -> float:
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    target = torch.from_numpy(arrays["target"])
    with torch.enable_grad():
        loss = nets.segmentation_loss(logits, target)
        (grad,) = torch.autograd.grad(loss, logits)
    dice = nets.soft_dice(logits.detach(), target)
    return max(
        largest(loss.detach(), arrays["loss"]),
        largest(grad, arrays["grad"]),
        largest(dice, arrays["soft_dice"]),
    )


def _hard_dice(arrays: Arrays) -> float:
    guess, target = torch.from_numpy(arrays["logits"]).argmax(1), torch.from_numpy(arrays["target"])
    return largest(nets.hard_dice(guess, target, 4), arrays["hard_dice"])


_STAGE: tuple[Check, ...] = (
    ("output of three blocks", TOLERANCE, _output),
    ("input, walked back to", TOLERANCE, _back),
    ("gradients of input and weights", TOLERANCE, _gradients),
)
_LOSS: tuple[Check, ...] = (
    ("loss, its gradient, soft Dice", TOLERANCE, _loss),
    ("hard Dice", 1e-7, _hard_dice),
)
CHECKS = {"reversible-unet3d_stage": _STAGE, "reversible-unet3d_loss": _LOSS}
