"""Measures the claim, and what stands beside it.

    python -m engine bench neural-de          writes assets/claims/neural_de.json

Over three seeds, each a field and a batch of its own:

1. Gradient errors, kept bytes and evaluations of every way at 16, 64 and 256 steps, float64.
2. The same on damped fields over a longer time, where the reversible solver breaks.
3. Ways back of drawn curves, and of known fields with the trade-off of c (nothing random in it).
4. The forecast with half of the values dropped, against a GRU and the calendar.
5. Formulas read from three known equations.

Rounds, rates and widths were chosen on seed 7, which is not among them.
"""

import time

import numpy as np

from engine.core.catalog import Measured
from engine.core.job import Steps, relay_as
from engine.core.recipe import Plain
from engine.metrics.intervals import student
from engine.networks.neural_de.algorithm import formula, gradients, retrace, series
from engine.networks.neural_de.algorithm import run as draw
from engine.networks.neural_de.results import Gradients
from engine.networks.neural_de.symbolic import KNOWN_SYSTEMS

SEEDS, STEPS = 3, 64
FIELDS = (("pendulum", 1.0, 20.0, 400), ("decay", 1.0, 20.0, 400), ("decay", 5.0, 10.0, 200))


def run(*, seed: int = 0) -> Steps[Measured]:
    """All five."""
    begun = time.perf_counter()
    total = 5
    found, damped, drawn, forecasts = [], [], [], []
    for one in range(seed, seed + SEEDS):
        found.append((yield from relay_as(gradients(seed=one), 0, total, "gradients")))
        long = gradients(seed=one, sweep="time", rate=2.0, most=64)
        damped.append((yield from relay_as(long, 1, total, "damped")))
        drawn.append((yield from relay_as(draw(seed=one), 2, total, "drawing")))
        forecasts.append((yield from relay_as(series(seed=one), 3, total, "series")))
    held: dict[str, Plain] = {}
    for field, rate, end, steps in FIELDS:
        shown = yield from relay_as(
            retrace(seed=seed, field=field, rate=rate, end=end, steps=steps, c=0.9), 4, total, field
        )
        held[f"{field}, rate {rate:g}, h {end / steps:g}"] = {
            "return error": {way.method: _short(way.error) for way in shown.ways},
            "largest |y - z|": {w.method: _short(float(w.gap.max())) for w in shown.ways},
            "c, error forwards, error of return": [
                [pull.c, _short(pull.forward_error), _short(pull.return_error)]
                for pull in shown.pulls
            ],
        }
    formulas: dict[str, Plain] = {}
    for source in KNOWN_SYSTEMS:
        read = yield from relay_as(formula(seed=seed, source=source), 4, total, source)
        formulas[source] = {
            "read": list(read.expressions),
            "true": list(read.truth),
            "distance after refitting": _short(read.refitted),
        }
    ours = [_error(one, "reversible") for one in found]
    mean, low, high = student(ours)
    return Measured.of(
        mean,
        float(np.mean([_error(one, "adjoint") for one in found])),
        (low, high),
        seed=seed,
        begun=begun,
        figures={
            "seeds": SEEDS,
            "by steps, over a time of 4": _table(found),
            "damped at rate 2, steps of 1/16": _table(damped),
            "drawn curve, return error": [
                {way.method: _short(way.error) for way in one.ways} for one in drawn
            ],
            "known fields": held,
            "forecast 13 weeks ahead, half dropped, rms in ppm": [
                {learner.title: round(learner.errors[-1], 3) for learner in one.learners}
                for one in forecasts
            ],
            "formulas": formulas,
        },
    )


def _error(found: Gradients, method: str) -> float:
    return next(p.error for p in found.points if (p.method, p.steps) == (method, STEPS))


def _table(found: list[Gradients]) -> dict[str, Plain]:
    """Means over the seeds."""
    table: dict[str, Plain] = {}
    for same in zip(*(one.points for one in found), strict=True):
        point = same[0]
        table[f"{point.method}, {point.steps} steps"] = {
            "kept bytes": point.kept_bytes,
            "evaluations": point.evaluations,
            "error": _short(float(np.mean([p.error for p in same]))),
            "error against an accurate solve": _short(
                float(np.mean([p.truth_error for p in same]))
            ),
        }
    return table


def _short(value: float | None) -> float | None:
    """Three digits; nothing where it left all bounds."""
    return float(f"{value:.3g}") if value is not None and np.isfinite(value) else None
