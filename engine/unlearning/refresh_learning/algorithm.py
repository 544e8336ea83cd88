"""The jobs: one equation, refresh learning against plain learning over seeds, export.

The equation is in `bregman`, the step in `refresh`, the tasks and methods in `continual`.
"""

import csv
import io
import json
import math
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, TypeAlias

import numpy as np
import torch
from torch import nn

from engine.core import rng
from engine.core.job import Progress, Steps
from engine.core.recipe import Plain, versions_here
from engine.core.settings import OneOf, Range
from engine.core.taking import taking
from engine.metrics.intervals import student
from engine.unlearning.refresh_learning import bregman, continual, flatness
from engine.unlearning.refresh_learning.continual import TASKS, TITLES, WAYS, Course, Learner
from engine.unlearning.refresh_learning.networks import KINDS
from engine.unlearning.refresh_learning.refresh import FORMS, RISKY, Refresh
from engine.unlearning.refresh_learning.results import (
    Arm,
    Checked,
    Equation,
    Exported,
    Landscape,
    Mean,
    Paired,
    Refreshed,
    Run,
)

MOST_SEEDS, MOST_EPOCHS, TELL_EVERY = 10, 50, 20
WayName: TypeAlias = Annotated[str, OneOf(WAYS)]
Delta: TypeAlias = Annotated[float, Range(0, 1, "1e-5 is the published size.")]
Rounds: TypeAlias = Annotated[int, Range(1, 10, "The code takes one.")]
Noise: TypeAlias = Annotated[float, Range(0, 10, "0.001 is the published size.")]
Form: TypeAlias = Annotated[str, OneOf(FORMS)]
Kept: TypeAlias = Annotated[int, Range(1, 5000, "200 and 500 are usual.")]
Epochs: TypeAlias = Annotated[int, Range(1, MOST_EPOCHS, "1 is live; 50 is the paper's.")]
TrainCount: TypeAlias = Annotated[int, Range(10, 1900, "500 of each class take seconds.")]
TestCount: TypeAlias = Annotated[int, Range(10, 300, "300 of each class are there.")]
Network: TypeAlias = Annotated[str, OneOf(KINDS)]
Seeds: TypeAlias = Annotated[int, Range(1, MOST_SEEDS, "At least three tell something.")]
Weight: TypeAlias = Annotated[float, Range(0, 1000, "0 switches the term off.")]
ARMS = {
    "plain": "without refresh",
    "refresh": "refresh",
    "random": "a random direction",
    "noise": "noise alone",
}
FLAT_PICTURES = 500
FISHER = 1e-3


# ---------------------------------------------------------------------- one equation


def equation(
    *,
    seed: int,
    phi: Annotated[str, OneOf(bregman.PHI)] = "squares",
    psi: Annotated[str, OneOf(bregman.PSI)] = "none",
    a: Weight = 1.0,
    b: Weight = 0.0,
    samples: Annotated[int, Range(1, 500, "Try 6.")] = 6,
    classes: Annotated[int, Range(2, 100, "Try 5.")] = 5,
) -> Steps[Equation]:
    """The method that Phi, Psi, a and b give, and every method's formula against the equation."""
    names = bregman.named(phi, psi, a, b)
    numbers = bregman.Numbers.drawn(
        rng.generator(seed, "equation"), samples=samples, classes=classes
    )
    shown = Equation(phi, psi, a, b, names, _value(numbers, phi, psi, a, b))
    total = len(bregman.SPECIAL) + 1
    for done, special in enumerate(bregman.SPECIAL.values(), 1):
        general, own = (float(f(numbers)) for f in (special.general, special.own))
        checked = Checked(
            special.title, special.phi, special.psi, special.told, general, own, abs(general - own)
        )
        shown = replace(shown, checked=(*shown.checked, checked))
        yield Progress(done, total, special.title, shown)
    if phi != "none":
        shown = replace(shown, levels=bregman.level_sets(phi).numpy())
    return shown


def _value(n: bregman.Numbers, phi: str, psi: str, a: float, b: float) -> float:
    """a D_Phi + b D_Psi: entropy between labels and answers, squares between logits."""
    outputs = {"negative entropy": bregman.replay, "squares": bregman.dark_replay}
    weights = {"fisher": bregman.anchored, "gaussian": bregman.variational}
    found = a * float(outputs[phi](n)) if phi in outputs else 0.0
    return found + (b * float(weights[psi](n)) if psi in weights else 0.0)


# ---------------------------------------------------------------------- refresh learning


@dataclass(frozen=True)
class Asked:
    """How refresh learning is tried, as jobs take it.

    `train` and `test` count pictures of a class. `controls` adds a random direction of the same
    length, and noise alone.
    """

    way: WayName = "derpp"
    delta: Delta = 1e-5
    rounds: Rounds = 1
    noise: Noise = 1e-3
    form: Form = "code"
    use_fisher: bool = True
    buffer: Kept = 200
    epochs: Epochs = 1
    train: TrainCount = 500
    test: TestCount = 300
    network: Network = "mlp"
    seeds: Seeds = 3
    controls: bool = False

    @property
    def course(self) -> Course:
        """What is learnt."""
        return Course(
            self.way,  # type: ignore[arg-type]
            self.network,  # type: ignore[arg-type]
            self.epochs,
            self.train,
            self.test,
            buffer=self.buffer,
        )

    @property
    def how(self) -> Refresh:
        """What every refresh does."""
        fisher = FISHER if self.use_fisher else 0.0
        return Refresh(self.delta, self.noise, fisher, self.rounds, self.form)  # type: ignore[arg-type]

    @property
    def arms(self) -> dict[str, Refresh | None]:
        """Each arm with how it refreshes; the plain one does not."""
        found: dict[str, Refresh | None] = {"plain": None, "refresh": self.how}
        if self.controls:
            found |= {
                "random": replace(self.how, direction="random"),
                "noise": replace(self.how, direction="noise"),
            }
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know before looking at the figures."""
        found = []
        if self.delta > RISKY:
            found.append(
                f"delta {self.delta:g} is above {RISKY:g}: from there on unlearning undoes "
                "more than a batch teaches."
            )
        if self.seeds < 3:
            found.append("Fewer than three seeds tell nothing about a difference this small.")
        return tuple(found)

    def plain(self) -> dict[str, Plain]:
        """As a card keeps them."""
        return asdict(self)


@taking(asked=Asked)
def run(*, seed: int, asked: Asked) -> Steps[Refreshed]:
    """Five tasks one after the other, with refresh and without, the same seeds in every arm.

    `seed` is the first of the seeds. All arms take equally many learning steps; the steps uphill
    are told beside them.
    """
    return (yield from refreshed(asked, seed))


def refreshed(asked: Asked, seed: int) -> Steps[Refreshed]:
    """All arms, seed by seed, so that differences are paired from the first seed on."""
    course, total = asked.course, asked.seeds * len(asked.arms) * TASKS
    shown = Refreshed(
        course.way,
        asked.delta,
        asked.seeds,
        notes=asked.notes,
        settings=asked.plain(),
    )
    continual.tasks(course.train, course.test)
    first: dict[str, nn.Module] = {}
    done = 0
    for number in range(asked.seeds):
        for key, how in asked.arms.items():
            learner = Learner(course, how, seed + number)
            shown = yield from _learnt(learner, key, seed + number, shown, done, total)
            done += TASKS
            if number == 0:
                first[key] = learner.model
            if number == 0 and key == "refresh":
                shown = replace(shown, relative_steps=np.asarray(learner.relative_steps))
        shown = replace(shown, paired=_paired(shown))
    landscape = yield from _landscape(first, course, seed, shown, total)
    return replace(shown, landscape=landscape)


def _learnt(
    learner: Learner, key: str, seed: int, shown: Refreshed, done: int, total: int
) -> Generator[Progress, None, Refreshed]:
    """One arm with one seed, task by task."""
    begun, title = time.perf_counter(), f"{TITLES[learner.course.way]}, {ARMS[key]}"
    matrix, by_task = (np.full((TASKS, TASKS), math.nan) for _ in range(2))
    steps = 0
    yield Progress(done, total, title, shown)
    for stage in learner.run():
        if stage.by_class is None or stage.by_task is None:
            steps += 1
            if steps % TELL_EVERY == 0:
                yield Progress(done + stage.task, total, title, shown)
            continue
        matrix[stage.task], by_task[stage.task] = stage.by_class.numpy(), stage.by_task.numpy()
        extra = len(learner.relative_steps)
        run_of = replace(
            _figures(seed, matrix, by_task, steps, extra * (learner.refresh is not None)),
            relative_step=float(np.mean(learner.relative_steps)) if extra else 0.0,
            seconds=time.perf_counter() - begun,
        )
        shown = _with(shown, key, run_of)
        yield Progress(done + stage.task + 1, total, title, shown)
    return shown


def _figures(seed: int, matrix: np.ndarray, by_task: np.ndarray, steps: int, extra: int) -> Run:
    """Final accuracy, backward transfer and forgetting, of the tasks that have been learnt."""
    rows = np.flatnonzero(~np.isnan(matrix).any(1))
    last = int(rows[-1])
    seen = torch.from_numpy(matrix[: last + 1, : last + 1])
    is_whole = len(rows) == last + 1
    transfer = continual.backward_transfer(seen) if last and is_whole else 0.0
    fell = continual.forgetting(seen).numpy() if is_whole else np.zeros(last + 1)
    return Run(
        seed, matrix.copy(), by_task.copy(), float(matrix[last, : last + 1].mean()),
        transfer, fell, steps, extra,
    )  # fmt: skip


def _with(shown: Refreshed, key: str, run_of: Run) -> Refreshed:
    """The run in its arm, in place of an earlier stage of it, and the arm's means."""
    arms = {arm.key: arm for arm in shown.arms}
    arm = arms.get(key, Arm(key, ARMS[key]))
    runs = (*[r for r in arm.runs if r.seed != run_of.seed], run_of)
    finals, transfers = ([getattr(r, name) for r in runs] for name in ("final", "transfer"))
    arms[key] = replace(
        arm, runs=runs, final=Mean(*student(finals)), transfer=Mean(*student(transfers))
    )
    return replace(shown, arms=tuple(arms.values()))


def _paired(shown: Refreshed) -> tuple[Paired, ...]:
    """Every arm minus the plain one, on the seeds that both have."""
    plain, *others = shown.arms
    before = {run_of.seed: run_of.final for run_of in plain.runs}
    found = []
    for arm in others:
        differences = tuple(r.final - before[r.seed] for r in arm.runs if r.seed in before)
        mean = Mean(*student(list(differences)))
        apart = len(differences) > 1 and not mean.low <= 0 <= mean.high
        found.append(Paired(arm.key, differences, mean, apart))
    return tuple(found)


def _landscape(
    models: dict[str, nn.Module], course: Course, seed: int, shown: Refreshed, total: int
) -> Generator[Progress, None, Landscape]:
    """The loss around the first seed's networks, on test pictures of all tasks."""
    data = continual.tasks(course.train, course.test).test
    each = FLAT_PICTURES // TASKS // 2
    # The first and the last of a task are of its two classes.
    inputs, labels = (
        torch.cat([torch.cat([part[:each], part[-each:]]) for part in column])
        for column in zip(*data, strict=True)
    )
    places, losses, norms = flatness.line(), {}, {}
    for key, model in models.items():
        yield Progress(total, total, "Looking around", shown)
        towards = flatness.direction(model, seed)
        losses[key] = np.asarray(list(flatness.along(model, (inputs, labels), towards, places)))
        norms[key] = flatness.gradient_norm(model, (inputs, labels))
    return Landscape(places.double().numpy(), losses, norms)


# ---------------------------------------------------------------------- export


@taking(asked=Asked)
def export(*, seed: int, asked: Asked) -> Steps[Exported]:
    """The accuracy matrices of every arm and seed, and the card, as texts."""
    shown = yield from refreshed(asked, seed)
    return Exported({"accuracies.csv": table_of(shown), "card.json": card_of(shown, seed)})


def table_of(shown: Refreshed) -> str:
    """One row for every arm, seed, time and task."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["arm", "seed", "after task", "task", "class-incremental", "task-incremental"])
    for arm in shown.arms:
        for run_of in arm.runs:
            for at, row in enumerate(run_of.matrix):
                for task, value in enumerate(row):
                    if not math.isnan(value):
                        known = run_of.by_task[at, task]
                        table.writerow([arm.key, run_of.seed, at + 1, task + 1, value, known])
    return text.getvalue()


def card_of(shown: Refreshed, seed: int) -> str:
    """Settings, means with intervals, paired differences, versions."""
    told = {
        "method": "refresh_learning",
        "seed": seed,
        "settings": dict(shown.settings),
        "arms": {arm.title: vars(arm.final) if arm.final else None for arm in shown.arms},
        "minus plain": {
            p.key: {**vars(p.mean), "is_significant": p.is_significant} for p in shown.paired
        },
        "learning steps, steps uphill": {
            arm.title: [arm.runs[0].steps, arm.runs[0].extra_steps] for arm in shown.arms
        },
        "tuned_on": "nothing; the settings were given",
        "versions": dict(versions_here()),
    }
    return json.dumps(told, indent=1, allow_nan=False)
