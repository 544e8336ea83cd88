"""The golden cases of refresh learning: arrays of the published code, and first principles.

    python -m pytest tests/unlearning -m golden

`refresh-learning_unlearn_f64` (1e-12): convolution, ReLU, mean over places, linear; weights after
two unlearning steps of the official method with given noise and Fisher information, and the Fisher
information at the end of a task over batches of 4 and 6 with a batch size of 10, tau 1e-5.
`refresh-learning_unlearn_bn_f32` (2e-6): the same with batch norm in train mode, whose running
statistics must not move. `refresh-learning_bregman_f64` (1e-10): each method's term, which the
general equation must give.
"""

from collections.abc import Callable

import torch
from torch import nn

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.unlearning.refresh_learning import bregman
from engine.unlearning.refresh_learning.refresh import (
    Refresh,
    RefreshOptimizer,
    batch_loss,
    fisher_of,
)

TAU = 1e-5


class Net(nn.Module):
    """Convolution, batch norm or none, ReLU, mean over places, linear."""

    def __init__(self, *, has_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=not has_norm)
        self.bn = nn.BatchNorm2d(4) if has_norm else nn.Identity()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 3"]:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array; the noise is theirs, so the seed is not used."""
    return (yield from check_all(CHECKS))


def network(arrays: Arrays, stage: int) -> Net:
    """The network of a file with its weights of a stage, in train mode."""
    model = Net(has_norm=bool(arrays["bn"])).to(torch.from_numpy(arrays["X"]).dtype)
    model.load_state_dict({**model.state_dict(), **_named(arrays, f"w{stage}.")})
    return model.train()


def batch(arrays: Arrays, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a step."""
    return torch.from_numpy(arrays["X"][step]), torch.from_numpy(arrays["Y"][step])


def _named(arrays: Arrays, head: str) -> dict[str, Tensor]:
    found = {k.removeprefix(head): v for k, v in arrays.items() if k.startswith(head)}
    return {name: torch.from_numpy(value) for name, value in found.items()}


def unlearned(arrays: Arrays) -> list[Net]:
    """The network after each of the two steps, the noise of the file in place of drawn noise."""
    model, found = network(arrays, 0), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    how = Refresh(delta=float(arrays["delta"]))
    refresh = RefreshOptimizer(model, optimizer, batch_loss, _named(arrays, "F."), how=how)
    for step in range(int(arrays["nstep"])):
        refresh.unlearn(batch(arrays, step), noise=_named(arrays, f"noise{step}."))
        copy = Net(has_norm=bool(arrays["bn"])).to(batch(arrays, 0)[0].dtype)
        copy.load_state_dict(model.state_dict())
        found.append(copy)
    return found


def _weights(arrays: Arrays) -> float:
    return max(
        apart(dict(model.named_parameters())[name].detach(), value)
        for step, model in enumerate(unlearned(arrays), 1)
        for name, value in _named(arrays, f"w{step}.").items()
    )


def _statistics(arrays: Arrays) -> float:
    """By how much the running statistics moved."""
    last, first = unlearned(arrays)[-1], network(arrays, 0)
    return max(apart(a, b) for a, b in zip(last.buffers(), first.buffers(), strict=True))


def _fisher(arrays: Arrays) -> float:
    inputs, labels = batch(arrays, 0)
    parts = [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])]
    new = fisher_of(network(arrays, 2), parts, batch_size=10)
    old = _named(arrays, "F.")
    return max(apart(TAU * old[name] + value, arrays[f"F1.{name}"]) for name, value in new.items())


def numbers(arrays: Arrays) -> bregman.Numbers:
    """The values of the file."""
    names = (
        "logits", "stored_logits", "labels", "theta", "theta_old", "fisher", "q_mean", "q_var",
        "p_mean", "p_var",
    )  # fmt: skip
    return bregman.Numbers(*(torch.from_numpy(arrays[name]) for name in names))


def _term(key: str, name: str) -> Callable[[Arrays], float]:
    """The larger error of the general equation and of the method's own formula."""

    def check(arrays: Arrays) -> float:
        special, given = bregman.SPECIAL[key], numbers(arrays)
        return max(apart(f(given), arrays[name]) for f in (special.general, special.own))

    return check


CHECKS: dict[str, tuple[Check, ...]] = {
    "refresh-learning_unlearn_f64": (
        ("weights after two steps", 1e-12, _weights),
        ("Fisher information at the end of a task", 1e-12, _fisher),
    ),
    "refresh-learning_unlearn_bn_f32": (
        ("weights after two steps, batch norm", 2e-6, _weights),
        ("running statistics stay", 0.0, _statistics),
    ),
    "refresh-learning_bregman_f64": tuple(
        (bregman.SPECIAL[key].title, 1e-10, _term(key, name))
        for key, name in (
            ("er", "er"),
            ("der", "der"),
            ("lwf", "lwf_kl"),
            ("ewc", "ewc"),
            ("vcl", "vcl_kl"),
        )
    ),
}
