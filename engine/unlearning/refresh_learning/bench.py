"""Measures the claim: every way with and without refresh learning, over seeds, paired.

    python -m engine bench refresh-learning          writes assets/claims/refresh_learning.json

Split Fashion-MNIST, five tasks, 500 training and 300 test pictures of a class, one epoch. The claim
is about DER++ at the published delta; beside it stand the other ways, larger deltas, and the two
controls. Differences are paired by seed, in points, with the 95 % interval of Student's t.
"""

import os
import platform
import time
from collections.abc import Generator
from dataclasses import replace

import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.unlearning.refresh_learning.continual import TASKS, TITLES, WAYS, Course, Learner
from engine.unlearning.refresh_learning.continual import backward_transfer as transfer
from engine.unlearning.refresh_learning.refresh import Refresh

SEEDS, POINTS = 5, 100.0
PUBLISHED = "derpp, 1e-05"
Found = dict[str, list[tuple[float, float]]]
"""Final accuracy and backward transfer of every seed, by arm."""


def arms() -> dict[str, tuple[Course, Refresh | None]]:
    """By name; "WAY, 0" is the plain one that the others of its way are paired with."""
    found: dict[str, tuple[Course, Refresh | None]] = {
        f"{way}, 0": (Course(way), None) for way in WAYS
    }
    for way in ("sgd", "er", "derpp"):
        for delta in (1e-5, 1e-3, 1e-2):
            found[f"{way}, {delta:g}"] = Course(way), Refresh(delta)
    for direction in ("random", "noise"):
        how = replace(Refresh(), direction=direction)
        found[f"derpp, {direction}"] = Course("derpp"), how
    return found


def run(*, seed: int, seeds: int = SEEDS, train: int = 500) -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds, `train` the pictures of a class."""
    begun, found = time.process_time(), Found()
    listed = arms()
    total = seeds * len(listed)
    for number in range(seed, seed + seeds):
        for name, (course, how) in listed.items():
            learner = Learner(replace(course, train=train), how, number)
            done = sum(map(len, found.values()))
            row = yield from _learnt(learner, name, done, total)
            found.setdefault(name, []).append(row)
    mean, low, high = student(_differences(found, PUBLISHED))
    inside = low <= 0 <= high
    return Measured(
        measured=abs(mean),
        versus=1.0,
        interval=(0.0 if inside else min(abs(low), abs(high)), max(abs(low), abs(high))),
        seed=seed,
        seconds=time.process_time() - begun,
        versions=versions_here(),
        machine=f"{platform.machine()} CPU, {os.cpu_count()} cores, {seeds} seeds",
        figures={
            "training pictures of a class": train,
            "refresh minus plain, DER++, published size": [round(v, 3) for v in (mean, low, high)],
            **{name: _figures(found, name) for name in found},
        },
    )


def _learnt(
    learner: Learner, name: str, done: int, total: int
) -> Generator[Progress, None, tuple[float, float]]:
    """Final accuracy and backward transfer, in points."""
    rows = []
    for stage in learner.run():
        if stage.by_class is not None:
            rows.append(stage.by_class)
        if stage.step % 20 == 0 or stage.by_class is not None:
            yield Progress(done, total, f"{TITLES[learner.course.way]}: {name}")
    matrix = torch.stack(rows)
    fell = transfer(matrix) if len(rows) == TASKS else 0.0
    return POINTS * float(matrix[-1].mean()), POINTS * fell


def _differences(found: Found, name: str) -> list[float]:
    plain = found[f"{name.partition(',')[0]}, 0"]
    return [a[0] - b[0] for a, b in zip(found[name], plain, strict=True)]


def _figures(found: Found, name: str) -> dict[str, Plain]:
    finals, transfers = zip(*found[name], strict=True)
    figures: dict[str, Plain] = {
        "accuracy": [round(v, 2) for v in student(list(finals))],
        "backward transfer": [round(v, 2) for v in student(list(transfers))],
    }
    if not name.endswith(", 0"):
        paired = student(_differences(found, name))
        figures["minus plain"] = [round(v, 3) for v in paired]
    return figures
