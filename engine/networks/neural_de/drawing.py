"""The job that learns a drawn curve and runs it back to its start."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import OneOf, Range, Text
from engine.core.shapes import Array, Float, Tensor
from engine.networks import _solvers as solvers
from engine.networks._solvers import Times, reversible_heun
from engine.networks.neural_de import LONGEST_DRAWING, SPIRAL
from engine.networks.neural_de.fields import Learned, drawn_weights, undrawn
from engine.networks.neural_de.results import Drawn
from engine.networks.neural_de.ways import way_of

REACH, MOST_POINTS = 2.0, 600
WINDOW, BATCH = 8, 24
RATE, RISE = 2e-2, 0.1
KNOWS = ("auto", "state", "state and time")


def run(
    *,
    seed: int,
    drawing: Annotated[str, Text(LONGEST_DRAWING, advice="Draw a shorter line.")] = SPIRAL,
    knows: Annotated[str, OneOf(KNOWS)] = "auto",
    steps: Annotated[int, Range(16, 256, "24 follow most curves, 64 all.")] = 24,
    rounds: Annotated[int, Range(10, 2000, "200 take a few seconds.")] = 200,
    width: Annotated[int, Range(8, 64, "Try 32.")] = 32,
) -> Steps[Drawn]:
    """A field learns the curve; then time runs to its end and back to its start, in three ways."""
    target = resampled(points_of(drawing), steps)
    crosses = crosses_itself(target)
    knows_time = knows == "state and time" or (knows == "auto" and crosses)
    states = torch.from_numpy(_with_clock(target, knows_time))
    with undrawn():
        field = Learned(2, width, knows_time=knows_time, speed=_speed(target)).double()
    drawn_weights(field, seed, "weights")
    times = Times.even(1.0, steps)
    shown = Drawn(
        target, target[:1], knows_time=knows_time, crosses=crosses,
        parameters=sum(p.numel() for p in field.parameters()),
    )  # fmt: skip
    yield Progress(0, rounds + 3, "The field knows nothing yet", shown)
    for done, loss in enumerate(fitted(field, states, times, rounds, seed), start=1):
        shown = replace(shown, losses=(*shown.losses, loss))
        if done % 8 == 0 or done == rounds:
            shown = replace(shown, trajectory=_path(field, times, states[:1]))
        yield Progress(done, rounds + 3, f"Learning, {loss:.1e}", shown)
    places = _places()
    arrows = _arrows(field, places, knows_time)
    fit = float(np.linalg.norm(shown.trajectory - target, axis=1).max())
    shown = replace(shown, places=places, arrows=arrows, fit=fit, weights=_weights(field))
    start = (states[:1] / solvers.GRID).round() * solvers.GRID
    for k, method in enumerate(("heun", "reversible_heun", "on_grid"), start=1):
        way = way_of(method, field, times, start)
        shown = replace(shown, ways=(*shown.ways, way))
        yield Progress(rounds + k, rounds + 3, way.title, shown)
    return replace(shown, notes=tuple(_notes(shown, knows)))


# ---------------------------------------------------------------------- learning


def fitted(
    field: Learned, states: Float[Tensor, "n d"], times: Times, rounds: int, seed: int
) -> Iterator[float]:
    """Losses, round by round: slopes first, then short stretches through the solver, then all.

    Stretches that start on the curve keep a bad field from running away; the last rounds
    go from the start to the end at once, as the curve will be run.
    """
    draw = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(field.parameters())
    for done in range(rounds):
        optimiser.param_groups[0]["lr"] = _rate((done + 1) / rounds)
        with torch.enable_grad():
            loss = _loss(field, states, times, done / rounds, draw)
            optimiser.zero_grad()
            loss.backward()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise BadInput(
                "The field blew up while it learnt this curve.",
                "Draw without sharp corners, or take more steps.",
            )
        torch.nn.utils.clip_grad_norm_(field.parameters(), 1.0)
        optimiser.step()
        yield value


def _rate(share: float) -> float:
    """The learning rate: up to 0.02 in a tenth of the rounds, then down as half a cosine."""
    if share < RISE:
        return RATE * share / RISE
    return RATE * (1 + math.cos(math.pi * (share - RISE) / (1 - RISE))) / 2


def _loss(
    field: Learned, states: Tensor, times: Times, share: float, draw: np.random.Generator
) -> Float[Tensor, ""]:
    count, h = times.steps, times.step(0)
    if share < 0.4:
        middle, slope = (states[1:] + states[:-1]) / 2, states.diff(dim=0) / h
        return ((field(0.0, middle) - slope) * h * WINDOW).square().mean()
    long = share >= 0.85
    length = count if long else min(WINDOW, count)
    first = np.zeros(1, int) if long else draw.integers(0, count - length + 1, BATCH)
    start = states[first].clone()
    # Mode "plain", as memory is no matter at this size: its gradient is equal to round-off.
    sequence = reversible_heun(field, Times.even(h * length, length), every=1, mode="plain")
    _, found = sequence((start, start.clone()))
    wanted = torch.stack([states[first + k + 1] for k in range(length)])
    return (torch.stack(found) - wanted).square().mean()


@torch.no_grad()
def _path(field: Learned, times: Times, start: Float[Tensor, "1 d"]) -> Float[Array, "n 2"]:
    sequence = reversible_heun(field, times, every=1)
    _, states = sequence((start, start.clone()))
    rows = torch.cat([start, *states])[:, :2].numpy()
    return np.clip(np.nan_to_num(rows, nan=1e3), -1e3, 1e3)


# ---------------------------------------------------------------------- the drawing


def points_of(drawing: str) -> Float[Array, "n 2"]:
    """The points "x y; x y; ..." of a drawing. Raises `BadInput` for what is none."""
    rows = [row.replace(",", " ").split() for row in drawing.replace("\n", ";").split(";")]
    rows = [row for row in rows if row]
    example = "Draw with the mouse, or write for example: 0 0; 0.5 0.2; 0.9 0.9"
    if len(rows) > MOST_POINTS:
        raise BadInput(f"The drawing has {len(rows)} points; {MOST_POINTS} are taken.", example)
    try:
        points = np.array([[float(x), float(y)] for x, y in rows]).reshape(-1, 2)
    except ValueError:
        raise BadInput("The drawing is no list of points.", example) from None
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > REACH:
        raise BadInput(f"Points lie between -{REACH:g} and {REACH:g}.", example)
    if len(points) == 1:
        raise BadInput("One observation is no curve: nothing moves.", example)
    if len(points) == 0 or np.linalg.norm(np.diff(points, axis=0), axis=1).sum() < 0.2:
        raise BadInput("The drawing is too short to be learnt.", example)
    return points


def resampled(points: Float[Array, "n 2"], steps: int) -> Float[Array, "m 2"]:
    """The curve at even distances, smoothed as a hand shakes: steps + 1 points."""
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    kept = np.concatenate([[True], lengths > 1e-9])
    along = np.concatenate([[0], np.cumsum(lengths)])[kept]
    even = np.linspace(0, along[-1], steps + 1)
    curve = np.stack([np.interp(even, along, axis) for axis in points[kept].T], 1)
    for _ in range(max(1, steps // 32)):
        curve[1:-1] = (curve[:-2] + 2 * curve[1:-1] + curve[2:]) / 4
    return curve


def crosses_itself(curve: Float[Array, "n 2"]) -> bool:
    """Whether two pieces that are no neighbours cross: no field of the state alone follows that."""
    a, b = curve[:-1], curve[1:]

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        u, v = q - p, r - p
        return np.sign(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])

    i, j = np.triu_indices(len(a), 2)
    first = side(a[i], b[i], a[j]) * side(a[i], b[i], b[j])
    second = side(a[j], b[j], a[i]) * side(a[j], b[j], b[i])
    return bool(((first < 0) & (second < 0)).any())


def _with_clock(curve: Float[Array, "n 2"], knows_time: bool) -> Float[Array, "n d"]:
    clock = np.linspace(0, 1, len(curve))[:, None]
    return np.hstack([curve, clock]) if knows_time else curve


def _speed(curve: Float[Array, "n 2"]) -> float:
    return float(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum())


# ---------------------------------------------------------------------- what is shown


def _places() -> Float[Array, "g 2"]:
    line = np.linspace(-1.5, 1.5, 13)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


@torch.no_grad()
def _arrows(field: Learned, places: Float[Array, "g 2"], knows_time: bool) -> Float[Array, "g 2"]:
    """Slopes, where the field knows the time those of half time."""
    clock = np.full((len(places), int(knows_time)), 0.5)
    return field(0.0, torch.from_numpy(np.hstack([places, clock])))[:, :2].numpy()


def _weights(field: Learned) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in field.state_dict().items()})


def _notes(shown: Drawn, knows: str) -> Iterator[str]:
    if shown.crosses and knows == "state":
        yield (
            "The curve crosses itself. A field of the state alone has one slope at the crossing, "
            "so it cannot go on in two directions: let it know the time."
        )
    elif shown.crosses:
        yield "The curve crosses itself, so the field was given the time beside the state."
    for way in shown.ways:
        if way.left_at is not None:
            yield f"{way.title} left all bounds at t = {way.left_at:.2g}; the rest is not drawn."
