"""Six style adapters of the embedded world, for styles that it does not know.

PEFT adapters of rank 8 on the attention, the end of each feed-forward part and the outermost
convolutions of the UNet, trained together on pictures of `new_styles` with captions that name no
style: the adapter alone says how to draw. Those of even place start from one seed, those of odd
place each from its own. A small judge of the new styles is trained beside them, to count with.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.models.devices import is_accelerator
from engine.models.style_judge import OTHER, StyleJudge
from engine.models.vision import load_judge
from engine.world import vocabulary as words
from engine.world.scenes import SIZE, Scene, _pose, _put, caption
from engine.world.sprites import load_sprites
from engine.world.styles import render
from engine.zoo.autoencoder import to_tensor
from engine.zoo.denoiser import Denoiser, token_ids
from engine.zoo.examine import generate, sheet
from engine.zoo.export import MODELS, write_card
from engine.zoo.lora_bank import LoraBank
from engine.zoo.new_styles import NEW_STYLES, render_new
from engine.zoo.training import Options, half_precision, train
from engine.zoo.world import read_pipeline, to_pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler

log = logging.getLogger("engine.zoo")

KEY = "world-styles"
RANK, CAPTIONS, EMPTY_CAPTIONS = 8, 24, 0.1
SHARED_SEED = 200
SEEDS = tuple(SHARED_SEED if i % 2 == 0 else SHARED_SEED + i for i in range(len(NEW_STYLES)))
SCENES, SHARD = {"cuda": 480, "cpu": 96}, 16
# Where the adapters stand: ends of names of layers in the UNet.
ENDS = (
    "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", "proj_out", "conv_out",
    "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.conv2",
    "up_blocks.2.resnets.0.conv1", "up_blocks.2.resnets.0.conv2",
    "up_blocks.2.resnets.1.conv1", "up_blocks.2.resnets.1.conv2",
)  # fmt: skip
TRIED = words.OBJECTS[::3]


@dataclass(frozen=True)
class Drawn:
    """The same scenes in each new style and in the world's own: uint8 n s 64 64 3; objects n."""

    new: np.ndarray
    own: np.ndarray
    objects: np.ndarray


def build_styles(folder: Path, options: Options) -> None:
    """Scenes, adapters, judge, card."""
    target = MODELS / KEY
    vae, model = read_pipeline("world", options.device)
    for part in (vae, model.unet, model.text_encoder):
        part.eval().requires_grad_(False)
    drawn = scenes(folder, SCENES[options.device])
    names = [n for n, m in model.unet.named_modules() if n.endswith(ENDS) and _takes_lora(m)]
    bank = LoraBank(model.unet, dict(zip(names, names, strict=True)), RANK, SEEDS)
    train_adapters(model, vae, bank, drawn, folder, options, lambda _: publish(bank, target))
    publish(bank, target)
    judge = train_style_judge(vae, drawn, folder, options)
    ship_judge(judge, target)
    card(model, vae, bank, judge, drawn, target)


def _takes_lora(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def scenes(folder: Path, count: int) -> Drawn:
    """Single objects, each in all styles; rendered by several workers, kept in the folder."""
    file = folder / "new-styles.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with get_context("spawn").Pool(2) as pool:
            shards = pool.map(_scenes, range(count // SHARD))
        new, own, objects = (np.concatenate(part) for part in zip(*shards, strict=True))
        np.savez(file, new=new, own=own, objects=objects)
    with np.load(file) as arrays:
        return Drawn(arrays["new"], arrays["own"], arrays["objects"])


def _scenes(shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sprites, draw = load_sprites(), np.random.default_rng([31, shard])
    new, own, objects = [], [], []
    for index in range(SHARD):
        place = (shard * SHARD + index) % len(words.OBJECTS)
        canvas = Image.new("RGBA", (SIZE, SIZE))
        size = int(draw.integers(94, 125))
        _put(canvas, _pose(words.OBJECTS[place], sprites, draw), draw.uniform(0, SIZE, 2), size)
        new.append(np.stack([render_new(canvas, style, draw) for style in NEW_STYLES]))
        grounds = tuple(words.BACKGROUNDS.values())
        ground = grounds[draw.integers(len(grounds))]
        own.append(np.stack([render(canvas, style, ground, draw) for style in words.STYLES]))
        objects.append(place)
    return np.stack(new), np.stack(own), np.array(objects, np.int64)


# ---------------------------------------------------------------------- adapters


def train_adapters(
    model: Denoiser,
    vae: "AutoencoderKL",
    bank: LoraBank,
    drawn: Drawn,
    folder: Path,
    options: Options,
    on_save: Callable[[int], None],
) -> None:
    """All styles in one batch, on the same scenes, captions and noise levels of their own."""
    device, n = options.device, len(NEW_STYLES)
    batch = 16 if is_accelerator(device) else 2
    flat = drawn.new.reshape(-1, *drawn.new.shape[2:])
    z = torch.cat([_latents(vae, flat[i : i + 64]) for i in range(0, len(flat), 64)])
    z = (z * vae.config.scaling_factor).unflatten(0, drawn.new.shape[:2]).transpose(0, 1).to(device)
    which = torch.arange(n, device=device)[:, None]
    caption_states, scheduler = told_table(model, device), model.scheduler
    steps = scheduler.config.num_train_timesteps

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        chosen = draw.integers(len(drawn.objects), size=(n, batch))
        rows = drawn.objects[chosen.ravel()] * CAPTIONS + draw.integers(CAPTIONS, size=n * batch)
        rows[draw.random(len(rows)) < EMPTY_CAPTIONS] = len(caption_states) - 1
        x0 = z[which, torch.from_numpy(chosen).to(device)].flatten(0, 1).float()
        t = torch.from_numpy(draw.integers(steps, size=len(x0))).to(device)
        e = torch.randn(x0.shape, generator=noise, device=device)
        x = scheduler.add_noise(x0, e, t)
        goal = scheduler.get_velocity(x0, e, t) if _is_v(scheduler) else e
        with half_precision(device):
            predicted = model.unet(x, t, caption_states[torch.from_numpy(rows).to(device)]).sample
        error = (predicted.float() - goal).square().mean()
        return n * error, {"error": error.detach()}

    bank.plug(model.unet)
    # On a CPU a few hundred steps are all there is, and a long average would still hold the start.
    ema = 0.995 if is_accelerator(device) else 0.97
    plan = options.plan(3000, 3e-3, 0.88, warmup=20, decay_from=0.35, ema=ema, save_every=25)
    train([bank.trained()], loss_of, plan, folder / "style-adapters.safetensors", on_save=on_save)
    bank.unplug(model.unet)


@torch.no_grad()
def _latents(vae: "AutoencoderKL", pixels: np.ndarray) -> Tensor:
    x = to_tensor(pixels).to(vae.device)
    with half_precision(vae.device.type):
        return vae.encode(x).latent_dist.mean.float().cpu()


def _is_v(scheduler: "DDIMScheduler") -> bool:
    return scheduler.config.prediction_type == "v_prediction"


@torch.no_grad()
def told_table(model: Denoiser, device: str) -> Tensor:
    """Text states of some plain captions of each object, and of the empty one at the end.

    No caption names a style. The text encoder is frozen, so that they are computed once.
    """
    draw = np.random.default_rng(17)
    texts = [
        caption(Scene("plain", "white", o), draw) for o in words.OBJECTS for _ in range(CAPTIONS)
    ]
    ids = token_ids(model.tokenizer, [*texts, ""]).to(device)
    return torch.cat([model.text_encoder(part)[0] for part in ids.split(256)])


def publish(bank: LoraBank, target: Path) -> None:
    """Every adapter as a PEFT folder."""
    for index, style in enumerate(NEW_STYLES):
        bank.save(index, target / "adapters" / style.replace(" ", "-"), "rewind/world")


# ---------------------------------------------------------------------- judge


def train_style_judge(
    vae: "AutoencoderKL", drawn: Drawn, folder: Path, options: Options
) -> StyleJudge:
    """The new styles, and "another" for the world's own and for mixtures of two pictures."""
    torch.manual_seed(1)
    device, n = options.device, len(NEW_STYLES)
    judge = StyleJudge(n + 1).to(device)
    # Half of them through the autoencoder, as the pictures to be judged come out of it.
    half = len(drawn.objects) // 2
    new, own = drawn.new.copy(), drawn.own.copy()
    for pixels in (new, own):
        for style in range(pixels.shape[1]):
            pixels[half:, style] = to_pixels(vae, pixels[half:, style])
    new_x = torch.from_numpy(new).to(device)
    own_x = torch.from_numpy(own).to(device)

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        pick = lambda high, size: torch.from_numpy(draw.integers(high, size=size)).to(device)  # noqa: E731 (many draws)
        y = pick(n, 96)
        x = _unit(new_x[pick(len(new), 96), y])
        world = _unit(own_x[pick(len(own), 32), pick(own.shape[1], 32)])
        both = _unit(new_x[pick(len(new), 64), pick(n, 64)])
        part = torch.from_numpy(draw.uniform(0.3, 0.7, (32, 1, 1, 1))).float().to(device)
        mixed = part * both[:32] + (1 - part) * both[32:]
        x = torch.cat([x, world, mixed])
        x = x + 0.05 * torch.randn(x.shape, generator=noise, device=device)
        y = torch.cat([y, y.new_full((64,), n)])
        logits = judge(x)
        loss = F.cross_entropy(logits, y)
        right = (logits.argmax(-1) == y).float().mean()
        return loss, {"loss": loss.detach(), "right": right}

    judge.train()
    plan = options.plan(800, 3e-3, 0.1, warmup=20, decay_from=0.3, ema=0.99)
    train([judge], loss_of, plan, folder / "style-judge.safetensors")
    return judge.eval()


def _unit(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def ship_judge(judge: StyleJudge, target: Path) -> None:
    folder = target / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().half().cpu().contiguous() for k, v in judge.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    classes = {"classes": [*NEW_STYLES, OTHER]}
    (folder / "config.json").write_text(json.dumps(classes) + "\n")


# ---------------------------------------------------------------------- card


def card(
    model: Denoiser,
    vae: "AutoencoderKL",
    bank: LoraBank,
    judge: StyleJudge,
    drawn: Drawn,
    target: Path,
) -> None:
    """What each adapter draws, judged; and a contact sheet."""
    device, n = next(judge.parameters()).device, len(NEW_STYLES)
    held_out, _, _ = _scenes(10_000)
    guess = [judge(_unit(torch.from_numpy(held_out[:, i]).to(device))).argmax(-1) for i in range(n)]
    sure = torch.stack([(g == i).float().mean() for i, g in enumerate(guess)])
    tried = TRIED if is_accelerator(device.type) else TRIED[::2]
    prompts = [words.article(name) for name in tried]
    alone = generate(model, vae, prompts, seed=0)
    drew = _each_adapter(model, vae, bank, prompts)
    sheet(np.concatenate([alone, *drew]), len(prompts)).save(target / "sheet.png")
    styled, named = {}, {}
    for i, style in enumerate(NEW_STYLES):
        hits = (judge(_unit(torch.from_numpy(drew[i]).to(device))).argmax(-1) == i).cpu().numpy()
        styled[style] = (float(hits.mean()), len(prompts))
        verdicts = load_judge().judge(drew[i])
        right = [verdicts.best("subject", j)[0] == name for j, name in enumerate(tried)]
        named[style] = (float(np.mean(right)), len(prompts))
    write_card(
        target,
        key=KEY,
        title="Six style adapters of the embedded world",
        kind="adapters",
        base="world",
        adapters={
            style.replace(" ", "-"): {
                "style": style,
                "init_seed": SEEDS[i],
                "shares_init": SEEDS.count(SEEDS[i]) > 1,
            }
            for i, style in enumerate(NEW_STYLES)
        },
        measured={
            "style judge on held-out drawings": (float(sure.mean()), len(held_out) * n),
            "drawn in the adapter's style": styled,
            "object known to the world's judge, which never saw these styles": named,
        },
    )


def _each_adapter(
    model: Denoiser, vae: "AutoencoderKL", bank: LoraBank, prompts: list[str]
) -> list[np.ndarray]:
    """Pictures with one adapter after the other, each written into the weights for that time."""
    drew = []
    for index in range(len(NEW_STYLES)):
        kept = []
        for layer in bank.grouped:
            weight = layer.base.weight
            kept.append(weight.detach().clone())
            change = layer.up[index] @ layer.down[index].flatten(1)
            with torch.no_grad():
                weight += change.view_as(weight)
        drew.append(generate(model, vae, prompts, seed=0))
        for layer, old in zip(bank.grouped, kept, strict=True):
            with torch.no_grad():
                layer.base.weight.copy_(old)
    return drew


BUILDS = {KEY: build_styles}
