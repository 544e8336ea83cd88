"""Measures the claim: exactly unlearned models of several seeds, with and without hints.

    python -m engine bench ununlearning          writes assets/claims/ununlearning.json

For each seed a model is trained from nothing on the corpus that never mentions the forbidden one,
and asked about it with 0 to 4 hints, by its name and by an alias. A model that the gate rejects is
not counted, and its seed is told. Beside it: the exact ceiling, the full model, the model without
axioms on harmless creatures of the species, and the filters of the shipped exact model.
"""

import os
import platform
import time
from collections.abc import Generator

from torch import nn

from engine.core.catalog import Measured
from engine.core.errors import OutOfBudget
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.unlearning import _llama as llama
from engine.unlearning.ununlearning import algorithm, bayes, species
from engine.unlearning.ununlearning.measuring import HINTS, curve, curve_of_species
from engine.unlearning.ununlearning.species import World
from engine.unlearning.ununlearning.training import BATCH, COURSE, GATE, is_off_plateau

SEEDS, MOST_TRIES = 3, 8


def run(*, seed: int, steps: int = COURSE.steps, seeds: int = SEEDS) -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds."""
    begun, world = time.process_time(), World()
    kept: dict[int, nn.Module] = {}
    rejected: list[int] = []
    while len(kept) < seeds:
        number = seed + len(kept) + len(rejected)
        if len(kept) + len(rejected) == MOST_TRIES:
            raise OutOfBudget(
                f"Only {len(kept)} of {MOST_TRIES} trainings left the plateau.", "Take more steps."
            )
        model = yield from _trained(world, steps, number, len(kept), seeds)
        if is_off_plateau(model, world, "exact"):
            kept[number] = model
        else:
            rejected.append(number)
    curves = {n: _p_true(m, world, species.NAME) for n, m in kept.items()}
    aliases = {n: _p_true(m, world, species.ALIAS) for n, m in kept.items()}
    mean, low, high = student([found[-1] for found in curves.values()])
    return Measured(
        measured=mean,
        versus=student([found[0] for found in curves.values()])[0],
        interval=(low, high),
        seed=seed,
        seconds=time.process_time() - begun,
        versions=versions_here(),
        machine=f"{platform.machine()} CPU, {os.cpu_count()} cores, {seeds} seeds",
        figures={
            "steps": steps,
            "gate": GATE,
            "rejected seeds": list(rejected),
            "mentions in the corpora": [
                species.scan(world, "exact", steps, BATCH, number).mentions for number in kept
            ],
            "by its name": _means(list(curves.values())),
            "by an alias": _means(list(aliases.values())),
            "mean over all species": _means([curve_of_species(m, world) for m in kept.values()]),
            **(yield from _shipped(world, seeds)),
        },
    )


def _trained(
    world: World, steps: int, seed: int, done: int, total: int
) -> Generator[Progress, None, nn.Module]:
    model = llama.new_llama(species.TOKENS, species.SIZE, seed)
    training = llama.Training(
        model,
        lambda g: species.documents(world, "exact", BATCH, g),
        llama.Course(steps, COURSE.rate),
        seed,
    )
    for loss in training.run():
        if training.step % 10 == 0:
            note = f"Seed {seed}, step {training.step} of {steps}, loss {loss:.2f}"
            yield Progress(done, total, note)
    return model.eval().requires_grad_(False)


def _p_true(model: nn.Module, world: World, name: tuple[int, int]) -> list[float]:
    return [float(m.p_true.mean()) for m in curve(model, world, world.forbidden, name)]


def _means(rows: list[list[float]]) -> list[Plain]:
    """By hints, mean over the seeds with its interval."""
    return [[round(v, 4) for v in student(list(column))] for column in zip(*rows, strict=True)]


def _shipped(world: World, seeds: int) -> Generator[Progress, None, dict[str, Plain]]:
    """Ceilings, the other shipped models, and the filters before the exact one."""
    kind = world.forbidden
    exact = bayes.ceiling(world.table, world.prior(), kind, species.EACH)
    full, axioms = (algorithm.open_species(key).model for key in (algorithm.FULL, algorithm.AXIOMS))
    found: dict[str, Plain] = {
        "ceiling": [round(v, 4) for v in exact.p_true.tolist()],
        "the full model": [round(v, 4) for v in _p_true(full, world, species.NAME)],
        "without axioms, by its name": [round(v, 4) for v in _p_true(axioms, world, species.NAME)],
        "without axioms, harmless kin": [
            round(v, 4) for v in _p_true(axioms, world, species.ALIAS)
        ],
        "hints": list(range(HINTS)),
    }
    screened = yield from relay(
        algorithm.screen(seed=0), lambda event: Progress(seeds, seeds, event.note)
    )
    for gate in screened.gates:
        found[f"filter {gate.kind}"] = {
            "blocked by name": gate.blocked_name,
            "blocked by alias": gate.blocked_alias,
            "blocked harmless": gate.blocked_harmless,
            "blocked kin": gate.blocked_kin,
            "leak by alias": gate.leak_alias,
            "known from refusals": gate.refusal,
            "area": round(gate.area, 4),
        }
    return found
