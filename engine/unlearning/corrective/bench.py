"""Measures the claim over three seeds: poisoned networks, some of the poison flagged, all methods.

    python -m engine bench corrective       writes assets/claims/corrective.json

A seed draws which of the poisoned samples are flagged, and all that a method draws; the poisoned
network is the one that ships.

1. Poisoning, at each share that was found: SSD with the automatic settings. At a tenth also RewoD
   (trained anew), CF and SCRUB; and the network that was trained on the clean data, which is what
   RewoD comes to when everything is found.
2. Confused classes, on the network that ships: the original, CF, SCRUB, and the best that any
   setting of the grid reaches. That choice looks at the test, so it is called oracle; it is there
   to show that even so nothing helps.
"""

import time
from typing import TypeAlias

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import ModelRef, Plain, versions_here
from engine.metrics.intervals import student
from engine.models.library import load, with_tensors
from engine.unlearning._bench import SEEDS, columns, kept, network, rates
from engine.unlearning._dampening import Dampening, ratios
from engine.unlearning._importance import Importance, Measure
from engine.unlearning._nets import WORLDS, rewound
from engine.unlearning.corrective import rule
from engine.unlearning.corrective.algorithm import BATCH, importances, trained
from engine.unlearning.corrective.repair import Flags, Repair, judged, opened

GAMMAS = (0.05, 0.1)
TENTH = 0.1
RETAINED = 4000
TRAINED = ("CF", "SCRUB")
POISONED, CONFUSED, CLEAN = "fashion-poisoned", "fashion-confused", "fashion"
Pair: TypeAlias = tuple[Importance, Importance]


def run(*, seed: int, folder: str = "") -> Steps[Measured]:
    """Both manipulations."""
    begun = time.perf_counter()
    figures: dict[str, Plain] = {}
    rows: dict[str, list[float]] = {}
    for turn, one in enumerate(SEEDS):
        part = _poisoned(seed + one, folder, turn)
        found = yield from kept(folder, f"corrective-{seed + one}", part)
        figures[f"{POISONED}, seed {seed + one}"] = found
        for name, card in found.items():
            rows.setdefault(name, []).append(_rate(card, "attack_success"))
    confused = _confused(seed, len(SEEDS))
    figures[CONFUSED] = yield from kept(folder, "corrective-confused", confused)
    figures["attack success over seeds"] = columns(rows)
    measured, low, high = student(rows[f"SSD, {TENTH:g} flagged"])
    rewod = rows[f"RewoD, {TENTH:g} flagged"]
    return Measured(
        measured=measured,
        versus=sum(rewod) / len(rewod),
        interval=(low, high),
        seed=seed,
        seconds=time.perf_counter() - begun,
        versions=versions_here(),
        machine=machine(),
        figures=figures,
    )


def _poisoned(seed: int, folder: str, turn: int) -> Steps[dict[str, Plain]]:
    total = len(SEEDS) + 1
    anew = yield from network(rewound(WORLDS[POISONED], TENTH), seed, folder, turn, total)
    clean = load(ModelRef(CLEAN), dtype="float32").model
    yield Progress(turn, total, f"seed {seed}: the networks")
    tenth = opened(POISONED, Flags(TENTH), seed)
    found: dict[str, Plain] = {
        "original": _card(tenth, tenth.model, "original"),
        f"RewoD, {TENTH:g} flagged": _card(tenth, anew, "RewoD"),
        "trained on the clean data": _card(tenth, clean, "clean"),
    }
    for name in TRAINED:
        yield Progress(turn, total, f"seed {seed}: {name}")
        again = finish(trained(tenth, name, seed))
        found[f"{name}, {TENTH:g} flagged"] = _card(tenth, again, name)
    for gamma in GAMMAS:
        yield Progress(turn, total, f"seed {seed}: SSD, {gamma:g} flagged")
        repair = opened(POISONED, Flags(gamma), seed)
        found[f"SSD, {gamma:g} flagged"] = _dampened(repair, seed)
    return found


def _confused(seed: int, turn: int) -> Steps[dict[str, Plain]]:
    total = len(SEEDS) + 1
    repair = opened(CONFUSED, Flags(TENTH), seed)
    found: dict[str, Plain] = {"original": _card(repair, repair.model, "original")}
    for name in TRAINED:
        yield Progress(turn, total, f"confused classes: {name}")
        again = finish(trained(repair, name, seed))
        found[f"{name}, {TENTH:g} flagged"] = _card(repair, again, name)
    yield Progress(turn, total, "confused classes: SSD")
    found[f"SSD, {TENTH:g} flagged"] = _dampened(repair, seed)
    found[f"SSD, {TENTH:g} flagged, oracle"] = _oracle(repair, seed)
    return found


def _card(repair: Repair, net: nn.Module, name: str) -> dict[str, Plain]:
    return rates(finish(judged(repair, net, name)))


def _settings(repair: Repair, seed: int) -> tuple[Pair, tuple[Dampening, ...]]:
    """Both importances, and the grid for them."""
    measure = Measure("sample", batch=BATCH, seed=seed)
    pair = finish(importances(repair, measure, RETAINED, seed, None))
    return pair, rule.grid(ratios(*pair))


def _dampened(repair: Repair, seed: int) -> dict[str, Plain]:
    """By the rule, which does not look at the test."""
    pair, grid = _settings(repair, seed)
    assert repair.held_out is not None
    tried = finish(rule.tried(repair.model, pair, repair.flagged, repair.held_out, grid))
    best = rule.automatic(tried)
    return _edited(repair, pair, Dampening(best.alpha, best.lam))


def _oracle(repair: Repair, seed: int) -> dict[str, Plain]:
    """The setting with the largest sum of corrected and kept, on the test itself."""
    pair, grid = _settings(repair, seed)
    cards = [_edited(repair, pair, how) for how in grid]
    return max(cards, key=lambda card: _rate(card, "corrected") + _rate(card, "kept"))


def _edited(repair: Repair, pair: Pair, how: Dampening) -> dict[str, Plain]:
    net = with_tensors(repair.model, how.edit(repair.model.state_dict(), *pair))
    return {**_card(repair, net, "SSD"), "alpha": how.alpha, "lambda": how.lam}


def _rate(told: Plain, name: str) -> float:
    return float(told[name]["rate"])  # type: ignore[index,call-overload]
