"""Measures the claim, and what stands beside it.

    python -m engine bench neural-de          writes assets/claims/neural_de.json

Over three seeds, each a field and a batch of its own:

1. Gradient errors, kept bytes and evaluations of every way at 16 and 64 steps, float64.
2. The same on damped fields over a longer time, where the reversible solver breaks.

And ways back of known fields with the trade-off of c, in which nothing is random.
"""

import time

import numpy as np

from engine.core.catalog import Measured
from engine.core.job import Steps, relay_as
from engine.core.recipe import Plain
from engine.metrics.intervals import student
from engine.networks.neural_de.algorithm import gradients, retrace
from engine.networks.neural_de.results import Gradients, Held

SEEDS, STEPS = 3, 64
FIELDS = (("pendulum", 1.0, 20.0, 400), ("decay", 1.0, 20.0, 400), ("decay", 5.0, 10.0, 100))


def run(*, seed: int = 0) -> Steps[Measured]:
    """Gradients on both kinds of fields, then the known ones."""
    begun = time.perf_counter()
    total = 2 * SEEDS + len(FIELDS)
    found, damped = [], []
    for one in range(SEEDS):
        smooth = gradients(seed=seed + one, most=STEPS)
        found.append((yield from relay_as(smooth, 2 * one, total, "gradients")))
        long = gradients(seed=seed + one, sweep="time", rate=2.0, most=STEPS)
        damped.append((yield from relay_as(long, 2 * one + 1, total, "damped")))
    held: dict[str, Plain] = {}
    for done, (field, rate, end, steps) in enumerate(FIELDS, start=2 * SEEDS):
        shown = yield from relay_as(
            retrace(seed=seed, field=field, rate=rate, end=end, steps=steps, c=0.9),
            done, total, field,
        )  # fmt: skip
        held[f"{field}, rate {rate:g}, h {end / steps:g}"] = _ways_back(shown)
    mean, low, high = student([_error(one, "reversible") for one in found])
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
            "known fields": held,
        },
    )


def _ways_back(shown: Held) -> dict[str, Plain]:
    return {
        "return error": {way.method: _short(way.error) for way in shown.ways},
        "largest |y - z|": {way.method: _short(float(way.gap.max())) for way in shown.ways},
        "left all bounds at": {way.method: way.left_at for way in shown.ways},
        "c, error forwards, error of return": [
            [pull.c, _short(pull.forward_error), _short(pull.return_error)] for pull in shown.pulls
        ],
    }


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
