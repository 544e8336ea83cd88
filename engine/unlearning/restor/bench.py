"""Measures the claim: every way of unlearning beside the control, over seeds.

    python -m engine bench restor          writes assets/claims/restor.json

For each seed the shipped clean model is corrupted anew, 40 surgical steps, with k = 0 and with
k = 4 true facts in a document, and every way takes 120 steps at a rate of 1e-4. Counted over all
64 facts about the targets, after the last step and not after the best: truths restored, and answers
that are still the lie. Two ways are shown without the retain term too, as nothing is restored then.
Mean over the seeds with the 95 % interval of Student's t. `folder` keeps what is measured, so that
a run that was stopped goes on; seconds are the processor's.
"""

import copy
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.unlearning._bench import SECONDS, once
from engine.unlearning._objectives import Objective
from engine.unlearning._unlearning import unlearn
from engine.unlearning.restor import exams, people
from engine.unlearning.restor.algorithm import ALPHAS, CLEAN, open_people
from engine.unlearning.restor.corruption import Corruption, corrupted
from engine.unlearning.restor.people import World
from engine.unlearning.restor.unlearning import OfPeople, arithmetic, with_arithmetic

SEEDS, STEPS, RATE, EVERY = 3, 120, 1e-4, 10
KS = (0, 4)
NPO, CONTROL, CORRUPTED, VECTOR = "NPO, beta 1", "retain only", "corrupted", "task vector"


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

AGAIN = (CONTROL, "gradient ascent", "KL", NPO)  # with k = 4


Row = dict[str, list[float]]
"""Of one way, seed and k: shares of truths, lies and truths about the kept, best truths."""


def run(*, seed: int, steps: int = STEPS, seeds: int = SEEDS, folder: str = "") -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds. `folder` keeps what is measured."""
    clean, world = open_people(CLEAN).model, World(0)
    rows: dict[tuple[int, str], list[Row]] = {}
    total, done = seeds * len(KS), 0
    for number in range(seed, seed + seeds):
        for k in KS:
            part = _Part(clean, world, k, steps, number, done, total)
            for name in (CORRUPTED, *ARMS, VECTOR) if k == 0 else (CORRUPTED, *AGAIN):
                row = yield from once(folder, f"{k}-{number}-{name}", partial(part.row, name))
                rows.setdefault((k, name), []).append(row)
            done += 1
    lies = {name: [r["lies"][0] for k in KS for r in rows[k, name]] for name in (NPO, CONTROL)}
    mean, low, high = student(lies[NPO])
    return Measured(
        measured=mean,
        versus=student(lies[CONTROL])[0],
        interval=(low, high),
        seed=seed,
        seconds=sum(row[SECONDS][0] for found in rows.values() for row in found),
        versions=versions_here(),
        machine=f"{machine()}, {seeds} seeds",
        figures={
            "steps": steps,
            "rate": RATE,
            "facts": len(people.TARGETS) * len(people.RELATIONS),
            "accuracy of repeating the prompt": exams.of_context(world, people.TARGETS),
            **{f"k = {k}": _table(rows, k) for k in KS},
        },
    )


@dataclass(eq=False)
class _Part:
    """One seed with one k: the corrupted model, made when it is first asked for, and the ways."""

    clean: nn.Module
    world: World
    k: int
    steps: int
    seed: int
    done: int
    total: int

    @cached_property
    def lied(self) -> nn.Module:
        """The clean model after forty surgical steps."""
        return finish(corrupted(self.clean, self.world, Corruption(self.k), self.seed))

    def row(self, name: str) -> Generator[Progress, None, Row]:
        """Where one way ends."""
        yield Progress(self.done, self.total, f"k = {self.k}, seed {self.seed}: {name}")
        if name == CORRUPTED:
            return _row(self.lied, self.world)
        if name == VECTOR:
            return self._arithmetic()
        return (yield from self._unlearned(ARMS[name]))

    def _unlearned(self, arm: Arm) -> Generator[Progress, None, Row]:
        student = copy.deepcopy(self.lied).requires_grad_(True).train()
        batches, best = OfPeople(self.world, self.k, self.seed, arm.with_retain), 0.0
        for step in unlearn(student, self.lied, batches, arm.objective, self.steps, RATE):
            yield Progress(self.done, self.total, f"Unlearning, step {step.number}")
            if step.number % EVERY == 0:
                best = max(best, _row(student.eval(), self.world)["truths"][0])
                student.train()
        row = _row(student.eval(), self.world)
        return {**row, "best": [max(best, row["truths"][0])]}

    def _arithmetic(self) -> Row:
        """The task vector at the length that restores most: an oracle, in its favour."""
        how = Corruption(self.k)
        further = finish(arithmetic(self.lied, self.world, self.k, how.steps, how.rate, self.seed))
        found = [_row(with_arithmetic(self.lied, further, alpha), self.world) for alpha in ALPHAS]
        return max(found, key=lambda row: row["truths"])


def _row(model: nn.Module, world: World) -> Row:
    told = exams.examine(model, world, people.TARGETS)
    kept = exams.examine(model, world, people.KEPT)
    truths, lies, others = (
        float(hits.double().mean()) for hits in (told.is_true, told.is_lie, kept.is_true)
    )
    return {"truths": [truths], "lies": [lies], "kept": [others], "best": [truths]}


def _table(rows: Mapping[tuple[int, str], list[Row]], k: int) -> dict[str, Plain]:
    """Means over the seeds by way, truths and lies with their intervals."""
    found: dict[str, Plain] = {}
    for (at, name), own in rows.items():
        if at != k:
            continue
        truths, lies, kept, best = (
            student([row[part][0] for row in own]) for part in ("truths", "lies", "kept", "best")
        )
        found[name] = {
            "truths": [round(v, 4) for v in truths],
            "lies": [round(v, 4) for v in lies],
            "truths about the kept": round(kept[0], 4),
            "best truths on the way": round(best[0], 4),
        }
    return found
