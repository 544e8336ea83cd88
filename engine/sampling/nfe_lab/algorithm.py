"""Solvers side by side from one noise, and their errors against a fine solve.

`run` first shows every solver's film, then walks the reference, then draws the error curve point by
point. The other job of the lab, `rewind`, is in `rewinding`.
"""

from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Annotated

import numpy as np
import torch

from engine.core import budgets
from engine.core.cache import LruCache
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Float, Tensor
from engine.diffusion import adapters
from engine.diffusion.solvers import find
from engine.models.drawing import verdicts
from engine.models.library import resolve
from engine.sampling._plane import plane
from engine.sampling.nfe_lab.results import (
    Difference,
    ErrorPoint,
    Film,
    Lab,
    Reference,
)
from engine.sampling.nfe_lab.rewinding import rewind
from engine.sampling.nfe_lab.scene import (
    GRIDS,
    LONGEST_TEXT,
    MOST_GUIDANCE,
    Clock,
    Scene,
    distance,
    small,
)

__all__ = ["rewind", "run"]

# What comes nearest to a much finer solve with 200 evaluations; bench.py compares candidates.
REFERENCE_SOLVER, REFERENCE_GRID = "dpmpp_2m", "karras"
CURVE = (4, 6, 10, 16, 28)
MOST_SOLVERS, MOST_NFE, MOST_REFERENCE_NFE = 4, 200, 1000
FEWEST_FRAMES, LATENTS_DECODED_FAST = 5, 32 * 32


def run(
    *,
    seed: int,
    prompt: Annotated[str, Text(LONGEST_TEXT)] = "a cat",
    model: ModelRef | str = "world",
    solvers: Annotated[
        Sequence[Annotated[str, Text(100)]],
        Items(MOST_SOLVERS, fewest=1, advice="Two compare well."),
    ] = (
        "ddim",
        "dpmpp_2m",
    ),
    nfe: Annotated[int, Range(1, MOST_NFE, "10 gives a good picture.")] = 10,
    guidance_scale: Annotated[
        float,
        Range(
            -MOST_GUIDANCE,
            MOST_GUIDANCE,
            "1 is none, 4 usual for the embedded world, 7.5 for Stable Diffusion.",
        ),
    ] = 4.0,
    negative: Annotated[str, Text(LONGEST_TEXT)] = "",
    grid: Annotated[str, OneOf(GRIDS)] = "trailing",
    eta: Annotated[float, Range(0, 1, "0 is DDIM, 1 ancestral.")] = 0.0,
    height: Annotated[int | None, Range(8, budgets.DRAWN_SIDE)] = None,
    width: Annotated[int | None, Range(8, budgets.DRAWN_SIDE)] = None,
    curve: Annotated[Sequence[Annotated[int, Range(1, MOST_NFE)]], Items(16)] = CURVE,
    reference_nfe: Annotated[int, Range(1, MOST_REFERENCE_NFE, "200 is fine enough.")] = 200,
) -> Steps[Lab]:
    """Up to four solvers from the same noise, and how far each is from the end of the way.

    `solvers` are names of ours or "diffusers:<Class>". `curve` are the NFE at which errors are
    measured; if empty, no reference is walked. Every event carries the `Lab` as far as it has come.
    """
    _check_solvers(solvers)
    yield Progress(0, 1, "Loading the model")
    scene = Scene.open(model, prompt, negative, guidance_scale, height=height, width=width)
    key = (resolve(model), prompt, negative)
    shared = _Shared(scene, seed, grid, eta, len(solvers) * (nfe + sum(curve)))
    lab = yield from _films(shared, solvers, nfe)
    if curve:
        lab, truth = yield from _reference(shared, lab, reference_nfe, key)
        lab = yield from _curve(shared, lab, truth, sorted(set(curve)))
    return lab


@dataclass
class _Shared:
    """What the parts of one run share: the way of every solver, and the evaluations done."""

    scene: Scene
    seed: int
    grid: str
    eta: float
    total: int
    done: int = 0
    trajectories: dict[str, list[Tensor]] = field(default_factory=dict)

    def walk(self, solver: str, nfe: int) -> Clock:
        """A fresh walk of a solver from the noise of this run."""
        model, z = self.scene.model(), self.scene.noise(self.seed)
        return Clock(
            self.scene.walk(solver, model, z, nfe, grid=self.grid, eta=self.eta, seed=self.seed)
        )

    def progress(self, note: str, lab: Lab, begun: int = 0) -> Progress:
        return Progress(min(self.done + begun, self.total), self.total, note, lab)


# ---------------------------------------------------------------------- films


def _films(shared: _Shared, names: Sequence[str], nfe: int) -> Generator[Progress, None, Lab]:
    """Walk every solver once, showing its clean estimate at each step."""
    lab = Lab()
    for name in names:
        for film in _film(shared, name, nfe):
            partial = replace(lab, films=(*lab.films, film))
            yield shared.progress(f"{film.title}: {film.nfe} of {nfe} NFE", partial, film.nfe)
        shared.done += nfe
        lab = partial
    pictures = np.stack([film.picture for film in lab.films if film.picture is not None])
    judged = zip(lab.films, verdicts(shared.scene.bundle, pictures), strict=True)
    films = (replace(film, verdict=verdict) for film, verdict in judged)
    lab = Lab(films=tuple(films), differences=_differences(shared.trajectories))
    yield shared.progress("Pictures are done", lab)
    return lab


def _film(shared: _Shared, name: str, nfe: int) -> Iterator[Film]:
    """The film of one solver, growing; the last one carries the finished picture."""
    scene, clock = shared.scene, shared.walk(name, nfe)
    trajectory = shared.trajectories[name] = [scene.noise(shared.seed)]
    stride = 1 if np.prod(scene.shape[1:]) <= LATENTS_DECODED_FAST else max(1, nfe // FEWEST_FRAMES)
    film = Film(name, title_of(name), _is_stochastic(name, shared.eta), 0, 0.0)
    for step in clock:
        trajectory.append(step.z)
        film = replace(film, nfe=step.nfe, milliseconds_per_nfe=1e3 * clock.seconds / step.nfe)
        if step.i % stride == 0:
            frame = small(scene.decode(step.x0))
            film = replace(
                film,
                frames=(*film.frames, frame),
                evaluations=(*film.evaluations, step.nfe),
                times=(*film.times, float(step.t)),
            )
        yield film
    yield replace(film, picture=scene.decode(trajectory[-1]))


def _differences(trajectories: dict[str, list[Tensor]]) -> tuple[Difference, ...]:
    """How far the results of every two solvers are apart: 0 to round-off where they are one."""
    ends = {name: trajectory[-1] for name, trajectory in trajectories.items()}
    return tuple(Difference(a, b, distance(ends[a], ends[b])) for a, b in combinations(ends, 2))


# ---------------------------------------------------------------------- the reference


@dataclass(frozen=True)
class _Walked:
    """A reference as the cache keeps it: some of its latents, the last one, and its time."""

    latents: Float[Tensor, "n c h w"]
    nfe: int
    seconds: float


_REFERENCES: LruCache[_Walked] = LruCache()
KEPT_LATENTS = 41


def _reference(
    shared: _Shared, lab: Lab, nfe: int, key: tuple[Hashable, ...]
) -> Generator[Progress, None, tuple[Lab, Tensor]]:
    """Walk the reference, or take it from the cache; then errors and the plane of all ways."""
    scene = shared.scene
    key = (*key, scene.guidance, scene.shape, scene.bundle.device, shared.seed, nfe)
    was_cached = _REFERENCES.peek(key) is not None
    walked = yield from _REFERENCES.steps(key, lambda: _walk_reference(shared, lab, nfe))
    truth = walked.latents[-1:]
    picture = scene.decode(truth.to(scene.bundle.device))
    lab = replace(
        lab,
        films=tuple(
            replace(film, error=distance(shared.trajectories[film.solver][-1], truth))
            for film in lab.films
        ),
        reference=Reference(
            f"{title_of(REFERENCE_SOLVER)}, {REFERENCE_GRID}, {walked.nfe} NFE",
            walked.nfe,
            walked.seconds,
            was_cached,
            picture,
            verdicts(scene.bundle, picture[None])[0],
        ),
        plane=plane(
            {**shared.trajectories, "reference": list(walked.latents[:, None])},
            leftmost="reference",
        ),
    )
    yield shared.progress("The reference is there", lab)
    return lab, truth


def _walk_reference(shared: _Shared, lab: Lab, nfe: int) -> Generator[Progress, None, _Walked]:
    shared.total += nfe
    model, z = shared.scene.model(), shared.scene.noise(shared.seed)
    clock = Clock(
        shared.scene.walk(
            REFERENCE_SOLVER, model, z, nfe, grid=REFERENCE_GRID, eta=0.0, seed=shared.seed
        )
    )
    trajectory = [z]
    for step in clock:
        trajectory.append(step.z)
        if step.i % 5 == 0:
            yield shared.progress(f"Reference: {step.nfe} of {nfe} NFE", lab, step.nfe)
    shared.done += model.nfe
    kept = np.unique(np.linspace(0, len(trajectory) - 1, KEPT_LATENTS).round().astype(int))
    return _Walked(torch.cat([trajectory[index] for index in kept]).cpu(), model.nfe, clock.seconds)


# ---------------------------------------------------------------------- the curve


def _curve(
    shared: _Shared, lab: Lab, truth: Tensor, counts: Sequence[int]
) -> Generator[Progress, None, Lab]:
    """The error of every solver at each NFE, the cheapest first."""
    for nfe in counts:
        for film in lab.films:
            clock, spent, end = shared.walk(film.solver, nfe), 0, truth
            for step in clock:
                spent, end = step.nfe, step.z
                if step.i % 5 == 4:
                    yield shared.progress(f"{film.title} at {nfe} NFE", lab, spent)
            shared.done += nfe
            milliseconds = 1e3 * clock.seconds / spent
            point = ErrorPoint(film.solver, spent, distance(end, truth), milliseconds)
            lab = replace(lab, curve=(*lab.curve, point))
            yield shared.progress(f"{film.title} at {spent} NFE", lab)
    return lab


# ---------------------------------------------------------------------- names and checks


def title_of(name: str) -> str:
    """The solver as a reader knows it."""
    theirs = name.removeprefix("diffusers:")
    return find(name).title if theirs == name else f"{theirs} (diffusers)"


def _is_stochastic(name: str, eta: float) -> bool:
    if name.startswith("diffusers:"):
        return "Ancestral" in name
    entry = find(name)
    return entry.stochastic or (entry.name == "ddim" and eta > 0)


def _check_solvers(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise BadInput("A solver is named twice.", "Choose different ones; two compare well.")
    for name in names:
        theirs = name.removeprefix("diffusers:")
        if theirs == name:
            find(name)
        else:
            adapters.check_name(theirs)
