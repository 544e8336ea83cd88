"""The ripple itself, and one job function that can also fail on request."""

import time
from dataclasses import dataclass

import numpy as np

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef

SECONDS_A_STEP = 0.03


@dataclass(frozen=True)
class Ripples:
    """States of the wave so far, `n h w 3`."""

    frames: np.ndarray


def ripple(seed: int, t: float) -> np.ndarray:
    """One state of the wave as a picture, 64 x 64."""
    x0, y0 = np.random.default_rng(seed).uniform(16, 48, 2)
    y, x = np.mgrid[0:64, 0:64]
    wave = np.sin(0.5 * np.hypot(x - x0, y - y0) - t)
    shade = (127 + 120 * wave).astype(np.uint8)
    return np.stack([shade, np.roll(shade, 9, 0), 255 - shade], axis=-1)


def run(*, seed: int, model: ModelRef, word: str, steps: int) -> Steps:
    """The wave over some steps.

    `word` "bug" fails like a bug, "late" fails after two steps, "slow" takes ten times as long.
    """
    if not isinstance(steps, int) or not 1 <= steps <= 200:
        raise BadInput(f"Steps must be from 1 to 200, got {steps}.", "Try 8.")
    if not isinstance(word, str) or not word.strip():
        raise BadInput("The word is empty.", "Try pond.")
    frames: list[np.ndarray] = []
    for step in range(steps):
        if word == "bug":
            raise RuntimeError("secret path /home/me")
        if word == "late" and step == 2:
            raise BadInput('The word "late" is <b>never</b> in time.', "Try pond.")
        time.sleep(SECONDS_A_STEP * (10 if word == "slow" else 1))
        frames.append(ripple(seed, 0.4 * step))
        yield Progress(step + 1, steps, "spreading", Ripples(np.stack(frames)))
    return Ripples(np.stack(frames))
