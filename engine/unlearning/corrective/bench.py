"""Measures the claim over three seeds: poisoned networks, a tenth flagged, and all methods.

    python -m engine bench corrective       writes assets/claims/corrective.json

1. Poisoning: the original, then at every share that was found RewoD (trained anew), CF, SCRUB, BadT
   and SSD with the automatic settings, by both units.
2. Confused classes: the original, and the best that any setting of the grid reaches. That choice
   looks at the test, so it is called oracle; it is there to show that even so nothing helps.

`folder` keeps the trained networks, so that a run that was stopped goes on.
"""

import time
from collections.abc import Generator
from dataclasses import replace

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.models.library import with_tensors
from engine.unlearning._bench import SEEDS, columns, machine, network, rates
from engine.unlearning._dampening import Dampening, ratios
from engine.unlearning._importance import Measure
from engine.unlearning._nets import WORLDS, rewound
from engine.unlearning.corrective import rule
from engine.unlearning.corrective.algorithm import BATCH, UNITS, importances, trained
from engine.unlearning.corrective.repair import Flags, Repair, judged, opened

GAMMAS = (0.1, 0.5, 1.0)
TENTH = 0.1
RETAINED = 4000
TRAINED = ("CF", "SCRUB", "BadT")
KEYS = ("fashion-poisoned", "fashion-confused")


def run(*, seed: int, folder: str = "", gammas: tuple[float, ...] = GAMMAS) -> Steps[Measured]:
    """Both manipulations."""
    begun = time.perf_counter()
    total = len(SEEDS) * len(KEYS)
    figures: dict[str, Plain] = {}
    ours: list[float] = []
    theirs: list[float] = []
    for turn, one in enumerate(SEEDS):
        for step, key in enumerate(KEYS):
            done = turn * len(KEYS) + step
            net = yield from network(WORLDS[key], seed + one, folder, done, total)
            told: dict[str, Plain] = {}
            for gamma in gammas:
                yield Progress(done, total, f"{key}, seed {one}, {gamma:g} flagged")
                repair = _repair(key, net, gamma, seed + one)
                again = rewound(WORLDS[key], gamma)
                anew = yield from network(again, seed + one, folder, done, total)
                told[f"{gamma:g}"] = yield from _methods(repair, anew, seed + one, done, total)
            figures[f"{key}, seed {seed + one}"] = told
            if key == KEYS[0]:
                tenth: dict[str, Plain] = told[f"{TENTH:g}"]  # type: ignore[assignment]
                ours.append(_rate(tenth["SSD, sample"], "attack_success"))
                theirs.append(_rate(tenth["RewoD"], "attack_success"))
    measured, low, high = student(ours)
    figures["over seeds"] = columns({"SSD": ours, "RewoD": theirs})
    return Measured(
        measured=measured,
        versus=sum(theirs) / len(theirs),
        interval=(low, high),
        seed=seed,
        seconds=time.perf_counter() - begun,
        versions=versions_here(),
        machine=machine(),
        figures=figures,
    )


def _repair(key: str, net: nn.Module, gamma: float, seed: int) -> Repair:
    """The repair of a network that was trained on the manipulation of this seed."""
    flags = Flags("found share", gamma)
    repair = opened(key, flags, seed, data_seed=seed)
    return replace(repair, bundle=replace(repair.bundle, model=net))


def _methods(
    repair: Repair, anew: nn.Module, seed: int, done: int, total: int
) -> Generator[Progress, None, dict[str, Plain]]:
    found: dict[str, Plain] = {
        "original": rates(finish(judged(repair, repair.model, "original"))),
        "RewoD": rates(finish(judged(repair, anew, "RewoD"))),
    }
    for name in TRAINED:
        yield Progress(done, total, name)
        net = finish(trained(repair, name, seed))
        found[name] = rates(finish(judged(repair, net, name)))
    for unit in UNITS:
        yield Progress(done, total, f"SSD, {unit}")
        found |= _dampened(repair, unit, seed)
    return found


def _dampened(repair: Repair, unit: str, seed: int) -> dict[str, Plain]:
    """By the rule, and by an oracle that looks at the test."""
    measure = Measure(unit, batch=BATCH, seed=seed)  # type: ignore[arg-type]
    pair = finish(importances(repair, measure, RETAINED, seed, None))
    grid = rule.grid(ratios(*pair))
    assert repair.held_out is not None
    tried = finish(rule.tried(repair.model, pair, repair.flagged, repair.held_out, grid))
    best = rule.automatic(tried)
    state = repair.model.state_dict()

    def cards(how: Dampening) -> dict[str, Plain]:
        net = with_tensors(repair.model, how.edit(state, *pair))
        told = rates(finish(judged(repair, net, "SSD")))
        return {**told, "alpha": how.alpha, "lambda": how.lam}

    everything = [cards(how) for how in grid]
    return {
        f"SSD, {unit}": cards(Dampening(best.alpha, best.lam)),
        f"SSD, {unit}, oracle": max(everything, key=_both),
    }


def _both(told: dict[str, Plain]) -> float:
    """What the oracle maximises: corrected plus kept."""
    return _rate(told, "corrected") + _rate(told, "kept")


def _rate(told: Plain, name: str) -> float:
    return float(told[name]["rate"])  # type: ignore[index,call-overload]
