"""The denoiser of the embedded world: a conditional UNet and its text encoder, trained together
from nothing.

v-prediction with equal weight on all times, on latents encoded once: the weights of min-SNR (Hang
et al., 2023) leave the noisiest times, at which a picture becomes a cat or a dog, a hundredth of
the rest. Each picture has several captions; one in ten is left out, so that guidance has its
unconditional half.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.world.scenes import Scene, caption
from engine.zoo.autoencoder import LATENT_CHANNELS, encode
from engine.zoo.dataset import Pictures, rows_on
from engine.zoo.growing import CAPTIONS, Growing
from engine.zoo.tokenizer import POSITIONS
from engine.zoo.training import Figures, Plan, half_precision, train

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

log = logging.getLogger(__name__)

# On the CPU small: until shapes appear, the number of updates counts for more than their noise.
BATCH = {"cpu": 24, "cuda": 512}
PAIRS = 0.25  # share of two-object scenes in a batch; single objects are what most prompts ask for
WIDTH = 128  # of the text encoder, and so of cross-attention
EMPTY_CAPTIONS = 0.1
USES = 10  # of a picture of the growing set, on average, once it is as long as it should be


@dataclass(frozen=True)
class Denoiser:
    unet: "UNet2DConditionModel"
    text_encoder: "CLIPTextModel"
    tokenizer: "CLIPTokenizer"
    scheduler: "DDIMScheduler"


def new_denoiser(tokenizer: "CLIPTokenizer", device: str) -> Denoiser:
    """Untrained networks: 10.9 M weights in the UNet, 0.5 M in the text encoder."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=[2, 4, 6],
        norm_num_groups=16,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return Denoiser(unet.to(device), text_encoder.to(device), tokenizer, scheduler)


def latents(vae: "AutoencoderKL", data: Pictures, file: Path) -> np.ndarray:
    """Latent means of all pictures as float16 n x c x 16 x 16, computed once and memory-mapped."""
    if not file.exists():
        part = file.with_suffix(".part.npy")
        shape = (len(data.pixels), LATENT_CHANNELS, 16, 16)
        out = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        for start in range(0, len(data.pixels), 1000):
            out[start : start + 1000] = encode(vae, data.pixels[start : start + 1000]).half().cpu()
            if start % 10_000 == 0:
                log.info("encoded %d of %d pictures", start, len(data.pixels))
        out.flush()
        part.rename(file)
    return np.load(file, mmap_mode="r")


def train_denoiser(
    model: Denoiser,
    z: np.ndarray,
    labels: np.ndarray,
    plan: Plan,
    checkpoint: Path,
    on_save: Callable[[int], None] | None = None,
) -> None:
    """Train both networks on latents `z` and captions of the scenes that `labels` describe."""
    device = next(model.unet.parameters()).device
    batch = BATCH[device.type]
    captions, loss = caption_ids(model.tokenizer, labels, plan.seed), denoising_loss(model)
    latent_rows, caption_rows = rows_on(z, device), rows_on(captions, device)
    is_pair = labels[:, 3] >= 0
    kinds = [np.flatnonzero(~is_pair), np.flatnonzero(is_pair)]

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        wanted = [batch - round(PAIRS * batch), round(PAIRS * batch)]
        chosen = np.sort(
            np.concatenate([draw.choice(k, n) for k, n in zip(kinds, wanted, strict=True)])
        )
        ids = caption_rows(chosen * CAPTIONS + draw.integers(CAPTIONS, size=batch))
        return loss(latent_rows(chosen), ids, draw, noise)

    train([model.unet, model.text_encoder], loss_of, plan, checkpoint, on_save=on_save)


def train_longer(
    model: Denoiser,
    data: Growing,
    plan: Plan,
    checkpoint: Path,
    *,
    batch: int,
    first: int,
    on_save: Callable[[int], None] | None = None,
) -> None:
    """Train both networks on a set that grows so that each picture is used `USES` times by then;
    it begins with the `first` pictures.

    The UNet's convolutions keep their weights with the channels last, which is a fifth faster on a
    CPU.
    """
    device = next(model.unet.parameters()).device
    model.unet.to(memory_format=torch.channels_last)
    loss, available = denoising_loss(model), [0]

    def before_step(step: int) -> None:
        available[0] = data.reach(max(first, step * batch // USES))

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        chosen, which = draw.integers(available[0], size=batch), draw.integers(CAPTIONS, size=batch)
        x0 = torch.from_numpy(data.latents[chosen]).to(device)
        ids = torch.from_numpy(data.captions[chosen, which]).to(device)
        return loss(x0, ids, draw, noise)

    train(
        [model.unet, model.text_encoder], loss_of, plan, checkpoint,
        before_step=before_step, on_save=on_save,
    )  # fmt: skip


def denoising_loss(model: Denoiser) -> Callable[..., tuple[Tensor, Figures]]:
    """The loss of a batch: latents b x c x 16 x 16, token ids b x 32, the generators of the step.

    Squared error of v = a e - s x0 (Salimans & Ho, 2022, appendix D), the same weight at all times;
    one caption in ten is left out.
    """
    device = next(model.unet.parameters()).device
    alphas = model.scheduler.alphas_cumprod.to(device)
    no_text = token_ids(model.tokenizer, [""]).to(device)

    def loss(
        x0: Tensor, ids: Tensor, draw: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, Figures]:
        x0, batch = x0.float(), len(x0)
        dropped = torch.from_numpy(draw.random((batch, 1)) < EMPTY_CAPTIONS).to(device)
        t = torch.from_numpy(draw.integers(len(alphas), size=batch)).to(device)
        e = torch.randn(x0.shape, generator=noise, device=device)
        a, s = (part.sqrt()[:, None, None, None] for part in (alphas[t], 1 - alphas[t]))
        z = (a * x0 + s * e).contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            cond = model.text_encoder(torch.where(dropped, no_text, ids.long()))[0]
            v_pred = model.unet(z, t, cond).sample.float()
        error = (v_pred - (a * e - s * x0)).square().mean()
        return error, {"v": error}

    return loss


def caption_ids(tokenizer: "CLIPTokenizer", labels: np.ndarray, seed: int) -> np.ndarray:
    """Token ids of `CAPTIONS` captions for each picture, one after the other: int16 (n k) x 32."""
    draw = np.random.default_rng([seed, 7])
    parts = []
    for start in range(0, len(labels), 5000):
        scenes = [Scene.from_labels(row.tolist()) for row in labels[start : start + 5000]]
        texts = [caption(scene, draw) for scene in scenes for _ in range(CAPTIONS)]
        parts.append(token_ids(tokenizer, texts).numpy().astype(np.int16))
    return np.concatenate(parts)


def token_ids(tokenizer: "CLIPTokenizer", texts: list[str]) -> Tensor:
    """Token ids, padded to the encoder's length: int64 b x 32."""
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=POSITIONS)
    return torch.tensor(padded.input_ids)
