"""Score networks for the three processes of Score SDE, and the classifiers that read noise.

Pictures are 16 x 16: one of ten objects on one of six pale grounds, put together on the device from
the drawings of six artists; the seventh artist's are kept for tests. Values are 8-bit and
dequantised, x = (k + u) / 256, since exact likelihoods of 8-bit data are only defined so.

    python -m engine.zoo build score-ve --seconds 200       score-vp and score-subvp with it
    python -m engine.zoo build score-readers --seconds 120  the noisy classifier and the level one
"""

import copy
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.diffusion.chain import noise_levels
from engine.diffusion.denoiser import combine
from engine.diffusion.schedules import BETA_0, BETA_1
from engine.models.devices import is_accelerator
from engine.models.score import (
    CLASSES,
    DATA_STD,
    SIDE,
    LevelClassifier,
    NoisyClassifier,
    OneDenoiser,
    ScoreBundle,
)
from engine.world.sprites import load_sprites
from engine.world.vocabulary import BACKGROUNDS
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options, half_precision, train

HELD_OUT_ARTIST = "fluent-emoji"
S_MAX = 50.0
CARDS = {
    "ve": "Score network, variance exploding: ten objects, 16 x 16",
    "vp": "Score network, variance preserving: ten objects, 16 x 16",
    "subvp": "Score network, sub-variance preserving: ten objects, 16 x 16",
}

log = logging.getLogger(__name__)


class Drawings:
    """Sprites on a device, and new pictures of them."""

    def __init__(self, device: str, *, held_out: bool = False) -> None:
        sprites = load_sprites()
        rows, labels = [], []
        for artist in sprites.artists:
            for index, name in enumerate(CLASSES):
                drawing = sprites.by(artist, name)
                if drawing is not None and (artist == HELD_OUT_ARTIST) is held_out:
                    rows.append(np.asarray(drawing, dtype=np.float32) / 255)
                    labels.append(index)
        rgba = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)
        rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
        self.sprites = F.avg_pool2d(rgba, rgba.shape[-1] // (2 * SIDE)).to(device)
        self.labels = torch.tensor(labels, device=device)
        grounds = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32) / 255
        self.grounds = grounds.to(device)

    def draw(self, count: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Dequantised pictures in [0, 1], b 3 16 16, and the index of their object."""
        device = self.sprites.device

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=noise, device=device)

        chosen = torch.randint(len(self.sprites), (count,), generator=noise, device=device)
        ground = torch.randint(len(self.grounds), (count,), generator=noise, device=device)
        size, angle = uniform(0.85, 0.97), uniform(-4, 4) * math.pi / 180
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        x, y = uniform(-1, 1) * (1 - size), uniform(-1, 1) * (1 - size)
        cos, sin = angle.cos() / size, angle.sin() / size
        rows = [
            torch.stack([mirror * cos, mirror * sin, -mirror * (cos * x + sin * y)], 1),
            torch.stack([-sin, cos, sin * x - cos * y], 1),
        ]
        grid = F.affine_grid(
            torch.stack(rows, 1), [count, 4, 2 * SIDE, 2 * SIDE], align_corners=False
        )
        layer = F.grid_sample(self.sprites[chosen], grid, align_corners=False)
        flat = layer[:, :3] + (1 - layer[:, 3:]) * self.grounds[ground][:, :, None, None]
        eight_bit = (F.avg_pool2d(flat, 2).clamp(0, 1) * 255).round()
        fraction = torch.rand(eight_bit.shape, generator=noise, device=device)
        return (eight_bit + fraction) / 256, self.labels[chosen]


def new_unet() -> nn.Module:
    """0.7 million weights, small enough that a processor can train them; attention at 4 x 4."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def denoising_loss(net: OneDenoiser, x0: Tensor, noise: torch.Generator) -> Tensor:
    """Mean square of what the network says against what it should, levels log-normal.

    The answer has unit variance at each level, so this is the weighted loss of Karras et al., 2022.
    """
    device = x0.device
    log_level = -1.0 + 1.6 * torch.randn(len(x0), generator=noise, device=device)
    level = log_level.exp().reshape(-1, 1, 1, 1)
    z = torch.randn(x0.shape, generator=noise, device=device)
    x = x0 + level * z
    total_variance = level**2 + DATA_STD**2
    target = (x0 - DATA_STD**2 / total_variance * x) * total_variance.sqrt() / (level * DATA_STD)
    with half_precision(device):
        predicted = net.answer(x, level)
    return (predicted.float() - target).square().mean()


def process_loss(bundle: ScoreBundle, x0: Tensor, noise: torch.Generator) -> Tensor:
    """Mean over all numbers of (s score + z)^2, t uniform on [1e-5, 1] (Song et al., eq. 7).

    As s score is minus the noise that the network sees, z is compared with that noise.
    """
    device, path = x0.device, bundle.path
    t = 1e-5 + (1 - 1e-5) * torch.rand(len(x0), generator=noise, device=device)
    z = torch.randn(x0.shape, generator=noise, device=device)
    times = t.cpu().double().numpy()
    clean = bundle.low + (1 - bundle.low) * x0
    x = combine((path.a(times), clean), (path.s(times), z))
    with half_precision(device):
        noise_pred = bundle.denoiser()(x, times).eps
    return (noise_pred - z).square().mean()


def build_score(folder: Path, options: Options) -> None:
    """Train one denoiser, write it in the coordinates of all three processes, and measure each."""
    torch.manual_seed(0)
    net = OneDenoiser(new_unet(), "ve").to(options.device)
    drawings = Drawings(options.device)
    batch = 512 if is_accelerator(options.device) else 32

    def loss_of(_: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        loss = denoising_loss(net, 2 * drawings.draw(batch, noise)[0] - 1, noise)
        return loss, {"loss": loss.detach()}

    plan = options.plan(20_000, 2e-3, warmup=200, decay_from=0.4, ema=0.998)
    train([net], loss_of, plan, folder / "score.safetensors")
    for process in CARDS:
        export_score(process, net)
        examine_score(process, options)


def export_score(process: str, net: OneDenoiser) -> None:
    """The folder in diffusers layout, half precision, with a card."""
    from diffusers import DDPMScheduler, ScoreSdeVeScheduler

    folder = MODELS / f"score-{process}"
    copy.deepcopy(net.unet).cpu().half().save_pretrained(folder / "unet", safe_serialization=True)
    if process == "ve":
        scheduler = ScoreSdeVeScheduler(num_train_timesteps=1000, snr=0.16, sigma_max=S_MAX)
    else:
        # diffusers has the rates of one of a thousand steps
        betas = {"beta_start": BETA_0 / 1000, "beta_end": BETA_1 / 1000}
        scheduler = DDPMScheduler(**betas, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    settings = folder / "scheduler" / "scheduler_config.json"
    scheduler_config = json.loads(settings.read_text()) | {"process": process, "one_denoiser": True}
    settings.write_text(json.dumps(scheduler_config, indent=1) + "\n")
    pipeline = "ScoreSdeVePipeline" if process == "ve" else "DDPMPipeline"
    index = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    _card(process, {})


def _card(process: str, measured: dict) -> None:
    key = f"score-{process}"
    about = "One network ships three times, asked in the coordinates of VE, VP and sub-VP."
    write_card(
        MODELS / key, key=key, title=CARDS[process], kind="score", measured=measured, about=about
    )


@torch.no_grad()
def examine_score(process: str, options: Options) -> None:
    """Loss on new pictures and on those of the artist kept back, and a sheet of samples."""
    from engine.core.recipe import ModelRef
    from engine.diffusion.noise import Noise
    from engine.diffusion.predictors import released_grid
    from engine.diffusion.solvers import run
    from engine.models.library import read_cards
    from engine.models.score import read

    folder = MODELS / f"score-{process}"
    card = read_cards(MODELS)[f"score-{process}"]
    bundle = read(card, folder, ModelRef(card.key), options.device, "float32")
    measured = {"weights": sum(p.numel() for p in bundle.model.parameters())}
    for name, held_out in (("new pictures", False), ("an artist never seen", True)):
        drawings, losses = Drawings(options.device, held_out=held_out), []
        noise = torch.Generator(options.device).manual_seed(1)
        batches, batch = (8, 128) if is_accelerator(options.device) else (4, 32)
        for _ in range(batches):
            x0 = drawings.draw(batch, noise)[0]
            losses.append(process_loss(bundle, x0, noise))
        measured[f"loss on {name}"] = round(float(torch.stack(losses).mean()), 4)
    steps, count = (200, 64) if is_accelerator(options.device) else (100, 16)
    like = torch.zeros(count, *bundle.shape, device=options.device)
    start = Noise(0).start(like, bundle.path.prior_std)
    last = 1e-5 if process == "ve" else 1e-3
    samples = run("pc", bundle.denoiser(), start, released_grid(steps, last), Noise(0),
                predictor="euler_maruyama" if process != "ve" else "reverse_diffusion")  # fmt: skip
    _sheet(bundle.pictures(samples), folder / "sheet.png")
    _card(process, measured)
    log.info("score-%s: %s", process, measured)


def _sheet(pictures: np.ndarray, file: Path) -> None:
    from PIL import Image

    columns = min(8, len(pictures))
    rows = [
        np.concatenate(list(row), 1) for row in pictures.reshape(-1, columns, *pictures.shape[1:])
    ]
    sheet = Image.fromarray(np.concatenate(rows, 0))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(file)


# ---------------------------------------------------------------------- readers of noise


def build_readers(folder: Path, options: Options) -> None:
    """Train the noisy classifier, then the level classifier, and measure both."""
    torch.manual_seed(0)
    drawings = Drawings(options.device)
    noisy, level = NoisyClassifier().to(options.device), LevelClassifier().to(options.device)
    levels = torch.tensor(noise_levels(s_max=S_MAX), dtype=torch.float32, device=options.device)
    batch = 512 if is_accelerator(options.device) else 32

    def noisy_loss(_: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        x, label, sigma, _ = _noised(drawings, batch, levels, noise)
        with half_precision(options.device):
            logits = noisy(x, sigma)
        loss = F.cross_entropy(logits.float(), label)
        return loss, {"loss": loss.detach()}

    def level_loss(_: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        x, _, _, index = _noised(drawings, batch, levels, noise)
        loss = F.cross_entropy(level(x), index)
        return loss, {"loss": loss.detach()}

    def on_save(_: int) -> None:
        export_readers(noisy, level, {})

    for net, loss_of, name, share in (
        (noisy, noisy_loss, "noisy", 0.5),
        (level, level_loss, "level", 0.5),
    ):
        plan = options.plan(8000, 1e-3, share, decay_from=0.5, ema=0.998, save_every=25.0)
        train([net], loss_of, plan, folder / f"score-readers-{name}.safetensors", on_save=on_save)
    export_readers(noisy, level, examine_readers(noisy, level, levels, options))


def _noised(
    drawings: Drawings, count: int, levels: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy pictures, their object, their noise level and its index."""
    x0, label = drawings.draw(count, noise)
    index = torch.randint(len(levels), (count,), generator=noise, device=x0.device)
    sigma = levels[index]
    z = torch.randn(x0.shape, generator=noise, device=x0.device)
    return x0 + sigma.reshape(-1, 1, 1, 1) * z, label, sigma, index


@torch.no_grad()
def examine_readers(
    noisy: nn.Module, level: nn.Module, levels: Tensor, options: Options
) -> dict[str, object]:
    """Share of right objects by noise level, and the error of the level, on new pictures."""
    measured: dict[str, object] = {}
    noise = torch.Generator(options.device).manual_seed(2)
    for name, held_out in (("new pictures", False), ("an artist never seen", True)):
        drawings, right, sigmas, errors = Drawings(options.device, held_out=held_out), [], [], []
        for _ in range(16):
            x, label, sigma, _ = _noised(drawings, 128, levels, noise)
            right.append((noisy(x, sigma).argmax(1) == label).float())
            sigmas.append(sigma)
            errors.append((levels[level(x).argmax(1)] / sigma).log().abs())
        right, sigma = torch.cat(right), torch.cat(sigmas)
        measured[f"object right, {name}"] = {
            f"sigma {low:g} to {high:g}": round(
                float(right[(sigma >= low) & (sigma < high)].mean()), 3
            )
            for low, high in ((0, 0.1), (0.1, 1), (1, 10), (10, 51))
        }
        measured[f"error of log sigma, median, {name}"] = round(
            float(torch.cat(errors).median()), 4
        )
    log.info("score-readers: %s", measured)
    return measured


def export_readers(noisy: nn.Module, level: nn.Module, measured: dict) -> None:
    """Both as safetensors in half precision, with a card."""
    from safetensors.torch import save_file

    folder = MODELS / "score-readers"
    folder.mkdir(parents=True, exist_ok=True)
    for name, net in (("noisy", noisy), ("level", level)):
        weights = {key: value.half().contiguous().cpu() for key, value in net.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors")
    write_card(
        folder,
        key="score-readers",
        title="Classifiers of noisy pictures: what they show, and how noisy they are",
        kind="score-readers",
        classes=list(CLASSES),
        measured=measured,
    )


BUILDS = {f"score-{process}": build_score for process in CARDS} | {"score-readers": build_readers}
