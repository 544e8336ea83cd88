"""A network that imitates a random process: a neural SDE against a controlled equation as critic.

    generator   y_0 = l(noise),  dy = f(t, y) dt + g(t, y) o dW,  x = m(y)
    critic      h_0 = l(x_0),    dh = p(t, h) dt + q(t, h) dx,     score = m(h_T)

Kidger, Foster, Li, Lyons 2021, section 5. The loss is Wasserstein's, E score(fake) - E score(real).
After each step every weight of the critic is clipped to 1 / outputs of its layer, and activations
are LipSwish, 0.909 x sigmoid(x), so that the critic's slope is bounded without a penalty. Both are
solved by reversible Heun; what drives the critic is the path itself.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import nn

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import Range
from engine.core.shapes import Array, Float, Tensor
from engine.networks._solvers import Times, increments, reversible_heun
from engine.networks.neural_de.fields import drawn_weights, undrawn
from engine.networks.neural_de.results import Generated
from engine.reversible import Mode
from engine.reversible.memory import kept_bytes

POINTS, END = 32, 31.0
PULL, RISE, NOISE = 0.1, 0.02, 0.4
"""The process: dX = (0.02 t - 0.1 X) dt + 0.4 dW, as in the example of torchsde."""
HIDDEN, NOISES, WIDTH, INITIAL = 12, 3, 24, 4


def ornstein_uhlenbeck(count: int, generator: torch.Generator) -> Float[Tensor, "b n"]:
    """Paths of the process at 32 times, by its exact transition; X_0 is normal of variance 1."""
    h = END / (POINTS - 1)
    keep, t = math.exp(-PULL * h), 0.0
    spread = NOISE * math.sqrt((1 - keep**2) / (2 * PULL))
    x = rng.noise((count,), generator)
    found = [x]
    for _ in range(POINTS - 1):
        # The particular solution RISE/PULL t - RISE/PULL^2 is what the mean decays to.
        aim, later = (RISE / PULL * (s - 1 / PULL) for s in (t, t + h))
        x = later + (x - aim) * keep + spread * rng.noise((count,), generator)
        t += h
        found.append(x)
    return torch.stack(found, 1)


class LipSwish(nn.Module):
    """0.909 x sigmoid(x): its slope is at most 1."""

    def forward(self, x: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        return 0.909 * nn.functional.silu(x)


def _layers(inputs: int, outputs: int, *, bounded: bool) -> nn.Sequential:
    made: list[nn.Module] = [nn.Linear(inputs, WIDTH), LipSwish(), nn.Linear(WIDTH, outputs)]
    return nn.Sequential(*made, nn.Tanh()) if bounded else nn.Sequential(*made)


class NoisyField(nn.Module):
    """Drift and diffusion of states `b h` as networks of state and time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.drift = _layers(HIDDEN + 1, HIDDEN, bounded=True)
        self.diffusion = _layers(HIDDEN + 1, HIDDEN * channels, bounded=True)

    def drift_and_diffusion(
        self, t: float, y: Float[Tensor, "b h"]
    ) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b h m"]]:
        timed = torch.cat([torch.full_like(y[:, :1], t / END), y], 1)
        matrix = self.diffusion(timed).reshape(len(y), HIDDEN, self.channels)
        return self.drift(timed), matrix


class Generator(nn.Module):
    """Noise into paths `b n`."""

    def __init__(self, mode: Mode = "plain") -> None:
        super().__init__()
        self.start = _layers(INITIAL, HIDDEN, bounded=False)
        self.field, self.read, self.mode = NoisyField(NOISES), nn.Linear(HIDDEN, 1), mode

    def forward(
        self, first: Float[Tensor, "b i"], dw: Float[Tensor, "n b m"]
    ) -> Float[Tensor, "b n+1"]:
        times = Times.even(END, POINTS - 1)
        sequence = reversible_heun(self.field, times, mode=self.mode, is_noisy=True, every=1)
        y = self.start(first)
        _, states = sequence((y, y * 1.0), (dw,))
        paths: Tensor = self.read(torch.stack([y, *states], 1))[..., 0]
        return paths


class Critic(nn.Module):
    """Paths `b n` into scores: a controlled equation, driven by the path."""

    def __init__(self, mode: Mode = "plain") -> None:
        super().__init__()
        self.start = _layers(1, HIDDEN, bounded=False)
        self.field, self.read, self.mode = NoisyField(1), nn.Linear(HIDDEN, 1), mode

    def forward(self, paths: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        times = Times.even(END, POINTS - 1)
        sequence = reversible_heun(self.field, times, mode=self.mode, is_noisy=True)
        h = self.start(paths[:, :1])
        control = paths.diff(dim=1).T[..., None]
        (y, _), _ = sequence((h, h * 1.0), (control,))
        scores: Tensor = self.read(y)[:, 0]
        return scores

    @torch.no_grad()
    def clip(self) -> None:
        """Every weight of every linear layer into [-1/outputs, 1/outputs]."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.clamp_(-1 / layer.out_features, 1 / layer.out_features)

    def largest_weight(self) -> float:
        """The largest |weight| times the outputs of its layer; at most 1 when clipped."""
        return max(
            float(layer.weight.detach().abs().max()) * layer.out_features
            for layer in self.modules() if isinstance(layer, nn.Linear)
        )  # fmt: skip


# ---------------------------------------------------------------------- training


@dataclass
class Game:
    """Generator and critic with their optimisers, and the mean of the generator's weights.

    Adadelta with weight decay 0.01, as in the paper's examples; the mean begins at `mean_from`.
    """

    generator: Generator
    critic: Critic
    seed: int
    mean_from: int = 0
    rates: tuple[float, float] = (0.2, 1.0)
    done: int = 0

    @classmethod
    def begun(cls, seed: int, *, mean_from: int = 0) -> "Game":
        """Weights from a seed: those of the generator's start three times as large, as there."""
        with undrawn():
            generator, critic = Generator(), Critic()
        drawn_weights(generator, seed, "generator", scale=0.7)
        drawn_weights(generator.start, seed, "start", scale=1.5)
        drawn_weights(critic, seed, "critic")
        critic.clip()
        return cls(generator, critic, seed, mean_from)

    def __post_init__(self) -> None:
        made = [
            torch.optim.Adadelta(one.parameters(), lr=rate, weight_decay=0.01)
            for one, rate in zip((self.generator, self.critic), self.rates, strict=True)
        ]
        self.optimisers = made
        self.mean = {n: p.detach().clone() for n, p in self.generator.named_parameters()}

    def step(self, batch: int) -> float:
        """One step of both; returns the critic's estimate of the distance."""
        draw = rng.generator(self.seed, "game", self.done)
        real = ornstein_uhlenbeck(batch, draw)
        with torch.enable_grad():
            fake = self.generator(*drawn_noise(batch, draw))
            # One loss for both: the critic climbs it, the generator goes down.
            loss = self.critic(real).mean() - self.critic(fake).mean()
            weights = [*self.generator.parameters(), *self.critic.parameters()]
            grads = torch.autograd.grad(loss, weights)
        border = len(list(self.generator.parameters()))
        for k, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
            weight.grad = grad if k < border else -grad
        for optimiser in self.optimisers:
            optimiser.step()
        self.critic.clip()
        self.done += 1
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        count = max(self.done - self.mean_from, 1)
        for name, parameter in self.generator.named_parameters():
            self.mean[name].lerp_(parameter, 1 / min(count, 500))

    def averaged(self) -> Generator:
        """The generator with the mean of its weights."""
        with undrawn():
            made = Generator()
        made.load_state_dict(self.mean)
        return made


def drawn_noise(batch: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """What a generator reads: noise for the start, and Brownian increments."""
    times = Times.even(END, POINTS - 1)
    first = rng.noise((batch, INITIAL), draw)
    return first, increments(times, rng.noise((POINTS - 1, batch, NOISES), draw))


def marginal_distance(fake: Float[Array, "b n"], real: Float[Array, "b n"]) -> float:
    """Wasserstein distance of the marginals, mean over times, in standard deviations of `real`.

    Of equally many samples it is the mean gap of the sorted ones.
    """
    gap = np.abs(np.sort(fake, 0) - np.sort(real, 0)).mean(0)
    return float((gap / real.std(0)).mean())


# ---------------------------------------------------------------------- the job

SAMPLES, DRAWN = 512, 24


def generate(
    *,
    seed: int,
    rounds: Annotated[int, Range(0, 1000, "200 take a while.")] = 150,
    batch: Annotated[int, Range(4, 256, "Try 96.")] = 96,
) -> Steps[Generated]:
    """The game from its first step: paths, and distances of the marginals."""
    draw = rng.generator(seed, "samples")
    real = ornstein_uhlenbeck(SAMPLES, draw).numpy()
    other = ornstein_uhlenbeck(SAMPLES, draw).numpy()
    noise = drawn_noise(SAMPLES, draw)
    game = Game.begun(seed, mean_from=rounds // 2)
    kept = _kept(game.generator, noise)
    times = np.linspace(0, END, POINTS)
    shown = Generated(
        times, real[:DRAWN], real[:DRAWN] * 0, bands(real), bands(real * 0),
        floor=marginal_distance(other, real),
        kept_bytes=kept["reversible"], plain_bytes=kept["plain"],
    )  # fmt: skip
    shown = _seen(shown, game, noise, real)
    yield Progress(0, max(rounds, 1), "Before the first step", shown)
    for done in range(1, rounds + 1):
        estimate = game.step(batch)
        _check(estimate)
        if done % max(1, rounds // 20) == 0 or done == rounds:
            shown = _seen(shown, game, noise, real)
        yield Progress(done, rounds, f"Step {done}", shown)
    return replace(shown, notes=tuple(_notes(shown)))


def _check(estimate: float) -> None:
    if not math.isfinite(estimate):
        raise BadInput("The game left all bounds.", "Take another seed or a larger batch.")


@torch.no_grad()
def _seen(
    shown: Generated, game: Game, noise: tuple[Tensor, Tensor], real: np.ndarray
) -> Generated:
    fake = game.averaged()(*noise).numpy()
    return replace(
        shown, fake=fake[:DRAWN], fake_bands=bands(fake), steps=(*shown.steps, game.done),
        distances=(*shown.distances, marginal_distance(fake, real)),
        largest_weight=game.critic.largest_weight(),
    )  # fmt: skip


def bands(paths: Float[Array, "b n"]) -> Float[Array, "3 n"]:
    """The 5 %, 50 % and 95 % quantiles at each time."""
    return np.quantile(paths, (0.05, 0.5, 0.95), axis=0)


def _kept(generator: Generator, noise: tuple[Tensor, Tensor]) -> Mapping[str, int]:
    """Bytes that a pass of 32 paths keeps for its way back, by mode; taps alone keep what the
    read-out sees."""
    some = noise[0][:32], noise[1][:, :32].contiguous()
    found = {}
    for mode in ("reversible", "plain"):
        with undrawn():
            one = Generator(mode)
        with torch.enable_grad(), kept_bytes(one, some) as kept:
            one(*some)
        found[mode] = kept.total
    return found


def _notes(shown: Generated) -> Iterator[str]:
    ratio = shown.distances[-1] / shown.floor
    yield (
        f"The marginals are {shown.distances[-1]:.2f} standard deviations from the process's, "
        f"{ratio:.1f} times as far as two draws of the process from one another."
    )
    yield "A game of some hundred steps is not over; paths still differ from those of the process."
