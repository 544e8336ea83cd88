"""Measures the claim over three seeds, beside retraining, and where it does not appear.

    python -m engine bench ssd          writes assets/claims/ssd.json

1. Bags: the original, the retrained network, and SSD by each gradient unit with the automatic
   alpha and both lambdas of the paper, each seed with networks of its own. Lambda 0.1 was chosen on
   the network of seed 0; those of the other seeds had no part in it.
2. The ways beside it on the same networks, with the epochs of their publications. Their settings
   are chosen on the network of seed 0, too, by accuracies on the forget set and on retained data.
3. T-shirts, whose neighbours are shirts: alpha along a grid, so that one sees how far the useful
   one is from that of the bags.
4. With `speed_too`, seconds: importances from nothing and stored, against retraining; and the
   engines against one another: `speed`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.models.library import with_tensors
from engine.unlearning import _stored as stored
from engine.unlearning._baselines import WAYS, Sets, Trained
from engine.unlearning._bench import (
    SEEDS,
    columns,
    kept,
    network,
    rates,
    with_network,
)
from engine.unlearning._card import Card
from engine.unlearning._case import Case, Forget, judged, opened
from engine.unlearning._dampening import Changed, Dampening, automatic_alpha, ratios
from engine.unlearning._importance import UNITS, Importance, Measure
from engine.unlearning._nets import WORLDS
from engine.unlearning._settings import LAMBDA
from engine.unlearning.ssd import speed

SHARES = (0.005, 0.01, 0.02, 0.05)
LAMBDAS = (LAMBDA, 1.0)
GRIDS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "fine-tuning": tuple({"epochs": 5, "rate": rate} for rate in (0.02, 0.1)),
    "amnesiac": tuple({"epochs": 3, "rate": rate} for rate in (1e-4, 1e-3)),
    "bad teacher": tuple({"rate": rate} for rate in (1e-4, 1e-3)),
    "UNSIR": ({},),
    "SCRUB": tuple({"alpha": alpha} for alpha in (0.001, 0.1, 1.0)),
    "Fisher forgetting": tuple({"alpha": alpha} for alpha in (1e-7, 1e-6, 1e-5)),
}


def run(*, seed: int, folder: str = "", speed_too: bool = True) -> Steps[Measured]:
    """All of it."""
    begun = time.perf_counter()
    figures: dict[str, Plain] = {}
    after: list[float] = []
    before: list[float] = []
    chosen = yield from kept(folder, f"ssd-chosen-{seed}", _chosen(seed, folder))
    for turn, one in enumerate(SEEDS):
        found = yield from kept(folder, f"ssd-{seed + one}", _of_seed(seed + one, folder, turn))
        part = _beside(seed + one, folder, chosen)
        beside = yield from kept(folder, f"ssd-beside-{seed + one}", part)
        figures[f"seed {seed + one}"] = {**found, **beside}
        after.append(_share(found[f"SSD, sample, lambda {LAMBDA:g}"], "forget_test"))
        before.append(_share(found["original"], "forget_test"))
    if speed_too:
        yield Progress(len(SEEDS), len(SEEDS) + 1, "Speed")
        figures["speed"] = yield from speed.measured(seed)
    measured, low, high = student(after)
    figures["over seeds"] = columns({"after": after, "before": before})
    return Measured(
        measured=measured,
        versus=sum(before) / len(before),
        interval=(low, high),
        seed=seed,
        seconds=time.perf_counter() - begun,
        versions=versions_here(),
        machine=machine(),
        figures=figures,
    )


def _of_seed(seed: int, folder: str, turn: int) -> Steps[dict[str, Plain]]:
    total = len(SEEDS) + 1
    original = yield from network(WORLDS["fashion"], seed, folder, turn, total)
    retrained = yield from network(WORLDS["fashion-without-bag"], seed, folder, turn, total)
    yield Progress(turn, total, f"seed {seed}: bags")
    found = _bags(original, retrained, seed)
    yield Progress(turn, total, f"seed {seed}: T-shirts")
    return {**found, "T-shirts": _neighbours(original, seed)}


def _bags(original: nn.Module, retrained: nn.Module, seed: int) -> dict[str, Plain]:
    case = with_network(opened("fashion", Forget("class", "bag"), seed), original)
    found: dict[str, Plain] = {
        "original": rates(_judged(case, original, "original", seed)),
        "retrained": rates(_judged(case, retrained, "retrained", seed)),
    }
    for unit in UNITS:
        pair = importances(case, Measure(unit, seed=seed))
        alpha = automatic_alpha(ratios(*pair))
        for lam in LAMBDAS:
            told = rates(_dampened(case, pair, Dampening(alpha, lam), seed))
            found[f"SSD, {unit}, lambda {lam:g}"] = {**told, "alpha": alpha}
    return found


# ---------------------------------------------------------------------- the ways beside it


def _chosen(seed: int, folder: str) -> Steps[dict[str, Plain]]:
    """The settings of each way that forget most and keep most, on the first network's own data."""
    case = yield from _case(seed, folder)
    found: dict[str, Plain] = {}
    for name, grid in GRIDS.items():
        best = -1.0
        for settings in grid:
            yield Progress(0, 1, f"settings of {name}")
            card = rates(_judged(case, _made(case, name, settings, seed), name, seed))
            score = _share(card, "retain_train") - _share(card, "forget_train")
            if score > best:
                best, found[name] = score, dict(settings)
    return found


def _beside(seed: int, folder: str, chosen: Mapping[str, Plain]) -> Steps[dict[str, Plain]]:
    case = yield from _case(seed, folder)
    found: dict[str, Plain] = {}
    for name, settings in chosen.items():
        yield Progress(0, 1, f"seed {seed}: {name}")
        net = _made(case, name, settings, seed)  # type: ignore[arg-type]
        found[name] = {**rates(_judged(case, net, name, seed)), "settings": settings}
    return found


def _case(seed: int, folder: str) -> Steps[Case]:
    own = yield from network(WORLDS["fashion"], seed, folder, 0, 1)
    return with_network(opened("fashion", Forget("class", "bag"), seed), own)


def _made(case: Case, name: str, settings: Mapping[str, float], seed: int) -> nn.Module:
    assert case.retain_set is not None
    way: Callable[..., Trained] = WAYS[name]
    return finish(way(case.model, Sets(case.retain_set, case.forget_set, seed), **settings))


def _share(told: Plain, name: str) -> float:
    return float(told[name]["rate"])  # type: ignore[index, call-overload]


def _neighbours(original: nn.Module, seed: int) -> dict[str, Plain]:
    """T-shirts by mixed batches, over the share of weights that alpha selects."""
    case = with_network(opened("fashion", Forget("class", "T-shirt"), seed), original)
    pair = importances(case, Measure("mixed", seed=seed))
    spread = ratios(*pair)
    found: dict[str, Plain] = {}
    for share in SHARES:
        alpha = spread.alpha_for(share)
        told = rates(_dampened(case, pair, Dampening(alpha, LAMBDA), seed))
        found[f"{share:.1%} of the weights"] = {**told, "alpha": alpha}
    return found


def importances(case: Case, measure: Measure) -> tuple[Importance, Importance]:
    """I_f and I_D of a case, streamed where they are not stored."""
    _, streaming = stored.of_all_data(case, measure, ())
    full = finish(streaming)
    return finish(stored.of_forget_set(case, measure, ())), full


def _dampened(case: Case, pair: tuple[Importance, Importance], how: Dampening, seed: int) -> Card:
    state = case.model.state_dict()
    tensors = how.edit(state, *pair)
    editable = {name: state[name] for name in pair[0].values}
    card = _judged(case, with_tensors(case.model, tensors), "SSD", seed)
    return replace(card, changed_share=Changed.between(editable, tensors).share)


def _judged(case: Case, model: nn.Module, name: str, seed: int) -> Card:
    return finish(judged(case, model, name, seed))
