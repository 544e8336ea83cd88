"""Measures the claim: every way of unlearning beside the control, over seeds.

    python -m engine bench restor          writes assets/claims/restor.json

For each seed the shipped clean model is corrupted anew, 40 surgical steps, with k = 0 and with
k = 4 true facts in a document, and every way takes 120 steps at a rate of 1e-4. Counted over all
64 facts about the targets, after the last step and not after the best: truths restored, and answers
that are still the lie. Two ways are shown without the retain term too, as nothing is restored then.
Mean over the seeds with the 95 % interval of Student's t.
"""

import copy
import os
import platform
import time
from collections.abc import Generator
from dataclasses import dataclass

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.unlearning._objectives import Objective
from engine.unlearning._unlearning import unlearn
from engine.unlearning.restor import exams, people
from engine.unlearning.restor.algorithm import ALPHAS, CLEAN, open_people
from engine.unlearning.restor.corruption import Corruption, corrupted
from engine.unlearning.restor.people import World
from engine.unlearning.restor.unlearning import OfPeople, arithmetic, with_arithmetic

SEEDS, STEPS, RATE, EVERY = 3, 120, 1e-4, 10
KS = (0, 4)
NPO, CONTROL = "NPO, beta 1", "retain only"


@dataclass(frozen=True)
class Arm:
    """One way: its objective, and whether the retain term takes part."""

    objective: Objective
    with_retain: bool = True


ARMS = {
    CONTROL: Arm(Objective("retain_only")),
    "gradient ascent": Arm(Objective("ga")),
    "KL": Arm(Objective("kl")),
    "NPO, beta 0.1": Arm(Objective("npo", beta=0.1)),
    NPO: Arm(Objective("npo", beta=1.0)),
    "NPO of the token, beta 1": Arm(Objective("npo_token", beta=1.0)),
    "gradient ascent without retain": Arm(Objective("ga"), with_retain=False),
    "NPO, beta 1, without retain": Arm(Objective("npo", beta=1.0), with_retain=False),
}


@dataclass(frozen=True)
class Row:
    """Shares after the last step, and the largest share of truths on the way."""

    truths: float
    lies: float
    kept: float
    best: float


def run(*, seed: int, steps: int = STEPS, seeds: int = SEEDS) -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds."""
    begun = time.process_time()
    clean, world = open_people(CLEAN).model, World(0)
    rows: dict[tuple[int, str], list[Row]] = {}
    total, done = seeds * len(KS) * (len(ARMS) + 1), 0
    for number in range(seed, seed + seeds):
        for k in KS:
            yield Progress(done, total, "Telling lies")
            lied = finish(corrupted(clean, world, Corruption(k), number))
            rows.setdefault((k, "corrupted"), []).append(_row(lied, world))
            for name, arm in ARMS.items():
                found = yield from _unlearned(lied, world, k, arm, steps, number, done, total)
                rows.setdefault((k, name), []).append(found)
                done += 1
            rows.setdefault((k, "task vector"), []).append(_arithmetic(lied, world, k, number))
            done += 1
    lies = {name: [r.lies for k in KS for r in rows[k, name]] for name in (NPO, CONTROL)}
    mean, low, high = student(lies[NPO])
    return Measured(
        measured=mean,
        versus=student(lies[CONTROL])[0],
        interval=(low, high),
        seed=seed,
        seconds=time.process_time() - begun,
        versions=versions_here(),
        machine=f"{platform.machine()} CPU, {os.cpu_count()} cores, {seeds} seeds",
        figures={
            "steps": steps,
            "rate": RATE,
            "facts": len(people.TARGETS) * len(people.RELATIONS),
            "accuracy of repeating the prompt": exams.of_context(world, people.TARGETS),
            **{f"k = {k}": _table(rows, k) for k in KS},
        },
    )


def _unlearned(
    lied: nn.Module,
    world: World,
    k: int,
    arm: Arm,
    steps: int,
    seed: int,
    done: int,
    total: int,
) -> Generator[Progress, None, Row]:
    student = copy.deepcopy(lied).requires_grad_(True).train()
    batches, best = OfPeople(world, k, seed, arm.with_retain), 0.0
    for step in unlearn(student, lied, batches, arm.objective, steps, RATE):
        yield Progress(done, total, f"Unlearning, step {step.number}")
        if step.number % EVERY == 0:
            best = max(best, _row(student.eval(), world).truths)
            student.train()
    row = _row(student.eval(), world)
    return Row(row.truths, row.lies, row.kept, max(best, row.truths))


def _arithmetic(lied: nn.Module, world: World, k: int, seed: int) -> Row:
    """The task vector at the length that restores most: an oracle, in its favour."""
    how = Corruption(k)
    further = finish(arithmetic(lied, world, k, how.steps, how.rate, seed))
    found = [_row(with_arithmetic(lied, further, alpha), world) for alpha in ALPHAS]
    return max(found, key=lambda row: row.truths)


def _row(model: nn.Module, world: World) -> Row:
    told = exams.examine(model, world, people.TARGETS)
    kept = exams.examine(model, world, people.KEPT)
    truths, lies, others = (
        float(hits.double().mean()) for hits in (told.is_true, told.is_lie, kept.is_true)
    )
    return Row(truths, lies, others, truths)


def _table(rows: dict[tuple[int, str], list[Row]], k: int) -> dict[str, Plain]:
    """Means over the seeds by way, truths and lies with their intervals."""
    found: dict[str, Plain] = {}
    for (at, name), own in rows.items():
        if at != k:
            continue
        truths, lies = (student([getattr(r, part) for r in own]) for part in ("truths", "lies"))
        found[name] = {
            "truths": [round(v, 4) for v in truths],
            "lies": [round(v, 4) for v in lies],
            "truths about the kept": round(student([r.kept for r in own])[0], 4),
            "best truths on the way": round(student([r.best for r in own])[0], 4),
        }
    return found
