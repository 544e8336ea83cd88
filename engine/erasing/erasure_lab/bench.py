"""Measures the claim: what a word filter takes away comes back with other words.

    python -m engine bench erasure-lab     writes assets/claims/erasure_lab.json

Every object of the embedded world that has a synonym there, through the original and through the
filter, from the same noise: prompts that name the object, and the same prompts with the synonym.
Objects that the original draws too seldom, under either word, are left out and listed.
"""

import time
from collections.abc import Generator
from dataclasses import asdict

from engine.core.catalog import Measured
from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps, finish
from engine.core.recipe import ModelRef, Plain
from engine.erasing import _evaluation as evaluation
from engine.erasing import _sampling as sampling
from engine.erasing._baselines import MAKERS
from engine.erasing._eraser import Eraser
from engine.erasing._evaluation import LEAST_ORIGINAL, Protocol
from engine.erasing._subject import Subject
from engine.metrics.intervals import Rate
from engine.world.vocabulary import SYNONYM_OF

PROTOCOL = Protocol(each=6, batch=12)
GROUPS = ("target", "paraphrase")


def run(*, seed: int, model: ModelRef | str = "world") -> Steps[Measured]:
    """Both groups of every object. Raises `ModelMismatch` when the original draws none of them."""
    begun = time.perf_counter()
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    counted: dict[str, list[bool]] = {group: [] for group in GROUPS}
    told: dict[str, Plain] = {}
    for name in SYNONYM_OF:
        subject = Subject.of(name)
        original = yield from _shown(Eraser("original", bundle), subject, seed)
        rates: dict[str, Plain] = {"original": _rates(original)}
        told[name] = rates
        if min(Rate.of_hits(original[group]).rate for group in GROUPS) < LEAST_ORIGINAL:
            rates["verdict"] = "left out: the original draws it too seldom"
            continue
        filtered = finish(MAKERS["word filter"](bundle, subject, seed)).at(1.0)
        shown = yield from _shown(filtered, subject, seed)
        rates["word filter"] = _rates(shown)
        for group in GROUPS:
            counted[group] += shown[group]
    if not counted["target"]:
        raise ModelMismatch(
            "The original draws none of the objects under both of their names often enough.",
            "Train the checkpoint longer.",
        )
    back, gone = Rate.of_hits(counted["paraphrase"]), Rate.of_hits(counted["target"])
    return Measured.of(
        measured=back.rate,
        versus=gone.rate,
        interval=(back.low, back.high),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={"by object": told},
    )


def _shown(
    eraser: Eraser, subject: Subject, seed: int
) -> Generator[Progress, None, dict[str, list[bool]]]:
    """Which pictures show the object, by group."""
    asks = [ask for ask in subject.asks(PROTOCOL.each) if ask.group in GROUPS]
    drawn = yield from evaluation.draw_asks(eraser, asks, PROTOCOL, seed, subject=subject)
    return {
        group: [s for ask, s in zip(asks, drawn.shows, strict=True) if ask.group == group]
        for group in GROUPS
    }


def _rates(shown: dict[str, list[bool]]) -> dict[str, Plain]:
    return {group: asdict(Rate.of_hits(hits)) for group, hits in shown.items()}
