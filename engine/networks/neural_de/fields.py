"""Fields: four that are known, and networks that learn one."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from engine.core import rng
from engine.core.shapes import Float, Tensor


@dataclass(frozen=True)
class Known:
    """A field of the plane with its start; `slope` maps states `b 2` to slopes."""

    title: str
    start: tuple[float, float]
    slope: Callable[[Tensor, float], Tensor]


def _pendulum(y: Float[Tensor, "b 2"], rate: float) -> Float[Tensor, "b 2"]:
    angle, speed = y.unbind(-1)
    return torch.stack([speed, -angle.sin()], -1)


def _lotka_volterra(y: Float[Tensor, "b 2"], rate: float) -> Float[Tensor, "b 2"]:
    prey, hunters = y.unbind(-1)
    return torch.stack([prey * (1 - hunters), hunters * (prey - 1)], -1)


def _van_der_pol(y: Float[Tensor, "b 2"], rate: float) -> Float[Tensor, "b 2"]:
    x, v = y.unbind(-1)
    return torch.stack([v, rate * (1 - x**2) * v - x], -1)


def _decay(y: Float[Tensor, "b 2"], rate: float) -> Float[Tensor, "b 2"]:
    """A spiral into the origin: eigenvalues -rate ± i."""
    turned = torch.stack([-y[..., 1], y[..., 0]], -1)
    return turned - rate * y


KNOWN: Mapping[str, Known] = {
    "pendulum": Known("pendulum", (1.2, 0.0), _pendulum),
    "lotka_volterra": Known("Lotka and Volterra: prey and hunters", (1.6, 0.8), _lotka_volterra),
    "van_der_pol": Known("van der Pol, stiffness λ", (1.5, 0.0), _van_der_pol),
    "decay": Known("decay at rate λ, turning", (1.0, 0.5), _decay),
}


class Planar(nn.Module):
    """A known field as a module; it holds no weights."""

    def __init__(self, name: str, rate: float = 1.0) -> None:
        super().__init__()
        self.slope, self.rate = KNOWN[name].slope, rate

    def forward(self, t: float, y: Float[Tensor, "b 2"]) -> Float[Tensor, "b 2"]:
        return self.slope(y, self.rate)


class Learned(nn.Module):
    """A network as a field of states `b d`: two hidden layers with tanh, so that slopes are smooth.

    With `knows_time` the last coordinate is a clock, whose slope is one: f(t, y) as a field of
    (y, t). `speed` scales what comes out.
    """

    def __init__(
        self, size: int, width: int, *, knows_time: bool = False, speed: float = 1.0
    ) -> None:
        super().__init__()
        self.knows_time, self.speed = knows_time, speed
        self.layers = nn.Sequential(
            nn.Linear(size + knows_time, width), nn.Tanh(),
            nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, size),
        )  # fmt: skip

    def forward(self, t: float, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        out = self.speed * self.layers(y)
        return torch.cat([out, torch.ones_like(out[:, :1])], 1) if self.knows_time else out


class Counted(nn.Module):
    """A field that counts how often it is asked."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.evaluations = field, 0

    def forward(self, t: float, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        self.evaluations += 1
        out: Tensor = self.field(t, y)
        return out


def undrawn() -> AbstractContextManager[None]:
    """For making networks: what torch draws for their weights leaves its generator as it was."""
    return torch.random.fork_rng(devices=[])


def drawn_weights(module: nn.Module, seed: int, *role: str | int, scale: float = 1.0) -> None:
    """Weights of all linear layers from a seed: normal, times scale / sqrt(inputs); biases zero.

    The same on every machine, and torch's global generator is left alone.
    """
    generator = rng.generator(seed, *role)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                drawn = rng.noise(layer.weight.shape, generator, dtype=layer.weight.dtype)
                layer.weight.copy_(drawn * scale / math.sqrt(layer.in_features))
                layer.bias.zero_()
