"""A picture run back to the noise it would have come from, and forwards again.

Two ways stand beside each other: DDIM inversion, which returns nearly, and reversible Heun, which
returns to round-off. With another prompt on the way back, the picture is edited.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import numpy as np
from PIL import Image

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.precision import wide
from engine.core.recipe import ModelRef
from engine.core.reversible import compare
from engine.core.settings import Range, Text
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion.denoiser import Model
from engine.diffusion.grids import Grid, timesteps
from engine.diffusion.inversion import Pair, ddim_backwards, reversible_heun
from engine.diffusion.solvers import solve
from engine.models import diffusion as checkpoints
from engine.models.drawing import verdicts
from engine.pictures import PictureSetting
from engine.sampling.nfe_lab.results import Rewound, Way
from engine.sampling.nfe_lab.scene import (
    LONGEST_TEXT,
    MOST_GUIDANCE,
    Scene,
    distance,
    small,
)

MOST_STEPS = 200
DRAWING_SOLVER, DRAWING_NFE = "dpmpp_2m", 20
MOST_FRAMES = 12

Latents: TypeAlias = Float[Tensor, "1 c h w"]
Walk: TypeAlias = Callable[..., Iterator[tuple[Latents | Pair, Latents]]]
"""From model, state and grid: the state after every step, and its latents."""


def rewind(
    *,
    seed: int,
    prompt: Annotated[str, Text(LONGEST_TEXT)] = "a cat",
    edit: Annotated[str, Text(LONGEST_TEXT)] = "",
    model: ModelRef | str = "world",
    picture: PictureSetting | None = None,
    steps: Annotated[int, Range(1, MOST_STEPS, "25 is a good start.")] = 25,
    depth: Annotated[float, Range(1e-6, 1, "1 is pure noise.")] = 1.0,
    guidance_scale: Annotated[
        float, Range(-MOST_GUIDANCE, MOST_GUIDANCE, "4 is usual for the embedded world.")
    ] = 4.0,
    rewind_guidance: Annotated[float, Range(-MOST_GUIDANCE, MOST_GUIDANCE, "1 is none.")] = 1.0,
    negative: Annotated[str, Text(LONGEST_TEXT)] = "",
) -> Steps[Rewound]:
    """Run a picture to noise and back, by DDIM inversion and by a reversible solver.

    `picture` is given, or else drawn from `prompt`; a given one is shrunk to the size of the
    model's own pictures, and edges that fill no whole latent are cut off. `prompt` says what it
    shows, on both ways, with `rewind_guidance`; with `edit`, another way back is told that
    instead. `guidance_scale` is that of drawing and editing. `depth` is the share of the noise to
    go to: less keeps more of the picture in an edit.
    """
    _check_picture(picture)
    yield Progress(0, 1, "Loading the model")
    drawing = Scene.open(model, prompt, negative, guidance_scale)
    trip = _Trip(
        drawing.with_prompts(prompt, negative, rewind_guidance),
        drawing.with_prompts(edit, negative, guidance_scale) if edit.strip() else None,
        _grid(drawing, steps, depth),
        2 * (steps + 1) * (3 if edit.strip() else 2),
    )
    if picture is None:
        picture = yield from _draw(trip, drawing, seed)
    else:
        picture = _fitted(picture, *checkpoints.own_size(drawing.bundle))
    rewound, z = _encode(drawing, picture)
    yield trip.progress("Encoded", rewound)
    for name, title, invert, draw in WAYS:
        begun, finished = trip.done, rewound.ways
        for note, way in _there_and_back(trip, Way(name, title), z, invert, draw):
            trip.done = begun + way.nfe
            rewound = replace(rewound, ways=(*finished, way))
            yield trip.progress(f"{title}: {note}", rewound)
    return rewound


@dataclass
class _Trip:
    """What both ways share, and the evaluations done; `edited` is the scene of the other prompt."""

    scene: Scene
    edited: Scene | None
    grid: Grid
    total: int
    done: int = 0

    def progress(self, note: str, partial: Rewound) -> Progress:
        return Progress(min(self.done, self.total), self.total, note, partial)


# ---------------------------------------------------------------------- the two ways


def _ddim_there(model: Model, z: Latents, grid: Grid) -> Iterator[tuple[Latents, Latents]]:
    for step in ddim_backwards(model, z, grid):
        yield step.z, step.z


def _ddim_back(model: Model, z: Latents, grid: Grid) -> Iterator[tuple[Latents, Latents]]:
    for step in solve("ddim", model, z, grid):
        yield step.z, step.z


def _heun_there(model: Model, z: Latents, grid: Grid) -> Iterator[tuple[Pair, Latents]]:
    pair = Pair.of(z, model.path, float(grid.times[-1]))
    for step in reversible_heun(model, pair, grid, backwards=True):
        yield step.pair, step.pair.z(model.path, step.t)


def _heun_back(model: Model, pair: Pair, grid: Grid) -> Iterator[tuple[Pair, Latents]]:
    for step in reversible_heun(model, pair, grid):
        yield step.pair, step.pair.z(model.path, step.t)


WAYS: tuple[tuple[str, str, Walk, Walk], ...] = (
    ("ddim", "DDIM inversion", _ddim_there, _ddim_back),
    ("reversible_heun", "Reversible Heun", _heun_there, _heun_back),
)


def _there_and_back(
    trip: _Trip, way: Way, z: Latents, invert: Walk, back: Walk
) -> Iterator[tuple[str, Way]]:
    """The way as it grows: to noise, back to the picture, and back with the other prompt."""
    scene, model = trip.scene, trip.scene.model()
    state: Latents | Pair = z
    latents = z
    for i, (after, latents) in enumerate(invert(model, z, trip.grid)):
        frames = _filmed(scene, trip, way.to_noise, i, latents)
        way, state = replace(way, to_noise=frames, nfe=model.nfe), after
        yield "to noise", way
    way = replace(
        way,
        noise=scene.decode(latents),
        noise_std=float(latents.std()),
        gap=state.gap() if isinstance(state, Pair) else None,
    )
    for i, (_, latents) in enumerate(back(model, state, trip.grid)):
        frames = _filmed(scene, trip, way.to_picture, i, latents)
        way = replace(way, to_picture=frames, nfe=model.nfe)
        yield "back", way
    way = _compared(scene, way, latents, z)
    yield "returned", way
    if trip.edited is not None:
        counted, model = model.nfe, trip.edited.model()
        for _, after in back(model, state, trip.grid):
            way, latents = replace(way, nfe=counted + model.nfe), after
            yield "back with the other prompt", way
        edited = scene.decode(latents)
        verdict = verdicts(scene.bundle, edited[None])[0]
        yield "edited", replace(way, edited=edited, edited_verdict=verdict)


def _filmed(
    scene: Scene, trip: _Trip, frames: tuple[Array, ...], i: int, latents: Latents
) -> tuple[Array, ...]:
    """The frames so far, with this state decoded when its turn has come."""
    stride = -(-trip.grid.steps // MOST_FRAMES)
    is_due = i % stride == 0 or i == trip.grid.steps - 1
    return (*frames, small(scene.decode(latents))) if is_due else frames


def _compared(scene: Scene, done: Way, latents: Latents, z: Latents) -> Way:
    """The errors of the round trip: in latents, and in pixels of the decoded pictures."""
    picture, encoded = scene.decode(latents), scene.decode(z)
    difference = picture.astype(np.int16) - encoded
    return replace(
        done,
        picture=picture,
        round_trip=compare(z.float(), latents.float(), steps=done.nfe),
        latent_error=distance(latents, z),
        pixel_error=float(np.abs(difference).mean()),
        verdict=verdicts(scene.bundle, picture[None])[0],
    )


# ---------------------------------------------------------------------- pictures


def _draw(
    trip: _Trip, drawing: Scene, seed: int
) -> Generator[Progress, None, UInt8[Array, "height width 3"]]:
    """A picture of the prompt, to be run back."""
    trip.total += DRAWING_NFE
    model, z = drawing.model(), drawing.noise(seed)
    for step in drawing.walk(DRAWING_SOLVER, model, z, DRAWING_NFE, seed=seed):
        z, trip.done = step.z, step.nfe
        yield trip.progress("Drawing the picture", Rewound())
    return drawing.decode(z)


def _encode(scene: Scene, picture: UInt8[Array, "height width 3"]) -> tuple[Rewound, Latents]:
    """Latents of a picture in float64, and what the autoencoder alone makes of it."""
    z = checkpoints.encode_picture(scene.bundle, picture[None]).to(scene.bundle.device)
    encoded = scene.decode(z)
    mean_square = float(np.square(picture.astype(np.float64) - encoded).mean())
    rewound = Rewound(
        original=picture,
        encoded=encoded,
        verdict=verdicts(scene.bundle, picture[None])[0],
        psnr_of_encoding=10 * float(np.log10(255**2 / max(mean_square, 1e-12))),
    )
    return rewound, wide(z)


def _fitted(
    picture: UInt8[Array, "height width 3"], tall: int, wide: int, factor: int
) -> UInt8[Array, "h w 3"]:
    """At most the size the model was made for, in whole latents: beyond it, it draws nonsense."""
    height, width = picture.shape[:2]
    share = min(1.0, tall / height, wide / width)
    h, w = (max(factor, round(side * share) // factor * factor) for side in (height, width))
    if share < 1:
        shrunk = Image.fromarray(picture).resize((w, h), Image.Resampling.LANCZOS)
        return np.array(shrunk)
    top, left = (height - h) // 2, (width - w) // 2
    return np.ascontiguousarray(picture[top : top + h, left : left + w])


def _grid(scene: Scene, steps: int, depth: float) -> Grid:
    """Equal steps in time, from the depth asked for to the least noise the network knows."""
    path = scene.path
    return timesteps(np.linspace(depth * path.t_max, path.t_min, steps + 1))


def _check_picture(picture: UInt8[Array, "height width 3"] | None) -> None:
    if picture is None:
        return
    sides = picture.shape[:2]
    if min(sides) < 8:
        raise BadInput(
            f"The picture is {sides[1]} x {sides[0]} pixels.",
            "Take one of at least 8 pixels on a side.",
        )
