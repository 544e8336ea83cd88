"""Measures the claim over three seeds, beside retraining, and where it does not appear.

    python -m engine bench ssd          writes assets/claims/ssd.json

1. Bags: the original, the retrained network, and SSD by each gradient unit with the automatic
   alpha and both lambdas of the paper, each seed with networks of its own. Lambda 0.1 was chosen on
   the network of seed 0; those of the other seeds had no part in it.
2. T-shirts, whose neighbours are shirts: alpha along a grid, so that one sees how far the useful
   one is from that of the bags.
3. With `speed_too`, seconds: importances from nothing and stored, against retraining; and the
   engines against one another: `speed`.
"""

import time
from dataclasses import replace

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.models.library import with_tensors
from engine.unlearning import _stored as stored
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


def run(*, seed: int, folder: str = "", speed_too: bool = True) -> Steps[Measured]:
    """All three."""
    begun = time.perf_counter()
    figures: dict[str, Plain] = {}
    after: list[float] = []
    before: list[float] = []
    for turn, one in enumerate(SEEDS):
        found = yield from kept(folder, f"ssd-{seed + one}", _of_seed(seed + one, folder, turn))
        figures[f"seed {seed + one}"] = found
        after.append(_forget_rate(found[f"SSD, sample, lambda {LAMBDA:g}"]))
        before.append(_forget_rate(found["original"]))
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


def _forget_rate(told: Plain) -> float:
    return float(told["forget_test"]["rate"])  # type: ignore[index, call-overload]


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
