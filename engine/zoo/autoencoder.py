"""The picture autoencoder of the embedded world: 64 x 64 pixels to 16 x 16 latents and back.

Both halves are trained together. Then the latents get a balanced basis: uncorrelated channels,
scaled so that equal noise in any of them disturbs the pixels equally. The change of basis is folded
into the two 1 x 1 convolutions at the bottleneck and costs nothing. At the end the decoder is
trained alone: the latents stay, and with them everything that was ever trained on them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.zoo.dataset import Pictures, rows_on
from engine.zoo.training import Figures, Plan, half_precision, train

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger(__name__)

BATCH = {"cpu": 16, "cuda": 96}
LATENT_CHANNELS = 6
DECODER_NOISE = 0.05
LEAST_SEEN = 3e-3  # share of the best seen direction below which directions are not shrunk further


def new_autoencoder() -> "AutoencoderKL":
    """An untrained autoencoder: four times smaller along each side, six channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def train_both(vae: "AutoencoderKL", data: Pictures, plan: Plan, checkpoint: Path) -> None:
    """Encoder and decoder together, on all pictures."""
    rows, batch = rows_on(data.pixels, vae.device), BATCH[vae.device.type]

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        x = as_signal(rows(np.sort(draw.integers(len(data.pixels), size=batch))))
        with half_precision(x.device):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample(noise)).sample
        loss, figures = _distance(y.float(), x)
        return loss + 1e-6 * posterior.kl().float().mean(), figures

    train([vae], loss_of, plan, checkpoint)


def train_decoder(
    vae: "AutoencoderKL",
    data: Pictures,
    plan: Plan,
    checkpoint: Path,
    *,
    latents: np.ndarray | None = None,
    noise: float = 0.0,
    on_save: Callable[[int], None] | None = None,
) -> None:
    """The decoder alone, on the encoder's means (or the latents n x c x 16 x 16 that are given)
    with this much noise, for the decibels of each picture.

    The logarithm weighs an easy picture as much as a hard one, as the bar does: it is a mean of
    decibels. Noise makes up for what an encoder or a denoiser does not hit.
    """
    pixels, spread = rows_on(data.pixels, vae.device), noise
    batch = batch_of(vae)
    z = encode(vae, data.pixels).cpu().numpy() if latents is None else latents
    latent_rows = rows_on(z, vae.device)

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        chosen = np.sort(draw.integers(len(data.pixels), size=batch))
        x, z = as_signal(pixels(chosen)), latent_rows(chosen).float()
        z = z + spread * torch.randn(z.shape, generator=noise, device=z.device)
        with half_precision(x.device, on_cpu=True):
            y = vae.decode(z).sample
        loss, _ = _distance(y.float(), x)
        decibels = -10 * torch.log10((y.float() - x).square().mean((1, 2, 3)) / 4 + 1e-6).mean()
        return loss - 0.1 * decibels, {"psnr": decibels.detach()}

    train([vae.post_quant_conv, vae.decoder], loss_of, plan, checkpoint, on_save=on_save)


def batch_of(vae: "AutoencoderKL") -> int:
    """Pictures in a step: as many pixels at every side."""
    return BATCH[vae.device.type] * 64 // vae.config.sample_size


def balance(vae: "AutoencoderKL", data: Pictures, count: int = 2000) -> None:
    """Choose the basis of the latents: uncorrelated, ordered, scaled by what a picture shows.

    Noise of one size then disturbs pixels equally in every direction. White latents would not do:
    channels that the decoder hardly reads would stand beside the others at full size, and a
    denoiser would spend most of its effort on what nobody sees. Reconstructions stay what they are.
    """
    sample = np.sort(np.random.default_rng(0).choice(len(data.pixels), count, replace=False))
    z = encode(vae, data.pixels[sample]).double()
    flat = z.movedim(1, -1).reshape(-1, z.shape[1])
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    values, vectors = torch.linalg.eigh(covariance)
    spread = vectors @ torch.diag(values.sqrt())  # of unit latents
    visibility, directions = torch.linalg.eigh(spread.T @ _pixel_gram(vae, z[:64]) @ spread)
    visibility, directions = visibility.flip(0), directions.flip(1)
    scale = visibility.clamp(min=LEAST_SEEN * visibility[0]).sqrt()
    scale = scale / scale.square().mean().sqrt()
    forth = torch.diag(scale) @ directions.T @ torch.linalg.inv(spread)
    _change_basis(vae, forth, mean)


def _pixel_gram(vae: "AutoencoderKL", z: Tensor) -> Tensor:
    """c x c: mean product of the pixel changes that small noise on two latent channels makes."""
    noise = torch.randn(z[:, :1].shape, generator=torch.Generator().manual_seed(0)).to(z)
    step = 0.1 * z.std((0, 2, 3))
    with torch.inference_mode():
        still = vae.decode(z.float()).sample
        changes = []
        for channel, size in enumerate(step):
            moved = z.clone()
            moved[:, channel] += size * noise[:, 0]
            changes.append(((vae.decode(moved.float()).sample - still).double() / size).flatten())
    stacked = torch.stack(changes)
    return stacked @ stacked.T / stacked.shape[1]


def _change_basis(vae: "AutoencoderKL", forth: Tensor, mean: Tensor) -> None:
    """Fold z' = forth (z - mean) into the last encoder layer, its inverse into the decoder."""
    channels, back = len(mean), torch.linalg.inv(forth)
    into, out = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        weight, bias = into.weight.double(), into.bias.double()
        into.weight[:channels] = torch.einsum("ij,jkhw->ikhw", forth, weight[:channels]).float()
        into.bias[:channels] = (forth @ (bias[:channels] - mean)).float()
        # The log variances do not rotate; a small constant keeps sample() close to the mean.
        into.weight[channels:] = 0
        into.bias[channels:] = 2 * float(np.log(DECODER_NOISE / 2))
        old, old_bias = out.weight.double(), out.bias.double()
        out.bias.copy_(old_bias + torch.einsum("ijhw,j->i", old, mean))
        out.weight.copy_(torch.einsum("ijhw,jk->ikhw", old, back))


def encode(vae: "AutoencoderKL", pixels: np.ndarray) -> Tensor:
    """Latent means of uint8 pictures n x side x side x 3, as float32 n x c x 16 x 16."""
    size = 50 if vae.device.type == "cpu" else 1000
    with torch.inference_mode():
        parts = [
            vae.encode(to_tensor(pixels[i : i + size]).to(vae.device)).latent_dist.mean
            for i in range(0, len(pixels), size)
        ]
    return torch.cat(parts)


def psnr(vae: "AutoencoderKL", pixels: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each reconstructed picture, at the shipped precision."""
    x = to_tensor(pixels).to(vae.device)
    with torch.inference_mode():
        y = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(50)]
    error = ((torch.cat(y).clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    return (-10 * torch.log10(error.clamp(min=1e-10))).cpu().numpy()


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 n h w 3 to float32 n 3 h w in [-1, 1]."""
    return as_signal(torch.from_numpy(np.array(pixels)))


def as_signal(pixels: Tensor) -> Tensor:
    """uint8 n h w 3 to float32 n 3 h w in [-1, 1], on the same device."""
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def _distance(y: Tensor, x: Tensor) -> tuple[Tensor, Figures]:
    """Absolute error, plus terms for edges, for large areas and for colour.

    Without the last two, small decoders learn sharp edges first and keep a colour cast for very
    long.
    """
    error = y - x
    square = error.square().mean()
    edges = sum(error.diff(dim=dim).abs().mean() for dim in (2, 3))
    areas = F.avg_pool2d(error, 8).abs().mean()
    chroma = (error - error.mean(1, keepdim=True)).abs().mean()
    loss = error.abs().mean() + 0.3 * edges + 2 * square + 2 * areas + 2 * chroma
    return loss, {"psnr": -10 * torch.log10(square.detach() / 4)}
