"""The denoiser of the embedded world: a conditional UNet and its text encoder, trained together
from nothing.

v-prediction with equal weight on all times, on latents encoded once: the weights of min-SNR (Hang
et al., 2023) leave the noisiest times, at which a picture becomes a cat or a dog, a hundredth of
the rest. Captions are written anew for every minibatch; one in ten is empty, so that guidance has
its unconditional half.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.world.scenes import Scene, caption
from engine.zoo.autoencoder import LATENT_CHANNELS, encode
from engine.zoo.dataset import Pictures
from engine.zoo.tokenizer import POSITIONS
from engine.zoo.training import Plan, train

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

log = logging.getLogger(__name__)

BATCH = 24  # small: until shapes appear, the number of updates counts for more than their noise
PAIRS = 0.15  # share of two-object scenes in a batch; single objects are what most prompts ask for
WIDTH = 128  # of the text encoder, and so of cross-attention
EMPTY_CAPTIONS = 0.1


@dataclass(frozen=True)
class Denoiser:
    unet: "UNet2DConditionModel"
    text_encoder: "CLIPTextModel"
    tokenizer: "CLIPTokenizer"
    scheduler: "DDIMScheduler"


def new_denoiser(tokenizer: "CLIPTokenizer") -> Denoiser:
    """Untrained networks: 7.1 M weights in the UNet, 0.5 M in the text encoder."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=[2, 2, 4],
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
    return Denoiser(unet, text_encoder, tokenizer, scheduler)


def latents(vae: "AutoencoderKL", data: Pictures, file: Path) -> np.ndarray:
    """Latent means of all pictures as float16 n x c x 16 x 16, computed once and memory-mapped."""
    if not file.exists():
        part = file.with_suffix(".part.npy")
        shape = (len(data.pixels), LATENT_CHANNELS, 16, 16)
        out = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        for start in range(0, len(data.pixels), 1000):
            out[start : start + 1000] = encode(vae, data.pixels[start : start + 1000]).half()
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
    on_save=None,
) -> None:
    """Train both networks on latents `z` and captions of the scenes that `labels` describe."""
    alphas = model.scheduler.alphas_cumprod
    is_pair = labels[:, 3] >= 0
    kinds = [np.flatnonzero(~is_pair), np.flatnonzero(is_pair)]

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        wanted = [BATCH - round(PAIRS * BATCH), round(PAIRS * BATCH)]
        chosen = np.sort(
            np.concatenate([draw.choice(k, n) for k, n in zip(kinds, wanted, strict=True)])
        )
        x0 = torch.from_numpy(z[chosen].astype(np.float32))
        texts = [caption(Scene.from_labels(labels[i].tolist()), draw) for i in chosen]
        dropped = draw.random(BATCH) < EMPTY_CAPTIONS
        ids = token_ids(model.tokenizer, np.where(dropped, "", texts).tolist())
        t = torch.from_numpy(draw.integers(len(alphas), size=BATCH))
        e = torch.randn(x0.shape, generator=noise)
        with torch.autocast("cpu", torch.bfloat16):
            cond = model.text_encoder(ids)[0]
            x = model.scheduler.add_noise(x0, e, t)
            v_pred = model.unet(x, t, cond).sample.float()
        error = (v_pred - model.scheduler.get_velocity(x0, e, t)).square().mean()
        return error, {"v": float(error.detach())}

    train([model.unet, model.text_encoder], loss_of, plan, checkpoint, on_save=on_save)


def token_ids(tokenizer: "CLIPTokenizer", texts: list[str]) -> Tensor:
    """Token ids, padded to the encoder's length: int64 b x 32."""
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=POSITIONS)
    return torch.tensor(padded.input_ids)
