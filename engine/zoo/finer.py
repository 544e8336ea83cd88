"""The world's autoencoder for pictures of twice the side, with the latents that it has.

One level more stands before the encoder and after the decoder: 128 x 128 pixels, 16 x 16 latents
as before. Whatever was trained on the latents stays valid. The decoder is trained on the latents of
the old encoder, the new encoder to give those latents; each begins with the old weights where the
shapes agree, and the two can be trained in any order.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.zoo.autoencoder import as_signal, batch_of, encode, train_decoder
from engine.zoo.dataset import Pictures, kept, rows_on
from engine.zoo.training import Figures, Plan, half_precision, train

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

OUTER_CHANNELS = 16
NOISE = 0.03  # on the latents that the decoder learns from; their spread is about 1


def finer_autoencoder(old: "AutoencoderKL") -> "AutoencoderKL":
    """The autoencoder `old` with one level more, begun from its weights."""
    from diffusers import AutoencoderKL

    config = dict(old.config)
    config |= {
        "block_out_channels": (OUTER_CHANNELS, *config["block_out_channels"]),
        "down_block_types": (*config["down_block_types"], "DownEncoderBlock2D"),
        "up_block_types": (*config["up_block_types"], "UpDecoderBlock2D"),
        "sample_size": 2 * config["sample_size"],
    }
    new = AutoencoderKL.from_config(config)
    known = {_new_name(name): value for name, value in old.state_dict().items()}
    shapes = {name: value.shape for name, value in new.state_dict().items()}
    fits = {name: value for name, value in known.items() if shapes.get(name) == value.shape}
    new.load_state_dict(fits, strict=False)
    _pass_on(new.decoder.up_blocks[-2].upsamplers[0].conv)
    return new.to(old.device, memory_format=torch.channels_last)


def _new_name(name: str) -> str:
    """Where a weight belongs in the larger network: the encoder's levels move one step inwards."""
    level, suffix = "encoder.down_blocks.", name.removeprefix("encoder.down_blocks.")
    if suffix == name:
        return name
    index, rest = suffix.split(".", 1)
    return f"{level}{int(index) + 1}.{rest}"


def _pass_on(conv: nn.Conv2d) -> None:
    """A convolution that changes nothing, so that the new level begins with what came before it."""
    nn.init.dirac_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Pictures uint8 n x 2h x 2w x 3 averaged over 2 x 2 pixels: uint8 n x h x w x 3."""
    n, height, width, _ = pixels.shape
    parts = pixels.reshape(n, height // 2, 2, width // 2, 2, 3).astype(np.uint16)
    return ((parts.sum((2, 4)) + 2) // 4).astype(np.uint8)


def old_latents(old: "AutoencoderKL", data: Pictures, file: Path) -> np.ndarray:
    """Latents that the old encoder gives the halved pictures, float16 n x 6 x 16 x 16."""

    def encoded() -> np.ndarray:
        parts = (data.pixels[i : i + 500] for i in range(0, len(data.pixels), 500))
        return np.concatenate([encode(old, halved(part)).half().cpu().numpy() for part in parts])

    return kept(file, encoded)


def train_finer_decoder(
    vae: "AutoencoderKL",
    data: Pictures,
    latents: np.ndarray,
    plan: Plan,
    checkpoint: Path,
    on_save: Callable[[int], None] | None = None,
) -> None:
    """The decoder, from the old encoder's latents to the pictures at the new side."""
    train_decoder(vae, data, plan, checkpoint, latents=latents, noise=NOISE, on_save=on_save)


def train_finer_encoder(
    vae: "AutoencoderKL", data: Pictures, latents: np.ndarray, plan: Plan, checkpoint: Path
) -> None:
    """The encoder, from pictures at the new side to the old encoder's latents.

    Squared error: the basis of the latents is such that equal errors disturb the pixels equally.
    """
    pixels, latent_rows = rows_on(data.pixels, vae.device), rows_on(latents, vae.device)
    batch = batch_of(vae)

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        chosen = np.sort(draw.integers(len(data.pixels), size=batch))
        x, z = as_signal(pixels(chosen)), latent_rows(chosen).float()
        with half_precision(x.device, on_cpu=True):
            predicted = vae.encode(x).latent_dist.mean
        error = (predicted.float() - z).square().mean()
        return error, {"error": error.detach()}

    train([vae.encoder], loss_of, plan, checkpoint)


@torch.inference_mode()
def enlarged(old: "AutoencoderKL", latents: Tensor) -> Tensor:
    """What the old decoder gives, enlarged by bicubic interpolation: the figure to beat."""
    return F.interpolate(old.decode(latents).sample, scale_factor=2, mode="bicubic").clamp(-1, 1)


def joined(encoder_of: "AutoencoderKL", decoder_of: "AutoencoderKL") -> "AutoencoderKL":
    """One autoencoder of two halves that were trained apart."""
    whole = copy.deepcopy(decoder_of)
    whole.encoder.load_state_dict(encoder_of.encoder.state_dict())
    return whole.eval().requires_grad_(False)
