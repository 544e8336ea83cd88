"""Measures the claim on the embedded world.

    python -m engine bench few-shot-erasing          writes assets/claims/few_shot_erasing.json

1. Four objects, chosen before anything was drawn, each forgotten three times with the default
   settings, from other pictures and noise each time: the share of prompts with the word, and of
   others, that show what they name, before and after. UCE erases the same words beside it.
2. On the first of them the curve against steps for every choice of parameters, both controls, and
   the other methods of this family; the same prompts and noise throughout.
3. A baked patch applied and undone: the share of equal bits, by number format.

Pictures to learn from are drawn with other seeds than anything that is examined. The interval of
the claim is a bootstrap over the runs of 1, which differ more than the pictures of one run do;
other rates have Wilson's.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product

import numpy as np
from numpy.typing import NDArray

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay_as
from engine.core.recipe import ModelRef, Plain
from engine.erasing._evaluation import Protocol
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing._subject import Subject
from engine.erasing.few_shot_erasing import COMPARED
from engine.erasing.few_shot_erasing.algorithm import courses
from engine.erasing.few_shot_erasing.learning import Forgotten, remembered
from engine.erasing.few_shot_erasing.results import Course, CoursePoint, Curve
from engine.erasing.few_shot_erasing.settings import FewShotSettings
from engine.metrics.intervals import Mean, Rate, bootstrap
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle

CONCEPTS = ("penguin", "cactus", "rocket", "guitar")
RIVAL = "UCE"
EACH, TIMES, STUDY_EACH, STUDY_EPOCHS, STUDY_POINTS, STEPS = 8, 3, 6, 10, 2, 10


def run(
    *, seed: int, model: ModelRef | str = "world", concepts: Sequence[str] = CONCEPTS,
    each: int = EACH, times: int = TIMES, study: bool = True,
) -> Steps[Measured]:  # fmt: skip
    """All three."""
    begun = time.perf_counter()
    total = times * len(concepts) + 2
    yield Progress(0, total, "Loading the model")
    bundle = drawing.in_float32(drawing.open_bundle(model))
    found: dict[str, list[Course]] = {}
    beside: dict[str, list[Course]] = {}
    for done, (concept, again) in enumerate(product(concepts, range(times))):
        settings = FewShotSettings(concept=concept)
        protocol = Protocol(each=each, steps=STEPS, batch=8)
        steps = _curve(bundle, settings, protocol, (RIVAL,), 1, seed + again)
        ours, rival = (yield from relay_as(steps, done, total, concept)).courses
        found.setdefault(concept, []).append(ours)
        beside.setdefault(concept, []).append(rival)
    studied: dict[str, Plain] = {}
    if study:
        settings = FewShotSettings(concept=concepts[0], epochs=STUDY_EPOCHS)
        protocol = Protocol(each=STUDY_EACH, steps=STEPS, batch=8)
        others = tuple(name for name in COMPARED if name != settings.parameters)
        curve = _curve(bundle, settings, protocol, others, STUDY_POINTS, seed)
        whole = yield from relay_as(curve, total - 2, total, "study")
        studied = {course.name: _plain(course) for course in whole.courses}
    yield Progress(total - 1, total, "Baking and undoing")
    forgotten = yield from relay_as(
        remembered(bundle, FewShotSettings(concept=concepts[0]), seed), total - 1, total, "undo"
    )
    before, after = _ends(found)
    forgot, lost = _taken_off(before, after)
    rival_forgot, rival_lost = _taken_off(before, _ends(beside)[1])
    return Measured.of(
        measured=float(forgot.mean()),
        versus=float(lost.mean()),
        interval=bootstrap(forgot),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "settings": {k: v for k, v in FewShotSettings().plain().items() if k != "concept"},
            "points taken off": {
                "prompts with the word": asdict(Mean.of_values(forgot)),
                "other prompts": asdict(Mean.of_values(lost)),
                f"{RIVAL}, prompts with the word": asdict(Mean.of_values(rival_forgot)),
                f"{RIVAL}, other prompts": asdict(Mean.of_values(rival_lost)),
            },
            "kept before": asdict(Rate.pooled([p.kept for p in before])),
            "kept after": asdict(Rate.pooled([p.kept for p in after])),
            "near kept before": asdict(Rate.pooled([p.near for p in before])),
            "near kept after": asdict(Rate.pooled([p.near for p in after])),
            "by concept": {
                name: [_plain(one) for one in courses] for name, courses in found.items()
            },
            f"study on {concepts[0]}": studied,
            "equal bits after undo": undone(bundle, forgotten),
        },
    )


def _ends(courses: Mapping[str, Sequence[Course]]) -> tuple[list[CoursePoint], list[CoursePoint]]:
    """The first and the last point of every run."""
    runs = [course for each in courses.values() for course in each]
    return [run.points[0] for run in runs], [run.points[-1] for run in runs]


def _taken_off(
    before: Sequence[CoursePoint], after: Sequence[CoursePoint]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each run takes off the share of prompts with the word that show it, and of others."""
    pairs = list(zip(before, after, strict=True))
    return (
        np.array([start.target.rate - end.target.rate for start, end in pairs]),
        np.array([start.kept.rate - end.kept.rate for start, end in pairs]),
    )


def undone(bundle: DiffusionBundle, forgotten: Forgotten) -> dict[str, float]:
    """Share of equal bits after applying and undoing the patch, by number format."""
    state, learnt = bundle.model.state_dict(), forgotten.epochs[-1]
    old = {name: state[name] for name in forgotten.names}
    return equal_bits_after_undo(
        old,
        lambda now: {name: learnt[name].to(now[name].dtype) for name in now},
        "few_shot_erasing",
    )


def _curve(
    bundle: DiffusionBundle,
    settings: FewShotSettings,
    protocol: Protocol,
    compared: Sequence[str],
    points: int,
    seed: int,
) -> Steps[Curve]:
    subject = Subject.of(settings.concept)
    return courses(bundle, settings, subject, protocol, compared, points, seed)


def _plain(course: Course) -> list[Plain]:
    return [_point(point) for point in course.points]


def _point(point: CoursePoint) -> dict[str, Plain]:
    return {
        "steps": point.steps,
        "target": asdict(point.target),
        "near": asdict(point.near),
        "far": asdict(point.far),
        "mean change of other pictures": point.change,
        "prompts with the word show": dict(point.became),
    }
