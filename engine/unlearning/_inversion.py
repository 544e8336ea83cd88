"""Back to the trigger of a backdoor, from one picture: descent on the picture itself.

Sun and Kolter, "Single Image Backdoor Inversion via Robust Smoothed Classifiers", CVPR 2023
(arXiv 2303.00215). On a robust classifier the cheapest way to the attacker's class is the trigger,
so it appears in the perturbation. Plain projected gradient descent (`sigma` 0) and Neural Cleanse
stand beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.precision import at_home
from engine.core.shapes import Bool, Float, Int, Num, Tensor
from engine.unlearning._smoothing import Logits, Smoothed

WINDOW = 5
OUTLIER, MAD = 3.5, 1.4826
LEAST_SUCCESS = 0.5
"""A trigger that most pictures do not follow is none, however much it stands out."""


@dataclass(frozen=True)
class Synthesis:
    """How far and how fast: L2 radius `eps` in pixels of [0, 1], momentum 0.9.

    The step is halved every `period` iterations. `common_noise` draws the noise once and not anew
    at every iteration: smoother curves, and another estimate than the paper's.
    """

    eps: float = 3.0
    step: float = 0.15
    steps: int = 80
    samples: int = 16
    period: int = 300
    momentum: float = 0.9
    common_noise: bool = False


@dataclass(frozen=True)
class Step:
    """One iteration: the perturbation after it, its length, and g(x)[target] before it."""

    number: int
    delta: Float[Tensor, "1 c h w"]
    length: float
    probability: float


def synthesise(
    smoothed: Smoothed,
    x: Float[Tensor, "1 c h w"],
    target: int,
    how: Synthesis,
    *,
    seed: int = 0,
    noise: Float[Tensor, "s n c h w"] | None = None,
) -> Iterator[Step]:
    """The perturbation step by step, on the CPU; `noise` replaces what would be drawn.

    Each step: a normalised gradient into the velocity, a step along it, first the box [0, 1] and
    then the L2 ball. The walk goes on the device of `x`, and the host waits once a step for what it
    tells. Raises `BadInput` for a picture outside of [0, 1].
    """
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise BadInput("The picture has values outside of 0 to 1.", "Give pixels between them.")
    delta, velocity = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(how.steps):
        drawn = _noise(x, how, seed, i) if noise is None else noise[i]
        probability, gradient = smoothed.slope(x + delta, drawn, target)
        length = gradient.norm()
        gradient = torch.where(length > 0, gradient / length, torch.zeros_like(gradient))
        velocity = how.momentum * velocity + gradient
        delta = delta - how.step * 0.5 ** (i // how.period) * velocity
        delta = (x + delta).clamp(0, 1) - x
        delta = projected(delta, how.eps)
        here, size, chance = at_home([delta, delta.norm(), probability])
        yield Step(i, here, float(size), float(chance))


def projected(delta: Float[Tensor, "1 c h w"], eps: float) -> Float[Tensor, "1 c h w"]:
    """Into the ball: delta eps / (|delta| + 1e-7) where it is longer, as torch.renorm does."""
    length = delta.norm()
    return torch.where(length > eps, delta * (eps / (length + 1e-7)), delta)


def _noise(x: Tensor, how: Synthesis, seed: int, step: int) -> Float[Tensor, "n c h w"]:
    role = 0 if how.common_noise else step
    generator = rng.generator(seed, "smoothing", role)
    return rng.noise((how.samples, *x.shape[1:]), generator, device=x.device, dtype=x.dtype)


@torch.no_grad()
def hits(
    logits: Logits,
    pictures: Float[Tensor, "n c h w"],
    delta: Float[Tensor, "1 c h w"],
    target: int,
) -> Bool[Tensor, " n"]:
    """Which pictures the classifier itself, not the smoothed one, takes for the target."""
    said = [logits((part + delta).clamp(0, 1)).argmax(1) for part in pictures.split(250)]
    return torch.cat(said) == target


# ---------------------------------------------------------------------- recognising the class


def concentration(delta: Float[Tensor, "1 c h w"], window: int = WINDOW) -> float:
    """The largest share of the perturbation's energy in any square of 5 x 5 pixels.

    It suits triggers in one place only: one that is spread out (blended, warped) escapes it.
    """
    energy = delta.square().sum(1, keepdim=True)
    size = min(window, *energy.shape[-2:])
    boxes = F.avg_pool2d(energy, size, stride=1) * size**2
    total = float(energy.sum())
    return float(boxes.max()) / total if total > 0 else 0.0


def robust_z(scores: list[float]) -> list[float]:
    """(score - median) / (1.4826 MAD) of each class."""
    values = torch.tensor(scores, dtype=torch.float64)
    middle = values.quantile(0.5)
    spread = (values - middle).abs().quantile(0.5)
    return ((values - middle) / (MAD * spread).clamp(min=1e-12)).tolist()


# ---------------------------------------------------------------------- Neural Cleanse


@dataclass(frozen=True)
class Cleansed:
    """A mask and a pattern, stepwise: `pictures` become (1 - mask) x + mask pattern."""

    number: int
    mask: Float[Tensor, "1 1 h w"]
    pattern: Float[Tensor, "1 c h w"]
    success: float
    size: float

    def stamped(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The pictures with the pattern."""
        return (1 - self.mask) * pictures + self.mask * self.pattern


def neural_cleanse(
    logits: Logits,
    pictures: Num[Tensor, "n c h w"],
    target: int,
    *,
    seed: int,
    steps: int = 150,
    batch: int = 64,
    rate: float = 0.1,
    goal: float = 0.99,
) -> Iterator[Cleansed]:
    """Mask and pattern that send a whole set to the target, with the smallest mask (Wang et al.,
    S&P 2019): CE + lambda |mask|_1, lambda raised while the attack succeeds and lowered else.
    """
    draw = rng.generator(seed, "neural cleanse")
    channels, height, width = pictures.shape[1:]
    raw_mask = torch.full((1, 1, height, width), -3.0, requires_grad=True)
    raw_pattern = torch.zeros(1, channels, height, width, requires_grad=True)
    climber = torch.optim.Adam([raw_mask, raw_pattern], lr=rate, betas=(0.5, 0.9))
    weight, recent = 1e-3, 0.0
    for i in range(steps):
        places: Int[Tensor, " b"] = torch.randint(len(pictures), (batch,), generator=draw)
        with torch.enable_grad():
            mask, pattern = raw_mask.sigmoid(), raw_pattern.sigmoid()
            said = logits((1 - mask) * pictures[places] + mask * pattern)
            goals = torch.full((batch,), target)
            loss = F.cross_entropy(said, goals) + weight * mask.sum()
        climber.zero_grad()
        loss.backward()
        climber.step()
        success = float((said.detach().argmax(1) == target).float().mean())
        recent = 0.9 * recent + 0.1 * success
        weight = weight * 1.05 if recent >= goal else weight / 1.03
        shown = raw_mask.detach().sigmoid(), raw_pattern.detach().sigmoid()
        yield Cleansed(i, *shown, success, float(shown[0].sum()))
