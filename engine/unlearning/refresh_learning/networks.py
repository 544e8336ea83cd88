"""Networks that learn one task after the other: a small MLP, and one of the shape of ResNet18."""

from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from engine.core import rng
from engine.core.shapes import Float, Tensor

Kind = Literal["mlp", "resnet"]
KINDS: tuple[Kind, ...] = ("mlp", "resnet")
CLASSES, SIDE = 10, 28


def new_network(kind: Kind, seed: int) -> nn.Module:
    """Before training; equal seed, equal weights, torch's own generator untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.generator(seed, "network").initial_seed())
        return _mlp() if kind == "mlp" else ResNet()


def _mlp() -> nn.Module:
    """784-100-100-10 with ReLU, as the papers take for MNIST."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, CLASSES),
    )


class _Block(nn.Module):
    """Two convolutions with batch norm around a shortcut. No biases: batch norm would cancel them,
    and their gradient would be rounding noise, which refresh learning measures by its own length.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or width_in != width:
            narrow = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(narrow, nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """Eighteen layers in four stages of two blocks each, the form for small pictures."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(_Block(a, b, 1 if stage == 0 else 2), _Block(b, b, 1))
                for stage, (a, b) in enumerate(pairwise(widths))
            )
        )
        self.head = nn.Linear(8 * width, CLASSES)

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        x = self.blocks(torch.relu(self.norm(self.first(x))))
        return self.head(x.mean((2, 3)))
