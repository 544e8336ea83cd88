"""Measures the claim on the embedded world.

    python -m engine bench reversion          writes assets/claims/reversion.json

1. For each relation that the renderer draws the shipped word: pairs of objects that no exemplar
   has, drawn with the word, with its initialiser, and with the relation told in words. The judge
   says whether relation and objects are there.
2. The parts taken away: without steering, with uniform times, and with neither (which is textual
   inversion), each from one seed.
3. The row added and taken off: the share of equal bits.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace

import numpy as np

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay, relay_as
from engine.core.recipe import ModelRef, Plain
from engine.erasing import _sampling as sampling
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing.reversion.algorithm import CHANCE, examine
from engine.erasing.reversion.exemplars import RELATIONS, pairs
from engine.erasing.reversion.learning import remembered
from engine.erasing.reversion.settings import SHIPPED_SETTINGS, Settings
from engine.erasing.reversion.words import (
    Word,
    grown_table,
    nearest,
    shipped_word,
    table_name,
    with_words,
)
from engine.metrics.intervals import Rate
from engine.models.diffusion import DiffusionBundle

COUNT, SAMPLER_STEPS, BATCH = 16, 10, 8
ABLATED, ABLATION_STEPS, SEEDS = "on top of", 120, 1
WITHOUT: dict[str, dict[str, float]] = {
    "all parts": {},
    "without steering": {"steer_weight": 0.0},
    "uniform times": {"alpha": 0.0},
    "textual inversion": {"steer_weight": 0.0, "alpha": 0.0},
}
Scores = dict[str, dict[str, Plain]]


def run(
    *, seed: int, model: ModelRef | str = "world", settings: Settings | None = None,
    relations: Sequence[str] = tuple(RELATIONS), count: int = COUNT, ablation: bool = True,
) -> Steps[Measured]:  # fmt: skip
    """All three; with `settings` words are learnt by them in place of the shipped ones."""
    begun, total = time.perf_counter(), len(relations) + 2
    yield Progress(0, total, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    by_relation: dict[str, Scores] = {}
    rates: dict[str, list[Rate]] = {"word": [], "initialiser": [], "in words": []}
    for done, relation in enumerate(relations):
        if settings is None:
            word = shipped_word(relation)
        else:
            steps = remembered(bundle, replace(settings, relation=relation), seed)
            word = (yield from relay_as(steps, done, total, relation)).word
        ways = {"word": word.token, "initialiser": SHIPPED_SETTINGS.initialiser}
        ways["in words"] = relation
        by_relation[relation] = {}
        for name, text in ways.items():
            found = yield from _scores(bundle, word, relation, text, count, seed, done, total)
            rates[name].append(found[0])
            by_relation[relation][name] = _plain(found)
        near = nearest(bundle, word.row)
        by_relation[relation]["nearest words"] = dict(near)
    parts: dict[str, Plain] = {}
    if ablation:
        parts = yield from _ablation(bundle, settings or SHIPPED_SETTINGS, count, total - 2, total)
    found_rate, versus = Rate.pooled(rates["word"]), Rate.pooled(rates["initialiser"])
    return Measured.of(
        measured=found_rate.rate,
        versus=versus.rate,
        interval=(found_rate.low, found_rate.high),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "relation in words": asdict(Rate.pooled(rates["in words"])),
            "chance": CHANCE,
            "by relation": by_relation,
            f"parts taken away, {ABLATED}, {ABLATION_STEPS} steps": parts,
            "equal bits after undo": undone(bundle, word),
        },
    )


def _ablation(
    bundle: DiffusionBundle, settings: Settings, count: int, done: int, total: int
) -> Generator[Progress, None, dict[str, Plain]]:
    """Scores of each variant, pictures of all seeds together."""
    found: dict[str, Plain] = {}
    for name, changed in WITHOUT.items():
        variant = replace(settings, relation=ABLATED, steps=ABLATION_STEPS, **changed)  # type: ignore[arg-type]
        several = []
        for seed in range(SEEDS):
            steps = remembered(bundle, variant, seed)
            learnt = yield from relay_as(steps, done, total, f"{name}, seed {seed}")
            scores = yield from _scores(
                bundle, learnt.word, ABLATED, variant.placeholder, count, seed, done, total
            )
            several.append(scores)
        columns = list(zip(*several, strict=True))
        found[name] = _plain([Rate.pooled(column) for column in columns])
    return found


def _scores(
    bundle: DiffusionBundle,
    word: Word,
    relation: str,
    text: str,
    count: int,
    seed: int,
    done: int,
    total: int,
) -> Generator[Progress, None, list[Rate]]:
    """Rates of relation, entities and the whole for one way of saying it."""
    examined = pairs(relation, count, np.random.default_rng([seed, 3]), held_out=True)
    knowing = with_words(bundle, [word])
    steps = examine(knowing, relation, text, examined, seed, SAMPLER_STEPS, BATCH)
    said = f"{relation}, said as {text}"
    hits = yield from relay(
        steps, lambda now: Progress(done, total, f"{said}: {now} of {len(examined)}")
    )
    return [Rate.of_hits(column) for column in hits]


def undone(bundle: DiffusionBundle, word: Word) -> dict[str, float]:
    """Share of equal bits after adding the row and taking it off, by number format."""
    name, grown = table_name(bundle), grown_table(bundle, [word])
    return equal_bits_after_undo(
        {name: grown[:-1]}, lambda now: {name: grown.to(now[name].dtype)}, "reversion"
    )


def _plain(rates: Sequence[Rate]) -> dict[str, Plain]:
    names = ("relation", "both objects", "all right")
    return {name: asdict(rate) for name, rate in zip(names, rates, strict=True)}
