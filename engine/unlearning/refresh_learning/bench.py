"""Measures the claim: every way with and without refresh learning, over seeds, paired.

    python -m engine bench refresh-learning          writes assets/claims/refresh_learning.json

Split Fashion-MNIST, five tasks, 500 training and 300 test pictures of a class, one epoch. The claim
is about DER++ at the published delta; beside it stand the other ways, larger deltas, and the two
controls. Differences are paired by seed, in points, with the 95 % interval of Student's t.
"""

from collections.abc import Generator
from dataclasses import replace
from functools import partial

import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.unlearning._bench import SECONDS, once
from engine.unlearning.refresh_learning.continual import (
    TASKS,
    TITLES,
    WAYS,
    Course,
    Learner,
    Way,
)
from engine.unlearning.refresh_learning.continual import backward_transfer as transfer
from engine.unlearning.refresh_learning.refresh import Refresh

SEEDS, POINTS = 3, 100.0
PUBLISHED = "derpp, 1e-05"
DELTAS: dict[Way, tuple[float, ...]] = {"er": (1e-5, 1e-2), "derpp": (1e-5, 1e-3)}
FINAL, TRANSFER = "accuracy", "backward transfer"
Found = dict[str, list[dict[str, list[float]]]]
"""Final accuracy and backward transfer of every seed, by arm."""


def arms() -> dict[str, tuple[Course, Refresh | None]]:
    """By name; "WAY, 0" is the plain one that the others of its way are paired with."""
    found: dict[str, tuple[Course, Refresh | None]] = {
        f"{way}, 0": (Course(way), None) for way in WAYS
    }
    for way, deltas in DELTAS.items():
        for delta in deltas:
            found[f"{way}, {delta:g}"] = Course(way), Refresh(delta)
    for direction in ("random", "noise"):
        how = replace(Refresh(), direction=direction)
        found[f"derpp, {direction}"] = Course("derpp"), how
    return found


def run(*, seed: int, seeds: int = SEEDS, train: int = 500, folder: str = "") -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds, `train` the pictures of a class.

    `folder` keeps what is measured.
    """
    found: Found = {}
    listed = arms()
    total = seeds * len(listed)
    for number in range(seed, seed + seeds):
        for name, (course, how) in listed.items():
            done = sum(map(len, found.values()))
            part = partial(_learnt, replace(course, train=train), how, number, name, done, total)
            row = yield from once(folder, f"{train}-{number}-{name}", part)
            found.setdefault(name, []).append(row)
    mean, low, high = student(_differences(found, PUBLISHED))
    inside = low <= 0 <= high
    return Measured(
        measured=abs(mean),
        versus=1.0,
        interval=(0.0 if inside else min(abs(low), abs(high)), max(abs(low), abs(high))),
        seed=seed,
        seconds=sum(row[SECONDS][0] for rows in found.values() for row in rows),
        versions=versions_here(),
        machine=f"{machine()}, {seeds} seeds",
        figures={
            "training pictures of a class": train,
            "refresh minus plain, DER++, published size": [round(v, 3) for v in (mean, low, high)],
            **{name: _figures(found, name) for name in found},
        },
    )


def _learnt(
    course: Course, how: Refresh | None, seed: int, name: str, done: int, total: int
) -> Generator[Progress, None, dict[str, list[float]]]:
    """Final accuracy and backward transfer of one arm with one seed, in points."""
    learner, rows = Learner(course, how, seed), []
    for stage in learner.run():
        if stage.by_class is not None:
            rows.append(stage.by_class)
        if stage.step % 20 == 0 or stage.by_class is not None:
            yield Progress(done, total, f"{TITLES[course.way]}: {name}")
    matrix = torch.stack(rows)
    fell = transfer(matrix) if len(rows) == TASKS else 0.0
    return {FINAL: [POINTS * float(matrix[-1].mean())], TRANSFER: [POINTS * fell]}


def _differences(found: Found, name: str) -> list[float]:
    plain = found[f"{name.partition(',')[0]}, 0"]
    return [a[FINAL][0] - b[FINAL][0] for a, b in zip(found[name], plain, strict=True)]


def _figures(found: Found, name: str) -> dict[str, Plain]:
    figures: dict[str, Plain] = {
        part: [round(v, 2) for v in student([row[part][0] for row in found[name]])]
        for part in (FINAL, TRANSFER)
    }
    if not name.endswith(", 0"):
        paired = student(_differences(found, name))
        figures["minus plain"] = [round(v, 3) for v in paired]
    return figures
