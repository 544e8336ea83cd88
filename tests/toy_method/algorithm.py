"""The jobs of the toy method: one that works, and one for each way to fail."""

import os
import time
from dataclasses import dataclass

import numpy as np

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.pictures import PictureSetting


@dataclass(frozen=True)
class Point:
    step: int
    error: float


@dataclass(frozen=True)
class Countdown:
    """What `run` gives: one of each kind of value a method may give."""

    numbers: np.ndarray
    picture: np.ndarray
    film: np.ndarray
    curve: tuple[Point, ...]
    name: str
    process: int


def run(
    *, seed: int, steps: int = 3, name: str = "toy", picture: PictureSetting | None = None
) -> Steps[Countdown]:
    """Count down from `steps`."""
    if steps < 1:
        raise BadInput(f"steps must be at least 1, got {steps}.", "3 is a good number.")
    for step in range(steps):
        yield Progress(step + 1, steps, f"step {step}", preview=np.arange(step))
    shade = np.full((4, 5, 3), seed % 256, np.uint8) if picture is None else picture
    curve = tuple(Point(step, 1 / (step + 1)) for step in range(steps))
    return Countdown(np.arange(steps)[::-1], shade, np.stack([shade] * 2), curve, name, os.getpid())


def twice(*, seed: int, words: tuple[str, ...] = ("a",)) -> Steps[tuple[str, ...]]:
    """Words twice; a second action."""
    yield Progress(1, 1)
    return words * 2


def stumble(*, seed: int, how: str = "bug") -> Steps[None]:
    """Fail after one step."""
    yield Progress(1, 2)
    if how == "bug":
        raise KeyError("secret/path/to/weights")
    if how == "die":
        os._exit(3)
    if how == "memory":
        raise MemoryError
    if how == "unsendable":
        return lambda: None
    raise BadInput("The cat is not a dog.", "Take a dog.")


def creep(*, seed: int, log: str, seconds: float = 0.05, steps: int = 200) -> Steps[int]:
    """Note each step, start and end in a file, slowly."""
    try:
        for step in range(steps):
            with open(log, "a") as file:
                file.write(f"{step}\n")
            time.sleep(seconds)
            yield Progress(step + 1, steps)
    finally:
        with open(log, "a") as file:
            file.write("closed\n")
    return steps


def noisy(*, seed: int) -> Steps[int]:
    """Print, as libraries do."""
    print("a library prints this")
    yield Progress(1, 1)
    return 1
