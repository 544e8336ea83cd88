"""The world that a visitor draws: a few lines of text that become an exact mixture.

    0.2 -1.5 0 0.05 A      weight, x, y, variance and, if wanted, a class

One mode a line; a semicolon also ends a line. The text is the whole truth about the world, so
links, files and command lines carry it, and a picture editor only writes it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.diffusion import schedules
from engine.diffusion.mixture import Mixture
from engine.diffusion.schedules import Level, Path

MOST_MODES = 32
LONGEST_WORLD = 100 * MOST_MODES
REACH = 2.5
"""Modes lie within this distance of 0 in x and in y."""
VIEW = 3.0
"""Half the side of the square that is drawn."""

EXAMPLE = "One mode a line: weight x y variance class, such as 0.2 -1.5 0 0.05 A."
VP = schedules.vp()


@dataclass(frozen=True)
class Mode:
    """One Gaussian, as it stands in one line."""

    weight: float
    x: float
    y: float
    variance: float
    label: str = "A"


def modes_of(text: str) -> tuple[Mode, ...]:
    """The modes in a text. Raises `BadInput` that names the line and what would do."""
    if not isinstance(text, str):
        raise BadInput("The world must be a text.", EXAMPLE)
    lines = [line.strip() for line in re.split(r"[\n;]", text[:10_000])]
    modes = tuple(_mode(number, line) for number, line in enumerate(lines, 1) if line)
    if not 1 <= len(modes) <= MOST_MODES:
        raise BadInput(f"A world has 1 to {MOST_MODES} modes, this one has {len(modes)}.", EXAMPLE)
    return modes


def _mode(number: int, line: str) -> Mode:
    parts = line.replace(",", " ").split()
    if len(parts) not in (4, 5):
        raise BadInput(f"Line {number} of the world has {len(parts)} entries, not 4 or 5.", EXAMPLE)
    try:
        weight, x, y, variance = (float(part) for part in parts[:4])
    except ValueError:
        raise BadInput(f"Line {number} of the world holds no four numbers.", EXAMPLE) from None
    for name, value, low, high in (
        ("weight", weight, 1e-3, 1e3),
        ("x", x, -REACH, REACH),
        ("y", y, -REACH, REACH),
        ("variance", variance, 2e-3, 1.0),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            raise BadInput(
                f"The {name} in line {number} of the world is {value:g}.",
                f"It must lie between {low:g} and {high:g}.",
            )
    label = parts[4] if len(parts) == 5 else "A"
    if not re.fullmatch(r"[A-Za-z]\w{0,11}", label):
        raise BadInput(f"The class in line {number} of the world is no short word.", EXAMPLE)
    return Mode(weight, x, y, variance, label)


def mixture(modes: tuple[Mode, ...]) -> Mixture:
    """The exact density of these modes, in float64."""
    return Mixture(
        torch.tensor([mode.weight for mode in modes], dtype=torch.float64),
        torch.tensor([(mode.x, mode.y) for mode in modes], dtype=torch.float64),
        torch.tensor([mode.variance for mode in modes], dtype=torch.float64),
    )


def world_of(text: str) -> Mixture:
    """The exact density that a text describes."""
    return mixture(modes_of(text))


def process_of(name: str) -> Path:
    """A process that reaches the noise levels of the VP one, so that they can be compared."""
    processes: Mapping[str, Path] = {
        "vp": VP,
        "flow": schedules.flow(t_min=1e-4),
        "trigonometric": schedules.trigonometric(t_min=1e-4),
        "edm": schedules.edm(t_max=160.0),
        "ve": schedules.ve(s_max=160.0),
    }
    if name not in processes:
        raise BadInput(
            f'There is no process "{str(name)[:40]}".', f"Choose {', '.join(processes)}."
        )
    return processes[name]


def window(side: int, reach: float = VIEW) -> Float[Tensor, "n 2"]:
    """The points of a square grid around 0, row by row from below."""
    line = torch.linspace(-reach, reach, side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.ravel(), y.ravel()], dim=1)


def density(world: Mixture, side: int, a: Level = 1.0, s: Level = 0.0) -> np.ndarray:
    """p_t on the square that is drawn, `side side`, over z / sqrt(a^2 + s^2), in float32."""
    scale = math.hypot(a, s)
    values = torch.exp(world.log_density(scale * window(side), a, s)) * scale**2
    return values.reshape(side, side).numpy().astype(np.float32)
