"""The sampler lab: particles under the exact score of a ring of eight modes.

Nothing is learned here, so what is seen is the sampler alone: predictor and corrector at equal
numbers of evaluations, against solvers of the probability flow.
"""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import OneOf, Range
from engine.core.shapes import Array, Float
from engine.diffusion import grids
from engine.diffusion.mixture import Mixture, ring
from engine.diffusion.noise import Stream
from engine.diffusion.predictors import fewest_levels, released_grid
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import SOLVERS, Step, solve
from engine.diffusion.solvers import run as run_solver
from engine.metrics.distances import profile, sliced_w2
from engine.sampling.score_sde import CORRECTORS, LEVELS, PREDICTORS, PROCESSES, RIVALS
from engine.sampling.score_sde.processes import LAST, process_of
from engine.sampling.score_sde.results import Lab, Point, Sweep

SIDE, VIEW, FRAMES, SHOWN = 60, 3.0, 17, 250
REPEATS = 3
STUDENT = {3: 4.303, 5: 2.776}
"""The 97.5 % quantile of Student's t by number of draws."""
CROWD = 50_000
"""Draws of the data that stand for the truth."""
SNRS = (0.04, 0.08, 0.16, 0.32, 0.64)
BUDGETS = (10, 20, 40, 80, 160)


def sample(
    *,
    seed: int,
    process: Annotated[str, OneOf(PROCESSES)] = "ve",
    predictor: Annotated[str, OneOf(PREDICTORS)] = "reverse_diffusion",
    corrector: Annotated[str, OneOf(CORRECTORS)] = "langevin",
    nfe: Annotated[int, Range(4, 400)] = 40,
    snr: Annotated[float, Range(0.001, 5)] = 0.16,
    corrections: Annotated[int, Range(1, 10)] = 1,
    levels: Annotated[str, OneOf(LEVELS)] = "grid",
    denoise: bool = True,
    particles: Annotated[int, Range(16, 4000)] = 1000,
    most: Annotated[int, Range(10, 400)] = 80,
) -> Steps[Lab]:
    """One run to look at; then the error against the NFE with and without the corrector, beside
    solvers of the flow; then a sweep over snr. Distances are sliced W2, over three draws each.
    The score is exact, so it takes no model."""
    settings = setting_of(predictor, corrector, snr, corrections, levels)
    steps = steps_of(settings, nfe)
    world, path = ring(variance=0.01), process_of(process)
    truth = profile(world.sample(CROWD, rng.generator(0, "data")))
    budgets = [n for n in BUDGETS if n <= most]
    methods = ["predictor", "corrected", *RIVALS] if corrector != "none" else ["predictor", *RIVALS]
    sweeps = SNRS if corrector != "none" else ()
    total, done = 10 + len(budgets) * len(methods) + len(sweeps), 0
    grid = released_grid(steps, LAST[process])
    grid = grid if denoise else replace(grid, final="none")
    lab, run_of = _empty(), Stream(seed)
    walk = solve("pc", world.model(path), _start(path, particles, run_of), grid, run_of, **settings)
    keep = set(np.linspace(0, steps - 1, min(FRAMES, steps)).round().astype(int))
    for step in walk:
        if step.role == "step" and step.i in keep:
            lab = _with_frame(lab, world, path, step)
            if step.i == steps - 1:
                distance = sliced_w2(profile(step.z), truth)
                lab = replace(lab, error=distance, floor=floor(world, particles, truth))
            yield Progress(int(10 * (step.i + 1) / steps), total, f"{step.nfe} evaluations", lab)
    done = 10
    for budget in budgets:
        for method in methods:
            done += 1
            point = measure(world, truth, process, method, settings, budget, particles, seed)
            if point is not None:
                lab = replace(lab, curve=(*lab.curve, point))
            yield Progress(done, total, f"{method}, {budget} evaluations", lab)
    for value in sweeps:
        done += 1
        errors = [
            end_error(world, truth, process, settings | {"snr": value}, nfe, particles, seed + k)
            for k in range(REPEATS)
        ]
        lab = replace(lab, sweep=(*lab.sweep, Sweep(value, float(np.mean(errors)))))
        yield Progress(done, total, f"snr {value:g}", lab)
    return lab


def setting_of(
    predictor: str, corrector: str, snr: float, corrections: int, levels: str = "grid"
) -> dict[str, Any]:
    """The options of `pc`. Raises `BadInput` when neither predictor nor corrector is there."""
    if predictor == "none" and corrector == "none":
        raise BadInput("Nothing moves without predictor and corrector.", "Choose one of them.")
    return {
        "predictor": predictor,
        "corrector": corrector,
        "snr": snr,
        "corrections": corrections,
        "levels": levels,
    }


def steps_of(settings: dict[str, Any], nfe: int) -> int:
    """Steps within so many evaluations; a corrector pays for each of its moves."""
    cost = _cost(settings)
    if nfe < 2 * cost:
        raise BadInput(
            f"{nfe} evaluations are less than two steps of {cost} each.", "Raise the NFE."
        )
    return nfe // cost


def _cost(settings: dict[str, Any]) -> int:
    """Evaluations of a step."""
    moves = int(settings["corrections"]) if settings["corrector"] != "none" else 0
    return moves + (settings["predictor"] != "none")


def _fits(process: str, settings: dict[str, Any], nfe: int) -> bool:
    """Whether so many evaluations are two steps, and enough levels for the published chain."""
    fewest = 2
    if settings["levels"] == "released":
        corrected = settings["corrector"] != "none"
        path = process_of(process)
        fewest = max(2, fewest_levels(path, settings["predictor"], corrected=corrected))
    return nfe >= fewest * _cost(settings)


def end_error(
    world: Mixture,
    truth: Float[Tensor, "levels k"],
    process: str,
    settings: dict[str, Any],
    nfe: int,
    particles: int,
    seed: int,
) -> float:
    """Distance to the data of one run of the predictor-corrector sampler."""
    path, noise = process_of(process), Stream(seed)
    grid = released_grid(steps_of(settings, nfe), LAST[process])
    ended = run_solver(
        "pc", world.model(path), _start(path, particles, noise), grid, noise, **settings
    )
    return sliced_w2(profile(ended), truth)


def measure(
    world: Mixture,
    truth: Float[Tensor, "levels k"],
    process: str,
    method: str,
    settings: dict[str, Any],
    nfe: int,
    particles: int,
    seed: int,
    repeats: int = REPEATS,
) -> Point | None:
    """Mean distance over draws with a 95 % interval; None where this NFE is too few."""
    if method == "predictor":
        settings = settings | {"corrector": "none"}
        if settings["predictor"] == "none":
            return None
    errors = []
    for k in range(repeats):
        if method in RIVALS:
            errors.append(_rival_error(world, truth, process, method, nfe, particles, seed + k))
        elif not _fits(process, settings, nfe):
            return None
        else:
            errors.append(end_error(world, truth, process, settings, nfe, particles, seed + k))
    mean = float(np.mean(errors))
    half = STUDENT[repeats]
    reach = half * float(np.std(errors, ddof=1) / np.sqrt(repeats))
    return Point(method, nfe, mean, max(mean - reach, 0.0), mean + reach)


def _rival_error(
    world: Mixture,
    truth: Float[Tensor, "levels k"],
    process: str,
    solver: str,
    nfe: int,
    particles: int,
    seed: int,
) -> float:
    path = process_of(process)
    steps = SOLVERS[solver].steps_for(nfe, to_zero=False)
    grid = grids.uniform_lam(path, steps, end=LAST[process])
    start = _start(path, particles, Stream(seed))
    return sliced_w2(profile(run_solver(solver, world.model(path), start, grid)), truth)


def floor(world: Mixture, particles: int, truth: Float[Tensor, "levels k"]) -> float:
    """The distance to the truth of as many draws of the data themselves, over ten draws."""
    draws = [world.sample(particles, rng.generator(k, "floor")) for k in range(10)]
    return float(np.mean([sliced_w2(profile(draw), truth) for draw in draws]))


def _start(path: Path, particles: int, noise: Stream) -> Float[Tensor, "n 2"]:
    return path.prior_std * noise(torch.zeros(particles, 2, dtype=torch.float64), 0, "start")


def _empty() -> Lab:
    scenes, clouds = np.zeros((0, SIDE, SIDE), np.float32), np.zeros((0, SHOWN, 2), np.float32)
    return Lab(scenes, np.zeros(0), clouds)


def _with_frame(lab: Lab, world: Mixture, path: Path, step: Step) -> Lab:
    """The lab with one more frame: the density at this time and the particles on it.

    In the coordinates z / sqrt(a^2 + s^2), so that all noise levels fit into one window.
    """
    t = float(np.ravel(step.t)[0])
    a, s = float(path.a(t)), float(path.s(t))
    scale = float(np.hypot(a, s))
    scene = density_of(world, a, s)
    cloud = (step.z[:SHOWN] / scale).numpy().astype(np.float32)
    clouds = lab.clouds if len(lab.times) else np.zeros((0, len(cloud), 2), np.float32)
    return replace(
        lab,
        scenes=np.concatenate([lab.scenes, scene[None]]),
        times=np.append(lab.times, t),
        clouds=np.concatenate([clouds, cloud[None]]),
        nfe=step.nfe,
    )


def density_of(world: Mixture, a: float, s: float) -> Float[Array, "side side"]:
    """p_t on the window, over z / sqrt(a^2 + s^2)."""
    line = torch.linspace(-VIEW, VIEW, SIDE, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = float(np.hypot(a, s)) * torch.stack([x.ravel(), y.ravel()], 1)
    return world.log_density(points, a, s).exp().reshape(SIDE, SIDE).numpy().astype(np.float32)
