"""A classifier made robust by noise: the mean of its answers to noisy copies of a picture.

    g(x) = mean over n of softmax f(x + sigma n),   n ~ N(0, I)

Probabilities are averaged, not logits, and noisy pictures are not cut to [0, 1]. With a denoiser in
front (denoised smoothing), each copy is cleaned by one step of a diffusion model first, through
which gradients flow. Cohen et al. (arXiv 1902.02918), Carlini et al. (arXiv 2206.10550).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Int, Tensor
from engine.models.score import ScoreBundle

Logits: TypeAlias = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k"]]
"""Pictures in [0, 1] to logits; normalisation is inside."""
NoisePredictor: TypeAlias = Callable[
    [Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, "b _ h w"]
]
LEAST = 1e-20
CHUNK = 64


def linear_schedule(steps: int = 1000) -> Float[Tensor, " t"]:
    """abar_t of DDPM: betas from 1e-4 to 0.02."""
    return (1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)).cumprod(0)


@dataclass(frozen=True)
class OneShot:
    """One denoising step of a diffusion model, for pictures in [0, 1].

    `predict` gives the noise in x_t, in its first channels where it also gives variances.
    """

    predict: NoisePredictor
    alphas_cumprod: Float[Tensor, " t"]

    @classmethod
    def of(cls, bundle: ScoreBundle) -> "OneShot":
        """The step of a DDPM. Raises `ModelMismatch` for a network on another process."""
        if bundle.process != "vp" or bundle.low != -1:
            raise ModelMismatch(
                f"{bundle.card.title} is no DDPM, whose noise is told by steps.",
                "Use a DDPM of the classifier's size, such as google/ddpm-cifar10-32.",
            )
        return cls(lambda x, t: bundle.model(x, t.to(x.dtype)), linear_schedule())

    def timestep(self, sigma: float) -> int:
        """The first step t >= 1 whose noise is as strong: sqrt((1 - abar) / abar) >= 2 sigma.

        The factor is 2 as the model's pictures lie in [-1, 1].
        """
        levels = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        found = (levels[1:] >= 2 * sigma).nonzero()
        return 1 + int(found[0]) if len(found) else len(levels) - 1

    def noisy(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: int
    ) -> Float[Tensor, "b c h w"]:
        """x_t of a picture in [0, 1]."""
        kept = float(self.alphas_cumprod[t])
        return kept**0.5 * (2 * x - 1) + (1 - kept) ** 0.5 * noise

    def denoised(self, x_t: Float[Tensor, "b c h w"], t: int) -> Float[Tensor, "b c h w"]:
        """The clean picture that the predicted noise leaves, in [0, 1]."""
        kept = float(self.alphas_cumprod[t])
        predicted = self.predict(x_t, torch.full((len(x_t),), t, device=x_t.device))
        clean = (x_t - (1 - kept) ** 0.5 * predicted[:, : x_t.shape[1]]) / kept**0.5
        return (clean.clamp(-1, 1) + 1) / 2


@dataclass(frozen=True)
class Smoothed:
    """g of a classifier. `sigma` 0 is the classifier itself."""

    logits: Logits
    sigma: float
    denoiser: OneShot | None = None
    chunk: int = CHUNK

    def probabilities(
        self, x: Float[Tensor, "1 c h w"], noise: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n k"]:
        """The answers to the noisy copies of one picture; their mean is g."""
        if self.sigma == 0:
            return self.logits(x).softmax(1)
        if self.denoiser is None:
            return self.logits(x + self.sigma * noise).softmax(1)
        t = self.denoiser.timestep(self.sigma)
        copies = self.denoiser.noisy(x.expand_as(noise), noise, t)
        return self.logits(self.denoiser.denoised(copies, t)).softmax(1)

    def slope(
        self, x: Float[Tensor, "1 c h w"], noise: Float[Tensor, "n c h w"], target: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "1 c h w"]]:
        """g(x)[target], and the gradient of -log g(x)[target] with respect to the picture.

        Copies go through in chunks: the gradients of their probabilities add up, and are divided by
        the mean probability at the end. Where that is below 1e-20, the gradient is 0.
        """
        chunks = [noise[:1]] if self.sigma == 0 else noise.split(self.chunk)
        total, gradient, count = x.new_zeros(()), torch.zeros_like(x), 0
        for part in chunks:
            picture = x.detach().requires_grad_(True)
            with torch.enable_grad():
                said = self.probabilities(picture, part)[:, target]
            (found,) = torch.autograd.grad(said.sum(), picture)
            total, gradient, count = (
                total + said.detach().sum(),
                gradient + found,
                count + len(said),
            )
        mean = total / count
        # Chosen without asking how large it is, for which the host would wait.
        return mean, torch.where(mean > LEAST, -gradient / (count * mean), torch.zeros_like(x))
