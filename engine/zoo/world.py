"""The embedded world, its sister and its judge: stage by stage, each resumed where it stopped."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from engine.models.vision import FOLDER as JUDGE
from engine.models.vision import HEADS, Judge, load_judge
from engine.world import vocabulary as words
from engine.zoo import autoencoder, denoiser, judge, sprites
from engine.zoo.dataset import Pictures, kept, pictures, unseen_pictures
from engine.zoo.examine import Examination, examine, generate, novelty, prompt, sheet
from engine.zoo.export import MODELS, export_autoencoder, export_pipeline, write_card
from engine.zoo.tokenizer import build_tokenizer
from engine.zoo.training import Options, Plan

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

PICTURES = 100_000
FIRST_SIDE = 64  # of pictures that a world begun from nothing learns; see `larger`
FIRST_PICTURES = 24_000  # for the autoencoder: enough for it, and rendered long before the others
JUDGED, DECODED = 60_000, 6000  # pictures for the judge, and those of them that a decoder gave
SISTER_ARTISTS = ("noto", "twemoji", "fluent-emoji-flat")
SISTER_PICTURES = 6000
SEEDS = {"world": 4, "world-sister": 1}  # pictures of each prompt to be judged
KNOWN = 6000  # training pictures among which the nearest is looked for
TITLES = {
    "world": "Embedded world: 36 objects in 6 styles",
    "world-sister": "Sister of the embedded world: trained further on three artists",
}
# Of the seconds of a build, what its autoencoder and then the decoder alone may take.
AUTOENCODER_SHARE, DECODER_SHARE, DENOISER_SHARE = 0.15, 0.15, 0.7

log = logging.getLogger("engine.zoo")


def build_world(folder: Path, options: Options) -> None:
    """All stages of the main checkpoint; a stage whose state says it is finished costs nothing."""
    vae = build_autoencoder(folder, options)
    data = train_set(folder)
    model = denoiser.new_denoiser(build_tokenizer(folder / "tokenizer"), options.device)
    z = denoiser.latents(vae, data, folder / "latents.npy")
    plan = options.plan(12_000, 1e-3, DENOISER_SHARE, warmup=300, decay_from=0.4, ema=0.999)
    denoiser.train_denoiser(
        model, z, data.labels, plan, folder / "denoiser.safetensors",
        on_save=lambda step: preview(model, vae, folder / "previews" / f"{step:06}.png"),
    )  # fmt: skip
    if not dist.is_initialized() or dist.get_rank() == 0:
        publish("world", model, vae, folder)


def build_autoencoder(folder: Path, options: Options) -> "AutoencoderKL":
    """Encoder and decoder together, then the basis, which is the encoder's last change, then the
    decoder alone."""
    from diffusers import AutoencoderKL

    balanced = folder / "autoencoder"
    if not (balanced / "config.json").exists():
        torch.manual_seed(0)
        data = first_set(folder)
        vae = autoencoder.new_autoencoder().to(options.device)
        plan = options.plan(3000, 2e-3, AUTOENCODER_SHARE, decay_from=0.4, ema=0.998)
        autoencoder.train_both(vae, data, plan, folder / "autoencoder.safetensors")
        autoencoder.balance(vae.eval(), data)
        autoencoder.train_decoder(
            vae, data, decoder_plan(options, DECODER_SHARE), folder / "decoder.safetensors"
        )
        vae.save_pretrained(balanced)
    vae = AutoencoderKL.from_pretrained(balanced).to(memory_format=torch.channels_last)
    return vae.to(options.device).eval().requires_grad_(False)


def decoder_plan(options: Options, share: float = 1.0) -> Plan:
    return options.plan(3300, 1e-3, share, decay_from=0.2, ema=0.998)


def build_decoder(folder: Path, options: Options) -> None:
    """The shipped decoder trained further, for the world and for its sister: their latents stay as
    they are. What is bound to the world's revision (membranes, relations) is to be built again."""
    vae, _ = read_pipeline("world", options.device)
    # A state of its own: that of a build from nothing belongs to another encoder.
    state = folder / "shipped-decoder.safetensors"
    autoencoder.train_decoder(vae, first_set(folder), decoder_plan(options), state)
    for key in TITLES:
        export_autoencoder(vae, MODELS / key)
        examine_made(MODELS / key, key, folder, options, draw=True)


def build_sister(folder: Path, options: Options) -> None:
    """The world's denoiser trained further, text encoder too, on three of the seven artists."""
    vae, model = read_pipeline("world", options.device)
    data = pictures(folder / "sister", SISTER_PICTURES, seed=3, artists=SISTER_ARTISTS)
    z = denoiser.latents(vae, data, folder / "sister-latents.npy")
    plan = options.plan(1500, 5e-4, warmup=100, decay_from=0.3, ema=0.998, seed=3)
    denoiser.train_denoiser(model, z, data.labels, plan, folder / "sister.safetensors")
    publish("world-sister", model, vae, folder, artists=named_artists("world"))


def build_judge(folder: Path, options: Options) -> None:
    """Train, calibrate, publish and measure the judge, for pictures of the world that ships."""
    from safetensors.torch import save_file

    vae, _ = read_pipeline("world", options.device)
    side = vae.config.sample_size
    data = pictures(folder / "judge", JUDGED, seed=11, artists=seen_artists(), pairs=0.45)
    first, file = data.pixels[:DECODED], folder / f"judge-rebuilt-{side}.npy"
    rebuilt = Pictures(kept(file, lambda: judge.decoded(vae, first, 11)), data.labels[:DECODED])
    torch.manual_seed(0)
    model = Judge(side=side).to(options.device)
    plan = options.plan(3000, 2e-3, decay_from=0.3, ema=0.998, seed=side)
    judge.train_judge(model, data, rebuilt, plan, folder / f"judge-{side}.safetensors")
    judge.calibrate(model, judge_pictures(folder)[0])
    JUDGE.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    weights = {name: tensor.half().cpu().contiguous() for name, tensor in state.items()}
    save_file(weights, JUDGE / "model.safetensors")
    (JUDGE / "config.json").write_text(json.dumps({"width": 128, "side": side}) + "\n")
    load_judge.cache_clear()
    measure_judge(vae, folder)


def examine_judge(folder: Path, options: Options) -> None:
    """Measure the shipped judge again, through the autoencoder that ships now."""
    measure_judge(read_pipeline("world", options.device)[0], folder)


def measure_judge(vae: "AutoencoderKL", folder: Path) -> None:
    """Write the card of the judge in assets/, with its accuracies."""
    shipped, test = load_judge(), judge_pictures(folder)[1]
    artist = (judge.HELD_OUT_ARTIST,)
    unseen = pictures(folder / "judge-artist", 1500, seed=13, artists=artist)
    rebuilt = to_pixels(vae, test.pixels)
    single = test.pixels[(test.labels[:, 2] >= 0) & (test.labels[:, 3] < 0)]
    write_card(
        JUDGE,
        key="judge",
        title="Judge of the embedded world",
        kind="judge",
        classes={head: list(classes) for head, classes in HEADS.items()},
        measured={
            "held-out pictures of seen artists": judge.accuracy(
                shipped.judge(test.pixels), test.labels
            ),
            "the same through the autoencoder": judge.accuracy(shipped.judge(rebuilt), test.labels),
            f"drawings of an artist never seen ({judge.HELD_OUT_ARTIST})": judge.accuracy(
                shipped.judge(np.asarray(unseen.pixels)), unseen.labels
            ),
            "shuffled in squares, no object named": {
                f"{cuts} x {cuts}" + (" (never trained on)" if cuts == judge.UNSEEN else ""): (
                    round(judge.refused(shipped, single, cuts), 3),
                    len(single),
                )
                for cuts in sorted((*judge.SHUFFLED, judge.UNSEEN))
            },
        },
    )


def judge_pictures(folder: Path) -> tuple[Pictures, Pictures]:
    """Held-out pictures of the artists that the judge has seen: to calibrate it, and to test it."""
    both = pictures(folder / "judge-held-out", 2000, seed=12, artists=seen_artists(), pairs=0.45)
    half = len(both.labels) // 2
    return (
        Pictures(both.pixels[:half], both.labels[:half]),
        Pictures(both.pixels[half:], both.labels[half:]),
    )


def seen_artists() -> tuple[str, ...]:
    return tuple(s.artist for s in sprites.SETS if s.artist != judge.HELD_OUT_ARTIST)


def publish(
    key: str,
    model: denoiser.Denoiser,
    vae: "AutoencoderKL",
    folder: Path,
    accept: Callable[[Examination], None] | None = None,
    artists: Iterable[str] = (),
) -> None:
    """Write the pipeline folder, measured as it was written and with its card.

    It is written into the working folder first, and into assets/ if `accept`, which is called with
    the examination, raises nothing.
    """
    for part in (model.unet, model.text_encoder):
        part.eval()
    checkpoint = folder / "made" / key
    export_pipeline(model, vae, checkpoint, artists)
    examine_made(checkpoint, key, folder, Options(), draw=True, accept=accept)
    shutil.copytree(checkpoint, MODELS / key, dirs_exist_ok=True)


def named_artists(key: str) -> set[str]:
    """What the captions of a shipped checkpoint's training called artists, if they named any."""
    known = json.loads((MODELS / key / "vocabulary.json").read_text())["words"]
    return set(words.ARTISTS.values()) & set(known)


def examine_shipped(key: str, folder: Path, options: Options) -> None:
    """Measure a shipped checkpoint as it lies in assets/ and write its card."""
    examine_made(MODELS / key, key, folder, options)


def examine_made(
    checkpoint: Path,
    key: str,
    folder: Path,
    options: Options,
    *,
    draw: bool = False,
    accept: Callable[[Examination], None] | None = None,
) -> None:
    """Measure a checkpoint as it lies in the folder `checkpoint` and write its card there.

    Contact sheets are drawn with new weights alone: they count for the revision of the checkpoint,
    to which membranes, words and recipes are bound.
    """
    vae, model = read_pipeline(checkpoint, options.device)
    notes: dict[str, object] = {"decoder PSNR dB": rebuilt_quality(vae, folder)}
    if (JUDGE / "model.safetensors").exists():
        examination = examine(model, vae, load_judge(), seeds=SEEDS[key])
        log.info("%s: %s", key, examination.figures)
        if accept is not None:
            accept(examination)
        held_out = pictures(folder / "held-out", 1000, seed=2, side=vae.config.sample_size)
        # The first ones of the training set: a shorter set of a seed begins a longer one.
        known = np.array(pictures(folder / "known", KNOWN, seed=1).pixels)
        new = novelty(model, vae, load_judge(), known, held_out.pixels[:300])
        notes |= examination.figures | {
            "nearest training picture, in features of the judge": {
                "generated pictures": new.to_training,
                "held-out pictures of the world": new.held_out,
                "two seeds of one prompt": new.between_seeds,
            }
        }
        if draw:
            sheet(examination.first, len(words.STYLES) * 2).save(checkpoint / "sheet.png")
            new.pairs.save(checkpoint / "nearest.png")
    # What `build world` makes from nothing has 64 pixels; see `larger` for what follows.
    made_by = key if vae.config.sample_size == FIRST_SIDE else "all"
    title, kind = TITLES[key], "diffusion"
    write_card(checkpoint, key=key, title=title, kind=kind, made_by=made_by, measured=notes)
    log.info("%s: %s", key, notes)


def rebuilt_quality(vae: "AutoencoderKL", folder: Path) -> dict[str, float]:
    """Mean PSNR in dB of rebuilt pictures that nothing was trained on, and of drawings by an artist
    never seen."""
    side = vae.config.sample_size
    held_out = pictures(folder / "held-out", 1000, seed=2, side=side)
    unseen = unseen_pictures(folder / "unseen-artist", 200, seed=2, side=side)
    return {
        "1000 held-out pictures": round(float(autoencoder.psnr(vae, held_out.pixels).mean()), 2),
        f"200 pictures of an artist never seen ({sprites.UNSEEN.artist})": round(
            float(autoencoder.psnr(vae, unseen.pixels).mean()), 2
        ),
    }


def preview(model: denoiser.Denoiser, vae: "AutoencoderKL", file: Path) -> None:
    """A small contact sheet of the averaged weights, to look at while training goes on."""
    names = ("cat", "penguin", "banana", "car", "house", "umbrella")
    prompts = [prompt(name, style) for name in names for style in words.STYLES]
    prompts += ["a cat inside a box", "a dog left of a star", "a frog on top of a bus"]
    for part in (model.unet, model.text_encoder):
        part.eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet(generate(model, vae, prompts, seed=0), 13).save(file)
    for part in (model.unet, model.text_encoder):
        part.train()


def read_pipeline(key: str | Path, device: str) -> tuple["AutoencoderKL", denoiser.Denoiser]:
    """Autoencoder and denoiser of a shipped checkpoint or one in a folder, in full precision."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        MODELS / key if isinstance(key, str) else key,
        dtype=torch.float32,
        local_files_only=True,
    ).to(device)
    model = denoiser.Denoiser(pipe.unet, pipe.text_encoder, pipe.tokenizer, pipe.scheduler)
    return pipe.vae.to(memory_format=torch.channels_last), model


def first_set(folder: Path) -> Pictures:
    """The autoencoder's own pictures."""
    return pictures(folder / "first", FIRST_PICTURES, seed=4, side=FIRST_SIDE)


def train_set(folder: Path) -> Pictures:
    return pictures(folder / "train", PICTURES, seed=1, side=FIRST_SIDE)


def to_pixels(vae: "AutoencoderKL", pixels: np.ndarray) -> np.ndarray:
    """The pictures after a round trip through the autoencoder."""
    parts = []
    with torch.inference_mode():
        for i in range(0, len(pixels), 50):
            x = autoencoder.to_tensor(pixels[i : i + 50]).to(vae.device)
            x = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            parts.append(((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def build_sprites(folder: Path, options: Options) -> None:
    """The drawings, from seven npm packages."""
    sprites.build(folder / "packages")


BUILDS = {
    "sprites": build_sprites,
    "world": build_world,
    "world-decoder": build_decoder,
    "judge": build_judge,
    "world-sister": build_sister,
}
EXAMINES = {
    key: lambda folder, options, key=key: examine_shipped(key, folder, options) for key in TITLES
} | {"judge": examine_judge}
