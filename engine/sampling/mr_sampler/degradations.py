"""Four ways to spoil a picture, with a known original: what the network was trained to take back.

    mu = degrade(x0, "rain", 0.5, generator)

Pictures are b 3 h w in [0, 1]. `strength` runs from 0 (light) to 1 (heavy), one for the batch or
one a picture. All randomness comes from the generator, on its device; the result is rounded to
eight bits, as a file would be. These are small stand-ins for the ten data sets of the paper: the
same kinds of damage, made by formulas.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.sampling.mr_sampler import TASKS

Pictures = Float[Tensor, "b 3 h w"]
Strength = Float[Tensor, "b 1 1 1"]
KERNEL = 15
"""Side of the rain kernels in pixels."""


def degrade(
    x0: Pictures, task: str, strength: float | Float[Tensor, " b"], generator: torch.Generator
) -> Pictures:
    """The picture after this damage. Raises `BadInput` for an unknown task."""
    if task not in _DEGRADE:
        raise BadInput(f'There is no damage "{task!s:.40}".', f"Choose {', '.join(TASKS)}.")
    amount = torch.as_tensor(strength, dtype=x0.dtype, device=x0.device).expand(len(x0))
    spoilt = _DEGRADE[task](x0, amount.reshape(-1, 1, 1, 1), generator)
    return (spoilt.clamp(0, 1) * 255).round() / 255


def noisy(x0: Pictures, strength: Strength, generator: torch.Generator) -> Pictures:
    """Gaussian noise of standard deviation 15 to 50 steps of 1/255."""
    return x0 + (15 + 35 * strength) / 255 * _normal(x0.shape, generator)


def rainy(x0: Pictures, strength: Strength, generator: torch.Generator) -> Pictures:
    """Bright streaks near the vertical, screened over the picture."""
    b, _, h, w = x0.shape
    tilt = math.pi / 2 + 0.35 * _normal((b, 1, 1), generator)
    kernels = _streak(tilt, torch.full_like(strength[..., 0], 3.5), 0.6)
    drops = _uniform((b, 1, h, w), generator) < 0.005 + 0.015 * strength
    light = drops * (0.4 + 0.6 * _uniform((b, 1, h, w), generator))
    streaks = _filtered(light.to(x0), kernels).clamp(0, 0.9)
    return 1 - (1 - x0) * (1 - streaks)


def scribbled(x0: Pictures, strength: Strength, generator: torch.Generator) -> Pictures:
    """Black scribbles: the lines where smooth random hills are near zero."""
    b, _, h, w = x0.shape
    coarse = _normal((b, 1, max(h // 10, 2) + 1, max(w // 10, 2) + 1), generator)
    hills = F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True)
    return x0 * (hills.abs() > 0.06 + 0.16 * strength)


def darkened(x0: Pictures, strength: Strength, generator: torch.Generator) -> Pictures:
    """Little light, and the noise of the camera."""
    dark = (0.75 - 0.45 * strength) * x0.clamp(min=0) ** (1 + 1.2 * strength)
    return dark + (2 + 4 * strength) / 255 * _normal(x0.shape, generator)


_DEGRADE: dict[str, Callable[[Pictures, Strength, torch.Generator], Pictures]] = {
    "noise": noisy,
    "rain": rainy,
    "inpaint": scribbled,
    "low_light": darkened,
}


def _streak(
    angle: Float[Tensor, "b 1 1"], length: Float[Tensor, "b 1 1"], width: float
) -> Float[Tensor, "b k k"]:
    """A Gaussian drawn out along `angle`, with peak 1."""
    place = torch.arange(KERNEL, device=angle.device, dtype=angle.dtype) - KERNEL // 2
    y, x = place[None, :, None], place[None, None, :]
    along = x * torch.cos(angle) + y * torch.sin(angle)
    across = y * torch.cos(angle) - x * torch.sin(angle)
    return torch.exp(-((along / length) ** 2 + (across / width) ** 2) / 2)


def _filtered(x: Float[Tensor, "b c h w"], kernels: Float[Tensor, "b k k"]) -> Tensor:
    """Each picture under its own kernel, mirrored at the border."""
    b, c, h, w = x.shape
    half = KERNEL // 2
    mode = "reflect" if min(h, w) > half else "replicate"
    padded = F.pad(x, (half,) * 4, mode).reshape(1, b * c, h + 2 * half, w + 2 * half)
    weights = kernels[:, None].repeat_interleave(c, 0)
    return F.conv2d(padded, weights, groups=b * c).reshape(b, c, h, w)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
