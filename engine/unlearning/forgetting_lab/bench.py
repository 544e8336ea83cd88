"""Measures the claim over three seeds: how soon a forgotten class is relearnt.

    python -m engine bench forgetting-lab       writes assets/claims/forgetting_lab.json

Bags forgotten by SSD with the automatic alpha, and the network that was retrained without them,
each seed with networks of its own; the same few pictures, the same rate. Networks that do not get
there within the steps count with all of them, which is to the retrained one's disadvantage.
"""

import time

from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import student
from engine.models.library import with_tensors
from engine.unlearning import _stored as stored
from engine.unlearning._bench import SEEDS, columns, kept, network, with_network
from engine.unlearning._case import Case, Forget, opened
from engine.unlearning._compare import Relearning, relearned
from engine.unlearning._dampening import Dampening, automatic_alpha, ratios
from engine.unlearning._importance import Measure
from engine.unlearning._nets import WORLDS
from engine.unlearning._settings import LAMBDA
from engine.unlearning.forgetting_lab.algorithm import REGAINED, RELEARN_RATE

SAMPLES, STEPS = 32, 100
UNIT = "sample"


def run(*, seed: int, folder: str = "") -> Steps[Measured]:
    """Steps to relearn, of both."""
    begun = time.perf_counter()
    steps: dict[str, list[float]] = {"retrained": [], "SSD": []}
    curves: dict[str, Plain] = {}
    for turn, one in enumerate(SEEDS):
        part = _of_seed(seed + one, folder, turn)
        found = yield from kept(folder, f"forgetting-lab-{seed + one}", part)
        for name, told in found.items():
            back = told["back at"]  # type: ignore[index,call-overload]
            steps[name].append(float(STEPS if back is None else back))  # type: ignore[arg-type]
            curves[f"{name}, seed {seed + one}"] = told
    measured, low, high = student(steps["retrained"])
    return Measured(
        measured=measured,
        versus=sum(steps["SSD"]) / len(steps["SSD"]),
        interval=(low, high),
        seed=seed,
        seconds=time.perf_counter() - begun,
        versions=versions_here(),
        machine=machine(),
        figures={"over seeds": columns(steps), "curves": curves},
    )


def _of_seed(seed: int, folder: str, turn: int) -> Steps[dict[str, Plain]]:
    original = yield from network(WORLDS["fashion"], seed, folder, turn, len(SEEDS))
    retrained = yield from network(WORLDS["fashion-without-bag"], seed, folder, turn, len(SEEDS))
    case = with_network(opened("fashion", Forget("class", "bag"), seed), original)
    yield Progress(turn, len(SEEDS), f"seed {seed}: SSD")
    both = {"SSD": _dampened(case, seed), "retrained": retrained}
    found: dict[str, Plain] = {}
    for name, net in both.items():
        yield Progress(turn, len(SEEDS), f"seed {seed}: relearning after {name}")
        told = _relearning(case, net, seed)
        found[name] = {
            "steps": list(told.steps),
            "accuracy": list(told.accuracy),
            "back at": told.back_at,
        }
    return found


def _dampened(case: Case, seed: int) -> nn.Module:
    measure = Measure(UNIT, seed=seed)  # type: ignore[arg-type]
    full = finish(stored.of_all_data(case, measure, ())[1])
    forget = finish(stored.of_forget_set(case, measure, ()))
    how = Dampening(automatic_alpha(ratios(forget, full)), LAMBDA)
    return with_tensors(case.model, how.edit(case.model.state_dict(), forget, full))


def _relearning(case: Case, net: nn.Module, seed: int) -> Relearning:
    assert case.test_forget is not None
    return finish(
        relearned(
            net,
            case.forget_set,
            case.test_forget,
            samples=SAMPLES,
            steps=STEPS,
            rate=RELEARN_RATE,
            goal=REGAINED,
            seed=seed,
        )
    )
