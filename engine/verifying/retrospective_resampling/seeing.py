"""The model, and the trays and pictures that it looks at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.core import rng
from engine.core.errors import ModelMismatch
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, UInt8
from engine.models.language import LanguageBundle, Prompt
from engine.models.library import load
from engine.verifying.retrospective_resampling.story import Story
from engine.verifying.retrospective_resampling.tags import Tags
from engine.world import tray as world
from engine.world.tray import Tray, is_true, photograph, random_tray

DESCRIBE = "describe the picture."
NOISE = 0.4  # where a model's card states none
MOST_TRAYS = 2000

ARTISTS = ("known", "never seen")


def open_bundle(model: ModelRef | str) -> LanguageBundle:
    """A model with eyes and the three tokens. Raises `ModelMismatch` for another one."""
    bundle = load(model)
    if not isinstance(bundle, LanguageBundle) or not bundle.has_eyes:
        raise ModelMismatch(
            f"{bundle.card.title} does not describe pictures.",
            "Pick a REVERSE checkpoint of LLaVA or Qwen2.5-VL.",
        )
    Tags.of(bundle)
    return bundle


def default_noise(bundle: LanguageBundle) -> float:
    """The noise at which this model errs enough to have something to take back; from its card."""
    stated = bundle.card.notes.get("noise", NOISE)
    return float(stated) if isinstance(stated, int | float) else NOISE


def look(
    bundle: LanguageBundle,
    scene: Tray | None,
    picture: UInt8[Array, "h w 3"] | None,
    noise: float | None,
    seed: int,
) -> tuple[UInt8[Array, "h w 3"], UInt8[Array, "h w 3"] | None]:
    """The picture as the model sees it, and the same tray in good light."""
    if scene is None:
        assert picture is not None
        level = 0.0 if noise is None else noise
        if not level:
            return picture, None
        grain = rng.noise(picture.shape, rng.generator(seed, "grain"))
        dark = (torch.from_numpy(picture.copy()) / 255 + level * grain).clamp(0, 1) * 255
        return dark.round().to(torch.uint8).numpy(), picture
    level = default_noise(bundle) if noise is None else noise
    return photograph(scene, noise=level, seed=seed), photograph(scene, noise=0.0, seed=seed)


@dataclass(frozen=True)
class Sight:
    """A tray as the model sees it."""

    tray: Tray
    prompt: Prompt
    seed: int


def sights(
    bundle: LanguageBundle,
    count: int,
    noise: float,
    seed: int,
    artists: str = "known",
) -> Iterator[Sight]:
    """Random trays with their pictures, one after the other."""
    who = world.ARTISTS if artists == "known" else (world.HELD_OUT_ARTIST,)
    draw = np.random.default_rng([seed, 11])
    for number in range(count):
        tray, own = random_tray(draw, who), seed * 100_003 + number
        yield Sight(tray, bundle.prompt(DESCRIBE, photograph(tray, noise=noise, seed=own)), own)


def new_story(bundle: LanguageBundle, scene: Tray | None) -> Story:
    """A listener for this model, who knows what is true of the tray."""

    def words(ids: Sequence[int]) -> str:
        return str(bundle.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def truth(phrase: str) -> bool | None:
        return is_true(phrase, scene) if scene else None

    return Story(Tags.of(bundle), words, truth)
