"""The job functions of the panel, and the two that compare solvers and readings with the truth.

`run` follows curves from noise to data and measures the order of each solver; `views` shows one
state in five readings. `guide` and `distil` are in files of their own.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, cast

import numpy as np
import torch
from scipy.integrate import DOP853

from engine.core import rng
from engine.core.errors import SamplerError
from engine.core.job import Progress, Steps, relay
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Float, Tensor
from engine.diffusion import grids
from engine.diffusion.denoiser import Kind, Model, Pred, combine
from engine.diffusion.grids import Grid
from engine.diffusion.mixture import Mixture
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import SOLVERS as REGISTRY
from engine.diffusion.solvers import run as run_solver
from engine.diffusion.solvers import solve
from engine.sampling.principles import (
    PROCESSES,
    READINGS,
    SOLVERS,
    SPACINGS,
    THREE_MODES,
)
from engine.sampling.principles.flow_map import distil
from engine.sampling.principles.guidance import guide
from engine.sampling.principles.world import (
    LONGEST_WORLD,
    VP,
    density,
    process_of,
    window,
    world_of,
)

__all__ = ["distil", "guide", "run", "views"]

GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform_lam": grids.uniform_lam,
    "karras": grids.karras,
    "uniform_t": grids.uniform_t,
}
FEWEST = 4
SHOWN = 4
"""Curves drawn, from the particles that lie farthest apart; errors are over all of them."""
SCENES = 21


# ---------------------------------------------------------------------- results


@dataclass(frozen=True)
class Trail:
    """States of the shown particles on the way, `steps particles 2`, and the VP times of them."""

    solver: str
    nfe: int
    states: np.ndarray
    times: np.ndarray
    error: float | None = None


@dataclass(frozen=True)
class Point:
    """Distance to the true end of the curves after `nfe` counted evaluations.

    `error` is the median over the particles, `mean` the mean. They can tell different stories: a
    few points that end far off decide a mean, and the median says nothing about them.
    """

    solver: str
    nfe: int
    error: float
    mean: float


@dataclass(frozen=True)
class Slope:
    """By which power of the NFE the error falls over the last doubling, by median and by mean."""

    solver: str
    order: int
    slope: float
    mean_slope: float


@dataclass(frozen=True)
class Agreement:
    """How far the ends of equal runs lie apart when only the coordinate or the process differs."""

    what: str
    name: str
    distance: float


@dataclass(frozen=True)
class Orders:
    """Curves, errors and slopes so far. `scenes` are p_t at `scene_times`, `n side side`."""

    scenes: np.ndarray
    scene_times: np.ndarray
    truth: Trail | None
    trails: tuple[Trail, ...]
    points: tuple[Point, ...] = ()
    slopes: tuple[Slope, ...] = ()
    agreements: tuple[Agreement, ...] = ()


@dataclass(frozen=True)
class Loss:
    """One training loss over a batch; `weight` times the loss of the clean sample is the same."""

    reading: str
    loss: float
    weight: float
    gap: float


@dataclass(frozen=True)
class Views:
    """One state in five readings. `points` and `arrows` are the field of the chosen reading.

    Points are z / sqrt(a^2 + s^2). `values` holds the readings at the state, `5 2`, in the order of
    READINGS; `trips[i, j]` is the largest relative error of going from reading i to j and back.
    """

    t: float
    a: float
    s: float
    reading: str
    scene: np.ndarray
    points: np.ndarray
    arrows: np.ndarray
    state: np.ndarray
    values: np.ndarray
    trips: np.ndarray
    losses: tuple[Loss, ...]


# ---------------------------------------------------------------------- the true curve


def reference(
    world: Mixture, path: Path, z: Float[Tensor, "b d"], times: np.ndarray
) -> Generator[float, None, Float[Tensor, "n b d"]]:
    """The probability flow dz/dt = f z - g^2 score / 2 at each of the falling times.

    Runge-Kutta of order 8 with error control (DOP853, rtol 1e-12), with a velocity written in numpy
    apart from the code of the solvers, so that a fault of theirs cannot hide in the truth. Yields
    the share of log time that is done.
    """
    w, mu, v = (part.numpy() for part in (world.weights, world.means, world.variances))
    log_w = np.log(w / w.sum())

    def velocity(t: float, flat: np.ndarray) -> np.ndarray:
        x, a, s = flat.reshape(z.shape), path.a(t), path.s(t)
        away = x[:, None] - a * mu
        spread = a**2 * v + s**2
        log_share = log_w - (away**2).sum(-1) / (2 * spread) - np.log(spread) * mu.shape[1] / 2
        share = np.exp(log_share - log_share.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        score = -((share / spread)[..., None] * away).sum(1)
        return (path.drift(t) * x - path.diffusion_squared(t) / 2 * score).ravel()

    solver = DOP853(velocity, times[0], z.numpy().ravel(), times[-1], rtol=1e-12, atol=1e-13)
    states, span = [z.numpy().ravel()], path.lam(times[-1]) - path.lam(times[0])
    while solver.status == "running":
        solver.step()
        if len(states) < len(times) and times[len(states)] >= solver.t:
            between = solver.dense_output()
            while len(states) < len(times) and times[len(states)] >= solver.t:
                states.append(between(times[len(states)]))
        yield float((path.lam(solver.t) - path.lam(times[0])) / span)
    if solver.status != "finished":
        raise SamplerError("The true curve could not be integrated.", "Take wider modes.")
    return torch.from_numpy(np.stack([*states[:-1], solver.y])).reshape(len(times), *z.shape)


# ---------------------------------------------------------------------- solvers against it


def run(
    *,
    seed: int,
    world: Annotated[str, Text(LONGEST_WORLD)] = THREE_MODES,
    solvers: Annotated[
        Sequence[Annotated[str, OneOf(SOLVERS)]], Items(len(SOLVERS), fewest=1)
    ] = tuple(SOLVERS),
    nfe: Annotated[int, Range(FEWEST, 128)] = 8,
    spacing: Annotated[str, OneOf(SPACINGS)] = "uniform_lam",
    particles: Annotated[int, Range(1, 512)] = 64,
    most: Annotated[int, Range(8, 1024)] = 256,
) -> Steps[Orders]:
    """Curves of the solvers at `nfe`, then their errors at 4, 8, 16 ... `most` evaluations."""
    names = tuple(name for name in SOLVERS if name in solvers)
    density0, grid_of = world_of(world), GRIDS[spacing]
    start = rng.batch_noise(particles, (2,), seed, "start", dtype=torch.float64)
    budgets = [FEWEST << k for k in range(int(math.log2(most / FEWEST)) + 1)]
    total, done = 2 * len(names) + 10 + len(names) * len(budgets), 0

    scene_times = grids.uniform_lam(VP, SCENES - 1).times
    scenes = np.stack([density(density0, 60, VP.a(t), VP.s(t)) for t in scene_times])
    orders = Orders(scenes, scene_times, None, ())
    apart, ends = spread_out(start, SHOWN), {}
    for name in names:
        grid = grid_of(VP, REGISTRY[name].steps_for(nfe, to_zero=False))
        trail, ends[name] = follow(name, density0, start, grid, apart)
        orders, done = replace(orders, trails=(*orders.trails, trail)), done + 1
        yield Progress(done, total, f"{SOLVERS[name][0]}, {trail.nfe} evaluations", orders)

    times = grids.uniform_lam(VP, 80).times
    truth = yield from relay(
        reference(density0, VP, start, times),
        lambda share: Progress(done + int(10 * share), total, "the true curves, to 1e-12", orders),
    )
    done += 10
    trails = tuple(
        replace(trail, error=_middle(ends[trail.solver], truth[-1])) for trail in orders.trails
    )
    true_trail = Trail("truth", 0, truth[:, apart].numpy(), times)
    orders = replace(orders, truth=true_trail, trails=trails)
    yield Progress(done, total, "the true curves, to 1e-12", orders)
    for point in _curve(names, density0, start, grid_of, budgets, truth[-1]):
        done += 1
        points = (*orders.points, point)
        orders = replace(orders, points=points, slopes=slopes(points))
        yield Progress(done, total, f"{SOLVERS[point.solver][0]}, {point.nfe} evaluations", orders)
    for agreement in one_curve(density0, start[:16]):
        orders = replace(orders, agreements=(*orders.agreements, agreement))
        yield Progress(done, total, "one curve in all coordinates", orders)
    return orders


def follow(
    name: str, world: Mixture, start: Float[Tensor, "b 2"], grid: Grid, indices: list[int]
) -> tuple[Trail, Float[Tensor, "b 2"]]:
    """The states of the shown particles on their way, and where all of them end."""
    model = world.model(VP)
    states = [start, *(step.z for step in solve(name, model, start, grid))]
    kept = torch.stack(states)[:, indices].numpy()
    return Trail(name, model.nfe, kept, grid.times), states[-1]


def spread_out(x: Float[Tensor, "b 2"], count: int) -> list[int]:
    """Indices of points that lie apart: the outermost, then each time the one farthest from all."""
    chosen = [int(x.norm(dim=1).argmax())]
    while len(chosen) < min(count, len(x)):
        chosen.append(int(torch.cdist(x, x[chosen]).min(dim=1).values.argmax()))
    return chosen


def _curve(
    names: Sequence[str],
    world: Mixture,
    start: Float[Tensor, "b 2"],
    grid_of: Callable[..., Grid],
    budgets: Sequence[int],
    truth: Float[Tensor, "b 2"],
) -> Iterator[Point]:
    """Errors point by point, all solvers side by side from few evaluations to many."""
    for budget in budgets:
        for name in names:
            model = world.model(VP)
            grid = grid_of(VP, REGISTRY[name].steps_for(budget, to_zero=False))
            end = run_solver(name, model, start, grid)
            mean = float((end - truth).norm(dim=1).mean())
            yield Point(name, model.nfe, _middle(end, truth), mean)


def slopes(points: Sequence[Point]) -> tuple[Slope, ...]:
    """The slope of each solver between its last two points, and the order that it promises."""
    fitted = []
    for name, (_, order) in SOLVERS.items():
        last = [point for point in points if point.solver == name][-2:]
        if len(last) == 2 and min(point.error for point in last) > 0:
            ratio = math.log(last[1].nfe / last[0].nfe)
            by_median, by_mean = (
                math.log(before / after) / ratio
                for before, after in zip(*((p.error, p.mean) for p in last), strict=True)
            )
            fitted.append(Slope(name, order, by_median, by_mean))
    return tuple(fitted)


def one_curve(world: Mixture, start: Float[Tensor, "b 2"], steps: int = 20) -> Iterator[Agreement]:
    """Equal runs of DPM-Solver++ in every coordinate and on every process: one and the same curve.

    A network that predicts another reading is the same network after a linear map. A process with
    other a and s passes the same points z / a at the same signal-to-noise ratio.
    """
    levels = VP.lam(grids.uniform_lam(VP, steps).times)
    same = Grid(np.asarray(VP.t_of_lam(levels)))
    end = run_solver("dpmpp_2m", world.model(VP), start, grids.uniform_lam(VP, steps))
    for kind, title in READINGS.items():
        other = run_solver("dpmpp_2m", speaking(world, VP, kind), start, same)
        yield Agreement("network predicts", title, _distance(other, end))
    for name, title in PROCESSES.items():
        path = process_of(name)
        times = np.asarray(path.t_of_lam(levels))
        begun = start * float(path.a(times[0]) / VP.a(VP.t_max))
        other = run_solver("dpmpp_2m", world.model(path), begun, Grid(times))
        on_vp = other * float(VP.a(VP.t_min) / path.a(times[-1]))
        yield Agreement("process", title, _distance(on_vp, end))


def speaking(world: Mixture, path: Path, kind: str) -> Model:
    """The world as a perfect network that was trained to predict another reading."""

    def net(
        x: Float[Tensor, "b d"], label: Float[Tensor, " b"], **_: Tensor
    ) -> Float[Tensor, "b d"]:
        t = label.cpu().numpy()
        return getattr(Pred(path, x, t, "eps", world.eps(x, path.a(t), path.s(t))), kind)

    return Model(net, path, cast(Kind, kind), "t")


def _middle(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> float:
    return float((x - y).norm(dim=1).quantile(0.5))


def _distance(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> float:
    return float((x - y).norm(dim=1).mean())


# ---------------------------------------------------------------------- five readings of one state


def views(
    *,
    seed: int,
    world: Annotated[str, Text(LONGEST_WORLD)] = THREE_MODES,
    process: Annotated[str, OneOf(PROCESSES)] = "vp",
    reading: Annotated[str, OneOf(READINGS)] = "score",
    t: Annotated[float, Range(0.01, 1)] = 0.35,
    x: Annotated[float, Range(-2.5, 2.5)] = -0.4,
    y: Annotated[float, Range(-2.5, 2.5)] = 0.6,
) -> Steps[Views]:
    """The field of one reading at noise level `t`, and all five at the state (x, y).

    `t` counts on the clock of the VP process; the others are shown at the same signal-to-noise
    ratio. The state is z / sqrt(a^2 + s^2), so that it stays in the window for every process.
    """
    density0 = world_of(world)
    path, level = process_of(process), t
    point = torch.tensor([[x, y]]).double()
    time = level if process == "vp" else float(path.t_of_lam(VP.lam(level)))
    a, s = float(path.a(time)), float(path.s(time))
    scale = math.hypot(a, s)
    model = density0.model(path)

    points = window(15, 2.6)
    pred = model(scale * points, time)
    arrows = pred.x0 - points if reading == "x0" else getattr(pred, reading)
    state = model(scale * point, time)
    result = Views(
        level,
        a,
        s,
        reading,
        density(density0, 72, a, s),
        points.numpy(),
        arrows.numpy(),
        point[0].numpy(),
        torch.cat([getattr(state, kind) for kind in READINGS]).numpy(),
        np.zeros((len(READINGS), len(READINGS))),
        (),
    )
    yield Progress(1, 3, "the field", result)
    generator = rng.generator(seed, "batch")
    x0 = density0.sample(256, generator)
    noise = rng.noise(x0.shape, generator, dtype=torch.float64)
    z = combine((a, x0), (s, noise))
    result = replace(result, trips=round_trips(model(z, time)))
    yield Progress(2, 3, "round trips", result)
    return replace(result, losses=tuple(losses(model(z, time), x0, noise)))


def round_trips(pred: Pred) -> np.ndarray:
    """The largest relative error of reading i -> j -> i over a batch, for every pair."""
    errors = np.zeros((len(READINGS), len(READINGS)))
    for i, first in enumerate(READINGS):
        value = getattr(pred, first)
        converted = Pred(pred.path, pred.z, pred.t, first, value)
        for j, second in enumerate(READINGS):
            back = Pred(pred.path, pred.z, pred.t, second, getattr(converted, second))
            errors[i, j] = float((getattr(back, first) - value).abs().max() / value.abs().max())
    return errors


def losses(pred: Pred, x0: Float[Tensor, "b d"], noise: Float[Tensor, "b d"]) -> Iterator[Loss]:
    """Mean squared errors of one perfect network on one batch, in the five readings.

    They are what is left at the best: the data behind a noisy point is not certain. With the error
    of the clean sample e, the errors of the others are

        eps: -(a/s) e    score: (a/s^2) e    v: -((a^2 + s^2)/s) e    u: (a' - a s'/s) e
    """
    path, t = pred.path, pred.t
    a, s = float(path.a(t)), float(path.s(t))
    factors = {
        "x0": 1.0,
        "eps": -a / s,
        "score": a / s**2,
        "v": -(path.prior_std**2 * a**2 + s**2) / (path.prior_std * s),
        "u": float(path.a_slope(t)) - a * float(path.s_slope(t)) / s,
    }
    true = Pred(path, pred.z, t, "eps", noise)
    base = float((pred.x0 - x0).square().sum(1).mean())
    for kind, factor in factors.items():
        target = x0 if kind == "x0" else getattr(true, kind)
        loss = float((getattr(pred, kind) - target).square().sum(1).mean())
        yield Loss(kind, loss, factor**2, abs(loss / (factor**2 * base) - 1))
