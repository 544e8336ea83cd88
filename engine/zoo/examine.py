"""Measure a checkpoint against the bars of the embedded world, and draw contact sheets."""

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from engine.models.vision import Judge
from engine.world import vocabulary as words
from engine.zoo.denoiser import Denoiser, token_ids

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

GUIDANCE = 4.0
STEPS = 20


@dataclass(frozen=True)
class Examination:
    """Shares of right pictures, each with the number of pictures, and seconds a picture.

    `first` are the pictures of the first seed, one for each object and style.
    """

    rates: dict[str, tuple[float, int]]
    by_object: dict[str, float]
    by_style: dict[str, float]
    seconds: float
    first: np.ndarray

    @property
    def figures(self) -> dict[str, object]:
        """Everything but the pictures, for a card."""
        return {k: value for k, value in vars(self).items() if k != "first"}


def generate(
    model: Denoiser,
    vae: "AutoencoderKL",
    prompts: list[str],
    *,
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 24,
) -> np.ndarray:
    """One picture a prompt by DDIM with guidance: uint8 n x 64 x 64 x 3."""
    unet, scheduler = model.unet, model.scheduler
    size = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noise = torch.randn((len(prompts), *size), generator=torch.Generator().manual_seed(seed))
    device, pictures = next(unet.parameters()).device, []
    with torch.inference_mode():
        uncond = model.text_encoder(token_ids(model.tokenizer, [""]).to(device))[0]
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            cond = model.text_encoder(token_ids(model.tokenizer, part).to(device))[0]
            both = torch.cat([uncond.expand_as(cond), cond])
            z = noise[start : start + batch].to(device)
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                without, with_prompt = unet(torch.cat([z, z]), t, both).sample.chunk(2)
                v_pred = without + guidance * (with_prompt - without)
                z = scheduler.step(v_pred, t, z).prev_sample
            x = vae.decode(z / vae.config.scaling_factor).sample.clamp(-1, 1)
            pictures.append(((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(pictures)


def prompt(name: str, style: str) -> str:
    """The standard prompt of an object in a style."""
    noun = words.article(name)
    return noun if style == "plain" else f"{noun} in {style} style"


def examine(
    model: Denoiser, vae: "AutoencoderKL", judge: Judge, *, seeds: int = 4, pairs: int = 108
) -> Examination:
    """Objects and styles over all prompts and some seeds; relations over random pairs, which are
    others with each seed: a hundred pairs alone leave eight points of doubt on either side."""
    cases = list(itertools.product(words.OBJECTS, words.STYLES))
    prompts = [prompt(*pair) for pair in cases]
    started = time.perf_counter()
    images = [generate(model, vae, prompts, seed=seed) for seed in range(seeds)]
    seconds = (time.perf_counter() - started) / (seeds * len(prompts))
    hits = np.zeros((seeds, len(cases), 2), bool)
    for seed, pictures in enumerate(images):
        verdicts = judge.judge(pictures)
        for i, (name, style) in enumerate(cases):
            hits[seed, i] = (
                verdicts.best("subject", i)[0] == name,
                verdicts.best("style", i)[0] == style,
            )
    share = hits.mean(0)
    relation_hits = np.concatenate(
        [_relations(model, vae, judge, pairs, seed) for seed in range(seeds)]
    )
    both, related = relation_hits.mean(0)
    total = seeds * len(cases)
    return Examination(
        rates={
            "object": (float(share[:, 0].mean()), total),
            "style": (float(share[:, 1].mean()), total),
            "both objects": (float(both), len(relation_hits)),
            "relation": (float(related), len(relation_hits)),
        },
        by_object=_mean_by(cases, share[:, 0], 0),
        by_style=_mean_by(cases, share[:, 1], 1),
        seconds=round(seconds, 3),
        first=images[0],
    )


@dataclass(frozen=True)
class Novelty:
    """How new the pictures are, by distances in the judge's features.

    `to_training` is the median distance of a generated picture to the nearest training picture,
    `held_out` the same for pictures of the world that nothing was trained on, `between_seeds` the
    mean distance between two seeds of one prompt. `pairs` shows generated pictures, each with its
    nearest training picture below.
    """

    to_training: float
    held_out: float
    between_seeds: float
    pairs: Image.Image


def novelty(
    model: Denoiser, vae: "AutoencoderKL", judge: Judge, training: np.ndarray, held_out: np.ndarray
) -> Novelty:
    """Compare generated pictures with `training` and `held_out` pictures (uint8 n 64 64 3)."""
    names = words.OBJECTS[::3]
    prompts = [
        prompt(name, words.STYLES[i % len(words.STYLES)]) for i, name in enumerate(names * 2)
    ]
    first, second = (generate(model, vae, prompts, seed=seed) for seed in (0, 1))
    known, new = judge.judge(training).features, judge.judge(held_out).features
    ours, again = judge.judge(first).features, judge.judge(second).features
    distance = _distances(ours, known)
    nearest = training[distance.argmin(1)]
    columns = len(names)
    rows = [first[:columns], nearest[:columns], first[columns:], nearest[columns:]]
    return Novelty(
        to_training=round(float(np.median(distance.min(1))), 3),
        held_out=round(float(np.median(_distances(new, known).min(1))), 3),
        between_seeds=round(float(np.linalg.norm(ours - again, axis=1).mean()), 3),
        pairs=sheet(np.concatenate(rows), columns),
    )


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(squares.clip(0))


def _relations(
    model: Denoiser, vae: "AutoencoderKL", judge: Judge, count: int, seed: int
) -> np.ndarray:
    """For each two-object prompt whether both objects show, and both in the right relation: n 2."""
    draw = np.random.default_rng(seed)
    scenes: list[tuple[str, str, str]] = []
    while len(scenes) < count:
        relation = words.RELATIONS[len(scenes) % 3]
        others = words.CONTAINERS if relation == "inside" else words.OBJECTS
        subject, other = draw.choice(words.OBJECTS), draw.choice(others)
        if subject != other:
            scenes.append((subject, relation, other))
    prompts = [f"{words.article(a)} {r} {words.article(b)}" for a, r, b in scenes]
    verdicts = judge.judge(generate(model, vae, prompts, seed=seed))
    both = [set(verdicts.objects(i)) == {a, b} for i, (a, _, b) in enumerate(scenes)]
    right = [
        both[i] and verdicts.best("relation", i)[0] == r and verdicts.best("subject", i)[0] == a
        for i, (a, r, _) in enumerate(scenes)
    ]
    return np.stack([both, right], 1)


def _mean_by(wanted: list, values: np.ndarray, place: int) -> dict[str, float]:
    keys = [pair[place] for pair in wanted]
    return {
        key: round(float(np.mean([v for k, v in zip(keys, values, strict=True) if k == key])), 4)
        for key in dict.fromkeys(keys)
    }


def sheet(pictures: np.ndarray, columns: int, *, gap: int = 2, scale: int = 1) -> Image.Image:
    """Pictures n x 64 x 64 x 3 side by side on white, row by row."""
    step = pictures.shape[1] * scale + gap
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * step - gap, rows * step - gap), "white")
    for i, picture in enumerate(pictures):
        tile = Image.fromarray(picture)
        if scale > 1:
            tile = tile.resize([side * scale for side in tile.size], Image.Resampling.NEAREST)
        page.paste(tile, ((i % columns) * step, (i // columns) * step))
    return page
