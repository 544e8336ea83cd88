"""What the methods that learn from a few pictures share: the pictures, and the denoising error.

    latents = Latents.of(bundle, [fitted(picture, side) for picture in pictures])
    error = denoising_error(bundle, tokens, *noised(...))

Everything that is drawn comes from generators that are handed in, and gradients reach the token
states alone: the UNet and the autoencoder are frozen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from engine.core.errors import BadInput, ModelMismatch
from engine.core.shapes import Array, Float, Int, Tensor, UInt8
from engine.models.diffusion import (
    Conditioning,
    DiffusionBundle,
    alphas_cumprod,
    picture_posterior,
    predict,
)

if TYPE_CHECKING:
    from transformers.models.clip.modeling_clip import CLIPTextModel

Fit = Literal["stretch", "centre", "letterbox"]
FITS = ("stretch", "centre", "letterbox")
LARGEST_SIDE = 4096


# ---------------------------------------------------------------------- pictures


def fitted(
    picture: UInt8[Array, "h w 3"], side: int, fit: Fit = "stretch", *, flip: bool = False
) -> UInt8[Array, "side side 3"]:
    """The picture as a square, bicubic.

    "stretch" is what the published loaders do; "centre" cuts the middle out first; "letterbox" puts
    white around, which keeps shapes and directions.
    """
    if fit == "centre":
        tall, wide = picture.shape[:2]
        short = min(tall, wide)
        top, left = (tall - short) // 2, (wide - short) // 2
        picture = picture[top : (tall + short) // 2, left : (wide + short) // 2]
    image = Image.fromarray(np.ascontiguousarray(picture))
    if fit == "letterbox":
        image = ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color="white")
    image = image.resize((side, side), resample=Image.Resampling.BICUBIC)
    return np.asarray(ImageOps.mirror(image) if flip else image)


def pixels(picture: UInt8[Array, "h w 3"]) -> Float[Array, "3 h w"]:
    """The picture as networks see it: channels first, -1 to 1."""
    return (picture.astype(np.float32) / 255 * 2 - 1).transpose(2, 0, 1)


def checked_pictures(pictures: object, most: int, what: str) -> tuple[np.ndarray, ...]:
    """Pictures as they came with a job. Raises `BadInput` when one is none, or there are too many.

    An empty list is let through: then there is another source.
    """
    if not isinstance(pictures, list | tuple) or len(pictures) > most:
        raise BadInput(f"Give at most {most} {what}.", "Four are enough for most concepts.")
    for picture in pictures:
        is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
        if not is_picture or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise BadInput("This is no picture with three colours.", "Upload it as PNG or JPEG.")
        if max(picture.shape) > LARGEST_SIDE:
            raise BadInput(
                f"A picture has a side of {max(picture.shape)} pixels; {LARGEST_SIDE} are allowed.",
                "Make it smaller: it is brought to the size of the model anyway.",
            )
    return tuple(pictures)


@dataclass(frozen=True)
class Latents:
    """What the autoencoder says of each picture: mean and standard deviation of its latents."""

    mean: Float[Tensor, "n c h w"]
    std: Float[Tensor, "n c h w"]

    @classmethod
    def of(cls, bundle: DiffusionBundle, pictures: Sequence[np.ndarray]) -> "Latents":
        return cls(*picture_posterior(bundle, np.stack(pictures)))

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """Latents of some of the pictures, drawn anew."""
        mean, std = self.mean[list(rows)], self.std[list(rows)]
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)


# ---------------------------------------------------------------------- the error


def denoising_error(
    bundle: DiffusionBundle,
    tokens: Float[Tensor, "b n d"],
    z: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Mean over everything of (network output - target)^2 at z_t = a z + s noise, a^2 + s^2 = 1.

    The target is what the network was trained for: the noise, v = a noise - s z, or z itself.
    """
    t = t.to(z.device)
    signal = alphas_cumprod(bundle).to(z.device)[t].reshape(-1, 1, 1, 1)
    a, s = signal.sqrt(), (1 - signal).sqrt()
    targets = {"epsilon": noise, "v_prediction": a * noise - s * z, "sample": z}
    predicted = predict(bundle, a * z + s * noise, t, Conditioning(tokens))
    return (predicted - targets[bundle.prediction_type]).square().mean()


def token_states(
    encoder: nn.Module, ids: Int[Tensor, "b n"], weights: Mapping[str, Tensor]
) -> Float[Tensor, "b n d"]:
    """Last hidden states under these weights, the others as they are; gradients reach them."""
    return torch.func.functional_call(encoder, dict(weights), (ids,)).last_hidden_state


class Adam:
    """Adam (Kingma and Ba 2015), with weight decay added to the gradient or, `decoupled`, apart.

        m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
        theta <- theta - rate (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps)

    As torch.optim.Adam and AdamW, whose first step loads the compiler for ten seconds.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.parameters, self.rate, self.betas, self.eps = parameters, learning_rate, betas, eps
        self.weight_decay, self.decoupled, self.count = weight_decay, decoupled, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def descend(self, loss: Float[Tensor, ""]) -> None:
        """One step down the loss."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss, self.parameters)
        self.count += 1
        b1, b2 = self.betas
        scale = self.rate / (1 - b1**self.count)
        root = (1 - b2**self.count) ** 0.5
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            if self.decoupled:
                p.mul_(1 - self.rate * self.weight_decay)
            else:
                g = g + self.weight_decay * p
            m.lerp_(g, 1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            p.addcdiv_(m, (v.sqrt() / root).add_(self.eps), value=-scale)


def the_text_encoder(bundle: DiffusionBundle, method: str) -> "CLIPTextModel":
    """The one text encoder. Raises `ModelMismatch` for models with two."""
    if len(bundle.text_encoders) != 1:
        raise ModelMismatch(
            f"This model has two text encoders, for which {method} is not defined in its paper.",
            "Pick a Stable Diffusion model of the 1.x or 2.x layout.",
        )
    encoder: Any = bundle.text_encoders[0]
    return encoder
