"""Measures the claim from several start pictures on all four backdoored networks.

    python -m engine bench smoothinv        writes assets/claims/smoothinv.json

1. The share of the perturbation's energy on the true trigger and its success, smoothed and by
   plain descent, from the same start pictures. Those that fail are counted in. Pictures are drawn
   within a network, so the interval is over networks, each with the mean of its pictures.
2. The class scan: how often the attacker's class is called on the backdoored networks, and how
   often any class is called on the clean one, with Wilson intervals.
"""

import time
from dataclasses import asdict

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.machine import machine
from engine.core.recipe import Plain, versions_here
from engine.metrics.intervals import Rate, student
from engine.unlearning._bench import columns, kept
from engine.unlearning._samples import garments
from engine.unlearning._world import TRIGGERS
from engine.unlearning.smoothinv import algorithm as smoothinv
from engine.world import fashion

STARTS, SCANNED = 3, 2
SIGMAS = (0.25,)
CLEAN = "fashion"
SMOOTHED, PLAIN = f"success, smoothed, sigma {SIGMAS[0]:g}", "success, plain descent"


def run(*, seed: int, folder: str = "") -> Steps[Measured]:
    """Both."""
    begun = time.perf_counter()
    figures: dict[str, Plain] = {}
    networks: dict[str, list[float]] = {}
    for turn, key in enumerate(TRIGGERS):
        found = yield from kept(folder, f"smoothinv-{key}-{seed}", _of_network(key, seed, turn))
        rows: dict[str, list[float]] = found  # type: ignore[assignment]
        figures[key] = columns(rows)
        for name, values in rows.items():
            networks.setdefault(name, []).append(sum(values) / len(values))
    figures["scan"] = yield from kept(folder, f"smoothinv-scan-{seed}", _scans(seed))
    smooth, plain = networks[SMOOTHED], networks[PLAIN]
    gains = [ours - theirs for ours, theirs in zip(smooth, plain, strict=True)]
    figures["over networks"] = columns({**networks, "success, smoothed less plain": gains})
    measured, low, high = student(smooth)
    return Measured(
        measured=measured,
        versus=sum(plain) / len(plain),
        interval=(low, high),
        seed=seed,
        seconds=time.perf_counter() - begun,
        versions=versions_here(),
        machine=machine(),
        figures=figures,
    )


def starts(target: int, count: int) -> list[int]:
    """The first unseen pictures of different classes, none of them the attacker's."""
    labels = garments("test").labels
    firsts = [int((labels == c).nonzero()[0]) for c in range(10) if c != target]
    return firsts[:count]


def _of_network(key: str, seed: int, turn: int) -> Steps[dict[str, Plain]]:
    """Each figure from every start picture."""
    rows: dict[str, list[float]] = {}
    target = TRIGGERS[key].target
    for start in starts(target, STARTS):
        yield Progress(turn, len(TRIGGERS) + 1, f"{key}, picture {start}")
        how = {"model": key, "target": fashion.CLASSES[target], "start": start}
        result = finish(smoothinv.run(seed=seed, sigmas=SIGMAS, **how))
        for one in result.found:
            assert one.on_trigger is not None
            assert one.success is not None
            rows.setdefault(f"on the trigger, {one.name}", []).append(one.on_trigger)
            rows.setdefault(f"success, {one.name}", []).append(one.success.rate)
    return dict(rows)


def _scans(seed: int) -> Steps[dict[str, Plain]]:
    hits, alarms, wrong = 0, 0, 0
    for key in (*TRIGGERS, CLEAN):
        target = fashion.CLASSES[TRIGGERS[key].target] if key in TRIGGERS else ""
        for start in starts(TRIGGERS[key].target if target else -1, SCANNED):
            yield Progress(len(TRIGGERS), len(TRIGGERS) + 1, f"Scan of {key}, picture {start}")
            called = finish(smoothinv.scan(seed=seed, model=key, start=start)).called
            if target:
                hits += target in called
                wrong += any(name != target for name in called)
            else:
                alarms += bool(called)
    counts = {
        "attacker's class called": (hits, len(TRIGGERS) * SCANNED),
        "another class called too": (wrong, len(TRIGGERS) * SCANNED),
        "false alarms on the clean network": (alarms, SCANNED),
    }
    return {name: asdict(Rate.counted(times, count)) for name, (times, count) in counts.items()}
