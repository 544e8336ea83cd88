"""The job that shows where running back is stable, and what the cure costs."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import OneOf, Range
from engine.core.shapes import Float, Tensor
from engine.networks import _solvers as solvers
from engine.networks._solvers import Times
from engine.networks.neural_de import FIELDS
from engine.networks.neural_de.fields import KNOWN, Planar
from engine.networks.neural_de.results import Held, Pull, WayBack
from engine.networks.neural_de.ways import way_of

PULLS = (1.0, 0.999, 0.99, 0.95, 0.9, 0.8, 0.7, 0.5)
MOST_STEP = 2.0
"""h times the rate: beyond it even an ordinary explicit method of second order blows up."""


def retrace(
    *,
    seed: int,
    field: Annotated[str, OneOf(FIELDS)] = "pendulum",
    rate: Annotated[float, Range(0, 50, "1 is mild, 5 is stiff here.")] = 1.0,
    end: Annotated[float, Range(1, 200, "Try 20.")] = 20.0,
    steps: Annotated[int, Range(8, 4000, "Try 400.")] = 400,
    c: Annotated[float, Range(0.3, 1, "0.9 is stable on most fields.")] = 0.99,
    precision: Annotated[str, OneOf(("float64", "float32"))] = "float64",
) -> Steps[Held]:
    """Known fields, to the end and back. Nothing is random; the seed is not used."""
    _check_step(field, rate, end / steps)
    planar, times = Planar(field, rate), Times.even(end, steps)
    start = torch.tensor([KNOWN[field].start], dtype=getattr(torch, precision))
    total = 4 + len(PULLS)
    yield Progress(0, total, "An accurate solve")
    truth = _truth(planar, times, start.double())
    drawn = np.unique(np.linspace(0, steps, min(steps + 1, 400)).round().astype(int))
    at = np.array(times.values)[drawn]
    shown = Held(field, truth[drawn], at)
    for k, method in enumerate(("heun", "reversible_heun", "mccallum_foster"), start=1):
        shown = replace(shown, ways=(*shown.ways, way_of(method, planar, times, start, c)))
        yield Progress(k, total, shown.ways[-1].title, shown)
    for k, pull in enumerate(PULLS, start=4):
        way = way_of("mccallum_foster", planar, times, start, pull)
        shown = replace(shown, pulls=(*shown.pulls, _pull(pull, way, truth)))
        yield Progress(k, total, f"c = {pull:g}", shown)
    return replace(shown, notes=tuple(_notes(shown)))


def _check_step(field: str, rate: float, h: float) -> None:
    if field in ("decay", "van_der_pol") and h * rate > MOST_STEP:
        raise BadInput(
            f"At λ = {rate:g} a step of {h:.3g} is too long: h λ = {h * rate:.2g} is beyond "
            f"{MOST_STEP:g}, where every explicit method blows up at once.",
            f"Take at least {math.ceil(h * rate / MOST_STEP * 10) / 10:g} times as many steps.",
        )


@torch.no_grad()
def _truth(planar: Planar, times: Times, start: Float[Tensor, "1 2"]) -> np.ndarray:
    """Runge-Kutta of order 4 with a quarter of the step."""
    fine = Times.even(times.values[-1], 4 * times.steps)
    states = [start, *solvers.solve(solvers.rk4, planar, fine, start)]
    return torch.cat(states[::4]).numpy()


def _pull(c: float, way: WayBack, truth: np.ndarray) -> Pull:
    size = float(np.abs(truth).max())
    miss = float(np.abs(way.trajectory[-1] - truth[-1]).max()) / size
    is_lost = way.left_at is not None
    return Pull(c, math.inf if is_lost else miss, way.error, float(way.gap.max()))


def _notes(shown: Held) -> Iterator[str]:
    for way in shown.ways:
        if way.left_at is not None:
            yield (
                f"{way.title} left all bounds at t = {way.left_at:.3g}; the curve ends there, and "
                "the way back starts there."
            )
    best = min(shown.pulls, key=lambda pull: pull.forward_error)
    exact = min(shown.pulls, key=lambda pull: pull.return_error)
    yield (
        f"Forwards c = {best.c:g} is best here (error {best.forward_error:.0e}); "
        f"back, c = {exact.c:g} (error {exact.return_error:.0e})."
    )
