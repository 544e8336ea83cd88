"""A small denoiser of garments, which takes noise off a picture before a classifier sees it.

    python -m engine.zoo build fashion-denoiser

A `UNet2DModel` on the thousand linear steps of DDPM, in the layout of `DDPMPipeline`. It learns the
first 450 steps only, up to noise as strong as the picture: it is asked for one step at a time and
never draws a picture from nothing.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.unlearning._samples import garments
from engine.world import fashion
from engine.zoo.export import MODELS, write_card
from engine.zoo.fashion import LICENCE, SOURCE
from engine.zoo.training import Options, train

KEY = "fashion-denoiser"
STEPS, LAST, BATCH = 1000, 450, 48
SETTINGS = {
    "sample_size": fashion.SIDE,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 8,
    "add_attention": False,
}


def kept_share() -> Tensor:
    """abar_t of the linear schedule from 1e-4 to 0.02."""
    return (1 - torch.linspace(1e-4, 0.02, STEPS)).cumprod(0)


def signal(part: fashion.Part) -> Tensor:
    """Pictures n 1 28 28 in [-1, 1]."""
    return garments(part).pixels.float() / 127.5 - 1


def error(unet: nn.Module, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean square of what is wrong about the predicted noise, for each picture."""
    kept = kept_share()[t].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * x + (1 - kept).sqrt() * noise
    return (unet(noisy, t).sample - noise).square().flatten(1).mean(1)


def build(folder: Path, options: Options) -> None:
    """Train, export as a pipeline, and measure the error by step."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(**SETTINGS)
    data = signal("train")

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        chosen = torch.from_numpy(draw.integers(len(data), size=BATCH))
        t = torch.from_numpy(draw.integers(LAST, size=BATCH))
        x = data[chosen]
        loss = error(unet, x, t, torch.randn(x.shape, generator=noise)).mean()
        return loss, {"loss": loss.detach()}

    unet.train()
    plan = options.plan(2000, 2e-3, warmup=30, decay_from=0.3, ema=0.99, save_every=30)
    train([unet], loss_of, plan, folder / f"{KEY}.safetensors")
    unet.eval()
    target = MODELS / KEY
    scheduler = DDPMScheduler(STEPS, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    DDPMPipeline(unet, scheduler).save_pretrained(target, safe_serialization=True)
    for path in target.rglob("*.json"):
        entries = json.loads(path.read_text())
        if entries.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
    write_card(
        target,
        key=KEY,
        title="Denoiser of garments",
        kind="score",
        licence=LICENCE,
        source=SOURCE,
        about="It takes noise off small grey pictures of garments, up to noise as strong as they.",
        measured=_measured(unet),
    )


@torch.no_grad()
def _measured(unet: nn.Module) -> dict[str, object]:
    x = signal("test")[:500]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    figures: dict[str, object] = {"weights": sum(p.numel() for p in unet.parameters())}
    for t in (33, 70, 145, 259, 396):
        wrong = error(unet, x, torch.full((len(x),), t), noise).mean()
        figures[f"error of the noise at step {t}"] = round(float(wrong), 4)
    return figures


BUILDS = {KEY: build}
