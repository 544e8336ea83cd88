"""Measures the claim over three seeds: poisoned networks, some of the poison flagged, all methods.

    python -m engine bench corrective       writes assets/claims/corrective.json

A seed is one training of a network on one draw of the poison, and draws what of it is flagged and
all that a method draws: intervals are over networks, not over flags of one. The network of seed 0
is the one that ships.

1. Poisoning, at each share that was found: RewoD, trained anew, and SSD by both gradient units with
   the automatic settings. At a tenth also CF, SCRUB and BadT, each with the settings of the
   publication and with those that the same rule chooses; and a network that was trained on the
   clean data, which is what RewoD comes to when everything is found.
2. Confused classes and labels dealt out at random: the original, the ways that train with the
   settings of the rule, SSD, and the best that any setting of SSD's grid reaches. That last choice
   looks at the test, so it is called oracle; it is there to show that even so nothing helps.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from engine.core.catalog import Measured
from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.models.library import MODELS, with_tensors
from engine.unlearning._bench import SEEDS, columns, kept, network, rates
from engine.unlearning._dampening import Dampening, ratios
from engine.unlearning._importance import Importance, Measure, Unit
from engine.unlearning._nets import WORLDS, rewound
from engine.unlearning.corrective import rule
from engine.unlearning.corrective.algorithm import BATCH, importances, trained, tuned
from engine.unlearning.corrective.repair import Flags, Repair, judged, opened

GAMMAS = (0.1, 0.3, 0.5, 0.8, 0.9, 1.0)
TENTH = 0.1
RETAINED = 4000
TRAINED = ("CF", "SCRUB", "BadT")
UNITS: tuple[Unit, ...] = ("sample", "mixed")
POISONED, CLEAN = "fashion-poisoned", "fashion"
MISLABELLED = ("fashion-confused", "fashion-random-labels")
RATES = ("attack_success", "corrected", "kept")
Pair: TypeAlias = tuple[Importance, Importance]
Cards: TypeAlias = dict[str, Plain]


def run(*, seed: int, folder: str = "") -> Steps[Measured]:
    """All three manipulations. Raises `AssetMissing` where one of their networks is not built."""
    for key in (POISONED, *MISLABELLED):
        if key not in MODELS:
            raise AssetMissing(f"{key} is not built.", f"Run: python -m engine.zoo build {key}")
    begun = time.perf_counter()
    figures: dict[str, Plain] = {}
    found: dict[str, list[Cards]] = {key: [] for key in (POISONED, *MISLABELLED)}
    for one in (seed + turn for turn in SEEDS):
        poisoned: Cards = {}
        for gamma in GAMMAS:
            part = _at_share(gamma, one, folder)
            poisoned |= yield from kept(folder, f"corrective-{one}-{gamma:g}", part)
        poisoned |= yield from kept(folder, f"corrective-{one}", _ways(one, folder))
        figures[f"{POISONED}, seed {one}"] = poisoned
        found[POISONED].append(poisoned)
        for key in MISLABELLED:
            part = _mislabelled(key, one, folder)
            cards = yield from kept(folder, f"corrective-{key}-{one}", part)
            figures[f"{key}, seed {one}"] = cards
            found[key].append(cards)
    for key, of_seeds in found.items():
        figures |= _over_seeds(key, of_seeds)
    success = {
        n: _column(found[POISONED], n, "attack_success") for n in (_ssd(TENTH), _rewod(TENTH))
    }
    measured, low, high = student(success[_ssd(TENTH)])
    rewod = success[_rewod(TENTH)]
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


def _ssd(gamma: float, unit: str = "sample") -> str:
    return f"SSD, {gamma:g} flagged" if unit == "sample" else f"SSD by {unit}, {gamma:g} flagged"


def _rewod(gamma: float) -> str:
    return f"RewoD, {gamma:g} flagged"


def _over_seeds(key: str, of_seeds: list[Cards]) -> dict[str, Plain]:
    """Each rate of each network, with its interval over the seeds."""
    names, before = list(of_seeds[0]), "" if key == POISONED else f"{key}, "
    found: dict[str, Plain] = {}
    for rate in RATES:
        rows = {n: _column(of_seeds, n, rate) for n in names if rate in of_seeds[0][n]}  # type: ignore[operator]
        if rows:
            found[f"{before}{rate.replace('_', ' ')} over seeds"] = columns(rows)
    return found


def _column(of_seeds: list[Cards], name: str, rate: str) -> list[float]:
    return [_rate(cards[name], rate) for cards in of_seeds]


# ---------------------------------------------------------------------- poison


def _poisoned(gamma: float, seed: int, folder: str) -> Steps[Repair]:
    """The repair of this seed's own network, trained on this seed's own poison."""
    own = yield from network(WORLDS[POISONED], seed, folder, 0, 1)
    return _of(opened(POISONED, Flags(gamma), seed, data_seed=seed), own)


def _of(repair: Repair, net: nn.Module) -> Repair:
    return replace(repair, bundle=replace(repair.bundle, model=net))


def _at_share(gamma: float, seed: int, folder: str) -> Steps[Cards]:
    anew = yield from network(rewound(WORLDS[POISONED], gamma), seed, folder, 0, 1)
    repair = yield from _poisoned(gamma, seed, folder)
    found: Cards = {_rewod(gamma): _card(repair, anew, "RewoD")}
    for unit in UNITS:
        yield Progress(0, 1, f"seed {seed}: SSD, {gamma:g} flagged, {unit}")
        found[_ssd(gamma, unit)] = _dampened(repair, seed, unit)
    return found


def _ways(seed: int, folder: str) -> Steps[Cards]:
    """The original, one that was trained on clean data, and the ways that train, at a tenth."""
    clean = yield from network(WORLDS[CLEAN], seed, folder, 0, 1)
    repair = yield from _poisoned(TENTH, seed, folder)
    found: Cards = {
        "original": _card(repair, repair.model, "original"),
        "trained on the clean data": _card(repair, clean, "clean"),
    }
    for name in TRAINED:
        yield Progress(0, 1, f"seed {seed}: {name}")
        again = finish(trained(repair, name, seed))
        found[f"{name}, {TENTH:g} flagged"] = _card(repair, again, name)
        found[f"{name} tuned, {TENTH:g} flagged"] = _tuned(repair, name, seed)
    return found


# ---------------------------------------------------------------------- wrong labels


def _mislabelled(key: str, seed: int, folder: str) -> Steps[Cards]:
    own = yield from network(WORLDS[key], seed, folder, 0, 1)
    repair = _of(opened(key, Flags(TENTH), seed, data_seed=seed), own)
    found: Cards = {"original": _card(repair, own, "original")}
    for name in TRAINED:
        yield Progress(0, 1, f"{key}, seed {seed}: {name}")
        found[f"{name} tuned, {TENTH:g} flagged"] = _tuned(repair, name, seed)
    yield Progress(0, 1, f"{key}, seed {seed}: SSD")
    found[_ssd(TENTH)] = _dampened(repair, seed, "sample")
    found[f"{_ssd(TENTH)}, oracle"] = _oracle(repair, seed)
    return found


# ---------------------------------------------------------------------- edits


def _card(repair: Repair, net: nn.Module, name: str) -> Cards:
    return rates(finish(judged(repair, net, name)))


def _tuned(repair: Repair, name: str, seed: int) -> Cards:
    """A way that trains, with the settings that the rule takes."""
    net, tried = finish(tuned(repair, name, seed))
    best: Mapping[str, float] = max(tried, key=lambda one: one.score).settings
    return {**_card(repair, net, name), "settings": dict(best)}


def _settings(repair: Repair, seed: int, unit: Unit) -> tuple[Pair, tuple[Dampening, ...]]:
    """Both importances, and the grid for them."""
    measure = Measure(unit, batch=BATCH, seed=seed)
    pair = finish(importances(repair, measure, RETAINED, seed, None))
    return pair, rule.grid(ratios(*pair))


def _dampened(repair: Repair, seed: int, unit: Unit) -> Cards:
    """By the rule, which does not look at the test."""
    pair, grid = _settings(repair, seed, unit)
    assert repair.held_out is not None
    tried = finish(rule.tried(repair.model, pair, repair.flagged, repair.held_out, grid))
    best = rule.automatic(tried)
    return _edited(repair, pair, Dampening(best.alpha, best.lam))


def _oracle(repair: Repair, seed: int) -> Cards:
    """The setting with the largest sum of corrected and kept, on the test itself."""
    pair, grid = _settings(repair, seed, "sample")
    cards = [_edited(repair, pair, how) for how in grid]
    return max(cards, key=lambda card: _rate(card, "corrected") + _rate(card, "kept"))


def _edited(repair: Repair, pair: Pair, how: Dampening) -> Cards:
    net = with_tensors(repair.model, how.edit(repair.model.state_dict(), *pair))
    return {**_card(repair, net, "SSD"), "alpha": how.alpha, "lambda": how.lam}


def _rate(told: Plain, name: str) -> float:
    return float(told[name]["rate"])  # type: ignore[index,call-overload]
