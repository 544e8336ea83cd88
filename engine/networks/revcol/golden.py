"""The golden cases: the released code in float64, compared with the one reversible sequence here.

    python -m pytest tests/networks -m golden

Three columns of 4, 6, 8 and 10 channels, one block a level, 32 x 32 pixels, random alpha and gamma;
and the loss with all its parts. Tolerance 1e-10.
"""

from functools import partial

import torch
import torch.nn.functional as F

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.networks import _revcol as nets
from engine.networks.revcol.walk import columns_of
from engine.reversible import Mode

TOLERANCE = 1e-10


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def network_of(arrays: Arrays, mode: Mode = "reversible") -> nets.RevCol:
    """The network whose weights the arrays hold, loaded strictly under the released names."""
    state = {
        name.removeprefix("param/"): torch.from_numpy(arrays[name])
        for name in arrays
        if name.startswith("param/")
    }
    return nets.from_state(state, mode=mode)


@torch.no_grad()
def _maps(arrays: Arrays) -> float:
    """The stem, and the four maps after every column."""
    network, x = network_of(arrays), torch.from_numpy(arrays["x"])
    worst = largest(network.stem(x), arrays["stem"])
    for i, streams in enumerate(columns_of(network, x)):
        for level, c in enumerate(streams):
            worst = max(worst, largest(c, arrays[f"col{i}_c{level}"]))
    return worst


@torch.no_grad()
def _back(arrays: Arrays) -> float:
    """The first column's maps, from the last column's."""
    network, x = network_of(arrays), torch.from_numpy(arrays["x"])
    last = len(network.columns) - 1
    end = tuple(torch.from_numpy(arrays[f"col{last}_c{i}"]) for i in range(nets.LEVELS))
    back = dict(network.sequence().trace(end, (network.stem(x),), backward=True))
    first = back[nets.LEVELS]
    return max(largest(c, arrays[f"col0_c{i}"]) for i, c in enumerate(first))


def _gradients(arrays: Arrays, mode: Mode) -> float:
    network, x = network_of(arrays, mode), torch.from_numpy(arrays["x"]).requires_grad_()
    with torch.enable_grad():
        logits = network(x).logits[-1]
        loss = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
        named = dict(network.named_parameters())
        found = torch.autograd.grad(loss, [x, *named.values()])
    worst = max(largest(logits.detach(), arrays["logits"]), largest(loss.detach(), arrays["loss"]))
    wanted = [arrays["grad_x_plain"], *(arrays[f"grad/{name}"] for name in named)]
    return max(worst, *(largest(a, b) for a, b in zip(found, wanted, strict=True)))


def _loss(arrays: Arrays) -> float:
    """Total, parts, and the gradients of every picture and every guess."""
    shown = [_leaf(arrays, f"feature_logits{i}") for i in range(3)]
    said = [_leaf(arrays, f"class_logits{i}") for i in range(4)]
    feature, early = (float(value) for value in arrays["coe"])
    image, targets = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["targets"])
    with torch.enable_grad():
        found = nets.compound_loss(said, shown, image, targets, feature=feature, early=early)
        grads = torch.autograd.grad(found.total, [*shown, *said])
    names = [*(f"grad_feature{i}" for i in range(3)), *(f"grad_class{i}" for i in range(4))]
    worst = largest(found.total.detach(), arrays["total"])
    parts = torch.stack([part.detach() for part in found.parts])
    worst = max(worst, largest(parts, arrays["parts"]))
    return max(worst, *(largest(a, arrays[b]) for a, b in zip(grads, names, strict=True)))


def _leaf(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(arrays[name]).requires_grad_()


_COLUMNS: tuple[Check, ...] = (
    ("stem and maps after every column", TOLERANCE, _maps),
    ("first column, walked back to from the last", TOLERANCE, _back),
    ("logits, loss, gradients, plain", TOLERANCE, partial(_gradients, mode="plain")),
    ("logits, loss, gradients, walking back", TOLERANCE, partial(_gradients, mode="reversible")),
)
CHECKS = {
    "revcol_columns": _COLUMNS,
    "revcol_loss": (("loss, parts and gradients", TOLERANCE, _loss),),
}
