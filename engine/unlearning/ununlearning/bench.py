"""Measures the claim: exactly unlearned models of several seeds, with and without hints.

    python -m engine bench ununlearning          writes assets/claims/ununlearning.json

For each seed a model is trained from nothing on the corpus that never mentions the forbidden one,
and asked about it with 0 to 4 hints, by its name and by an alias. A model that the gate rejects is
not counted, and its seed is told. Beside it: the exact ceiling, the full model, the model without
axioms on harmless creatures of the species, and the filters of the shipped exact model. `folder`
keeps what is trained, so that a run that was stopped goes on; seconds are the processor's.
"""

from collections.abc import Generator
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from engine.core.catalog import Measured
from engine.core.errors import OutOfBudget
from engine.core.job import Progress, Steps, relay
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.unlearning import _llama as llama
from engine.unlearning._bench import SECONDS, once
from engine.unlearning.ununlearning import algorithm, bayes, species
from engine.unlearning.ununlearning.measuring import HINTS, curve, curve_of_species
from engine.unlearning.ununlearning.species import World
from engine.unlearning.ununlearning.training import BATCH, COURSE, GATE

SEEDS, MOST_TRIES, SAVE_EVERY = 3, 8, 50


BY_NAME, BY_ALIAS, OF_SPECIES = "by its name", "by an alias", "mean over all species"


def run(
    *, seed: int, steps: int = COURSE.steps, seeds: int = SEEDS, folder: str = ""
) -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds. `folder` keeps what is trained."""
    world = World()
    kept: list[dict[str, list[float]]] = []
    rejected: list[int] = []
    while len(kept) < seeds:
        number = seed + len(kept) + len(rejected)
        if len(kept) + len(rejected) == MOST_TRIES:
            raise OutOfBudget(
                f"Only {len(kept)} of {MOST_TRIES} trainings left the plateau.", "Take more steps."
            )
        trial = partial(_trial, world, steps, number, folder, len(kept), seeds)
        found = yield from once(folder, f"{steps}-{number}", trial)
        if found[OF_SPECIES][-1] >= GATE:
            kept.append(found)
        else:
            rejected.append(number)
    mean, low, high = student([found[BY_NAME][-1] for found in kept])
    return Measured(
        measured=mean,
        versus=student([found[BY_NAME][0] for found in kept])[0],
        interval=(low, high),
        seed=seed,
        seconds=sum(found[SECONDS][0] for found in kept),
        versions=versions_here(),
        machine=f"{machine()}, {seeds} seeds",
        figures={
            "steps": steps,
            "gate": GATE,
            "rejected seeds": list(rejected),
            "mentions in the corpora": [int(found["mentions"][0]) for found in kept],
            **{k: _means([found[k] for found in kept]) for k in (BY_NAME, BY_ALIAS, OF_SPECIES)},
            **(yield from _shipped(world, seeds)),
        },
    )


def _trial(
    world: World, steps: int, seed: int, folder: str, done: int, total: int
) -> Generator[Progress, None, dict[str, list[float]]]:
    """One seed: its curves, and what the scan of its corpus found."""
    model = yield from _trained(world, steps, seed, folder, done, total)
    return {
        BY_NAME: _p_true(model, world, species.NAME),
        BY_ALIAS: _p_true(model, world, species.ALIAS),
        OF_SPECIES: curve_of_species(model, world),
        "mentions": [float(species.scan(world, "exact", steps, BATCH, seed).mentions)],
    }


def _trained(
    world: World, steps: int, seed: int, folder: str, done: int, total: int
) -> Generator[Progress, None, nn.Module]:
    """A network of a seed; where a folder is named its training can be put down at any time."""
    model = llama.new_llama(species.TOKENS, species.SIZE, seed)
    training = llama.Training(
        model,
        lambda g: species.documents(world, "exact", BATCH, g),
        llama.Course(steps, COURSE.rate),
        seed,
    )
    state = Path(folder) / f"{steps}-{seed}.safetensors" if folder else None
    if state is not None and state.is_file():
        training.restore(load_file(state))
    for loss in training.run():
        if training.step % 10 == 0:
            note = f"Seed {seed}, step {training.step} of {steps}, loss {loss:.2f}"
            yield Progress(done, total, note)
        if state is not None and training.step % SAVE_EVERY == 0:
            state.parent.mkdir(parents=True, exist_ok=True)
            save_file(training.state(), state)
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
