"""The world at 128 pixels: the shipped one trained on, with one level more in its autoencoder.

    python -m engine.zoo build world-denoiser                on and on at a constant rate
    python -m engine.zoo build world-denoiser --steps 60000  to an end, with a falling rate
    python -m engine.zoo build world-fine-decoder            from the latents to 128 x 128 pixels
    python -m engine.zoo build world-fine-encoder            and back to the latents
    python -m engine.zoo build all                           publish what is ready, then all
                                                             that was made from it

The latents stay those of the first encoder, so that the three trainings do not wait for one
another. Each keeps its state in the working folder and puts what it has made there as well, as a
folder that diffusers reads; nothing that ships changes before it is published.
"""

import copy
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.world import vocabulary as words
from engine.zoo import autoencoder, denoiser, finer
from engine.zoo.dataset import Pictures, pictures
from engine.zoo.examine import Examination, sheet
from engine.zoo.export import LARGEST_FILE, MODELS, export_autoencoder
from engine.zoo.growing import growing
from engine.zoo.training import Options
from engine.zoo.world import (
    TITLES,
    named_artists,
    preview,
    publish,
    read_pipeline,
    rebuilt_quality,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

ENDLESS = 10**9  # steps
# Of the denoiser. On a CPU half of what is fastest: shapes are still worth many updates.
BATCH = {"cpu": 48, "cuda": 512}
# Pictures to begin with: on a CPU a few, as training shall begin; a GPU would wait for each shard.
FIRST = {"cpu": 4000, "cuda": 120_000}
SIDE = 128
FINE_PICTURES = 12_000
LEAST_DECIBELS = 31.0
# What a world has to reach before it takes the place of the shipped one.
BARS = {"object": 0.99, "both objects": 0.92}
LEAST_OBJECT = 0.9


def build_denoiser(folder: Path, options: Options) -> None:
    """The shipped denoiser trained on, with no end until --steps names one.

    It begins with the shipped weights: the latents, the captions and the networks are the same, so
    that what they learnt holds. The rate is constant, and falls over the last fifth of a run that
    has an end. Such a run goes on with a copy of the state, so that the constant rate can be taken
    up again where it was left.
    """
    vae, model = read_pipeline("world", options.device)
    data = growing(
        folder / "growing",
        lambda pixels: autoencoder.encode(vae, pixels),
        lambda texts: denoiser.token_ids(model.tokenizer, texts),
        seed=21,
        workers=1 if options.device == "cpu" else os.cpu_count() or 1,
    )
    state = folder / "longer.safetensors"
    if options.steps is not None:
        state = branched(state, folder / f"longer-{options.steps}.safetensors")
    plan = options.plan(
        ENDLESS, 1e-3, warmup=300, decay_from=0.8, ema=0.9995, seed=21, save_every=300
    )
    denoiser.train_longer(
        model, data, plan, state, batch=BATCH[options.device], first=FIRST[options.device],
        on_save=lambda step: preview_rarely(model, vae, folder / "previews", step),
    )  # fmt: skip
    keep(model, folder)


def keep(model: denoiser.Denoiser, folder: Path) -> None:
    """Both networks in the working folder, from where they are published: as they will ship, in
    half precision and in small files."""
    for name in ("unet", "text_encoder"):
        half = copy.deepcopy(getattr(model, name)).half()
        half.save_pretrained(folder / "denoiser" / name, max_shard_size=LARGEST_FILE)


def branched(state: Path, branch: Path) -> Path:
    """A state of its own for a run that goes on from another one."""
    if state.exists() and not branch.exists():
        shutil.copyfile(state, branch)
    return branch


def preview_rarely(model: denoiser.Denoiser, vae: "AutoencoderKL", folder: Path, step: int) -> None:
    """A preview once every thousand steps, as drawing one takes as long as thirty steps."""
    drawn = folder / f"{step // 1000:04}-thousand.png"
    if not drawn.exists():
        preview(model, vae, drawn)


def build_fine_decoder(folder: Path, options: Options) -> None:
    """The decoder to 128 x 128, in `folder` alone."""
    old, data, latents = fine_set(folder, options)
    vae = finer.finer_autoencoder(old)
    plan = options.plan(12_000, 1e-3, decay_from=0.5, ema=0.998, seed=5)
    finer.train_finer_decoder(
        vae, data, latents, plan, folder / "fine-decoder.safetensors",
        on_save=lambda step: fine_preview(old, vae, folder, step),
    )  # fmt: skip
    vae.save_pretrained(folder / "fine-decoder")


def build_fine_encoder(folder: Path, options: Options) -> None:
    """The encoder of pictures of 128 x 128, in `folder` alone."""
    old, data, latents = fine_set(folder, options)
    vae = finer.finer_autoencoder(old)
    plan = options.plan(6000, 1e-3, decay_from=0.5, ema=0.998, seed=6)
    finer.train_finer_encoder(vae, data, latents, plan, folder / "fine-encoder.safetensors")
    vae.save_pretrained(folder / "fine-encoder")


def fine_set(folder: Path, options: Options) -> tuple["AutoencoderKL", Pictures, np.ndarray]:
    """The first autoencoder, pictures of 128 x 128, and the latents that it gives them."""
    old = first_autoencoder(folder, options)
    data = pictures(folder / "fine", FINE_PICTURES, seed=4, side=SIDE)
    return old, data, finer.old_latents(old, data, folder / "fine-latents.npy")


def first_autoencoder(folder: Path, options: Options) -> "AutoencoderKL":
    """The autoencoder whose latents all trainings share, kept beside their states: once the finer
    one is published, it ships no more."""
    from diffusers import AutoencoderKL

    kept = folder / "first-autoencoder"
    if not (kept / "config.json").exists():
        vae, _ = read_pipeline("world", options.device)
        if vae.config.sample_size == SIDE:
            raise BadInput(
                f"The shipped autoencoder is the finer one, and {kept.name} is not in the folder.",
                "Take the folder of the earlier training, or check out the world at 64 pixels.",
            )
        vae.save_pretrained(kept)
    vae = AutoencoderKL.from_pretrained(kept).to(options.device)
    return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def fine_preview(old: "AutoencoderKL", vae: "AutoencoderKL", folder: Path, step: int) -> None:
    """Rows: the old decoder enlarged, the new one, the picture; of drawings not trained on."""
    truth = np.asarray(pictures(folder / "fine-held-out", 12, seed=2, side=SIDE).pixels)
    z = autoencoder.encode(old, finer.halved(truth))
    with torch.inference_mode():
        rows = [finer.enlarged(old, z), vae.decode(z).sample.clamp(-1, 1)]
    images = [((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy() for x in rows]
    target = folder / "previews" / f"fine-{step:06}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet(np.concatenate([*images, truth]), len(truth)).save(target)


# ---------------------------------------------------------------------- publishing


def publish_autoencoder(folder: Path, options: Options) -> None:
    """The finer autoencoder into the world and its sister, if it is good enough.

    The cards follow when the two are published; the latents, and so the networks, stay.
    """
    from diffusers import AutoencoderKL

    halves = [folder / f"fine-{half}" for half in ("encoder", "decoder")]
    if missing := [half.name for half in halves if not (half / "config.json").exists()]:
        raise BadInput(
            f"There is no {missing[0]} in the folder.", f"Train it: build world-{missing[0]}"
        )
    vae = finer.joined(*(AutoencoderKL.from_pretrained(half) for half in halves))
    vae = vae.to(options.device, memory_format=torch.channels_last)
    quality = rebuilt_quality(vae, folder)
    check({"decibels": (min(quality.values()), LEAST_DECIBELS)}, options)
    for key in TITLES:
        export_autoencoder(vae, MODELS / key)


def publish_world(folder: Path, options: Options) -> None:
    """The denoiser that was trained to an end, or else the shipped one, with the shipped
    autoencoder; measured, and published if it reaches its bars."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    vae, model = read_pipeline("world", options.device)
    trained_folder = folder / "denoiser"
    if trained_folder.exists():
        unet = UNet2DConditionModel.from_pretrained(trained_folder / "unet").float()
        text_encoder = CLIPTextModel.from_pretrained(trained_folder / "text_encoder").float()
        model = denoiser.Denoiser(
            unet.to(options.device),
            text_encoder.to(options.device),
            model.tokenizer,
            model.scheduler,
        )
    artists = words.ARTISTS.values() if trained_folder.exists() else named_artists("world")
    publish(
        "world", model, vae, folder, lambda examination: check(below(examination), options), artists
    )


def below(examination: Examination) -> dict[str, tuple[float, float]]:
    """Figures of an examination, each with the least that is asked of it."""
    figures = {name: (examination.rates[name][0], bar) for name, bar in BARS.items()}
    worst = min(examination.by_object, key=examination.by_object.__getitem__)
    return figures | {f"object ({worst})": (examination.by_object[worst], LEAST_OBJECT)}


def check(figures: dict[str, tuple[float, float]], options: Options) -> None:
    """Raises `BadInput` where a figure is below its bar, unless it shall be published anyway."""
    low = [f"{name} {is_:.3g} of {bar:.3g}" for name, (is_, bar) in figures.items() if is_ < bar]
    if low and not options.anyway:
        raise BadInput(
            f"Not published, as it is below its bars: {', '.join(low)}.",
            "Train it longer, or publish it with --anyway.",
        )


BUILDS = {
    "world-denoiser": build_denoiser,
    "world-fine-decoder": build_fine_decoder,
    "world-fine-encoder": build_fine_encoder,
    "world-autoencoder": publish_autoencoder,
    "world-published": publish_world,
}
