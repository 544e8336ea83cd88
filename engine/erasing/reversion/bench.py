"""Measures the claim on the embedded world.

    python -m engine bench reversion          writes assets/claims/reversion.json

A picture counts when both objects are there *and* stand in the relation the right way round, on
pairs of objects that no exemplar has.

1. Words learnt from several seeds by the method and by textual inversion (no steering, uniform
   times), each relation drawn with them, with the initialiser, and with the relation told in plain
   words. The interval is over the learnings.
2. The parts taken away one by one, from few exemplars, where a word is said to take up the objects
   it was learnt on: what is drawn right, and how near the row lies to those objects' words.
3. The relations that are not offered, each with a word of one learning.
4. The row added and taken off: the share of equal bits.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay, relay_as
from engine.core.recipe import ModelRef, Plain
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing.reversion import OFFERED, RELATIONS
from engine.erasing.reversion.algorithm import CHANCE, examine
from engine.erasing.reversion.exemplars import pairs
from engine.erasing.reversion.learning import Learnt, remembered
from engine.erasing.reversion.settings import SHIPPED_SETTINGS, ReversionSettings
from engine.erasing.reversion.words import (
    Word,
    grown_table,
    table_name,
    with_words,
)
from engine.metrics.intervals import Mean, Rate
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle, token_table

COUNT, SAMPLER_STEPS, BATCH = 16, 10, 8
SEEDS = 3
INVERSION = {"steer_weight": 0.0, "alpha": 0.0}
# Part 2: four exemplars, the fewest of the paper.
ABLATED, FEW = "on top of", 4
WITHOUT: Mapping[str, Mapping[str, float]] = {
    "all parts": {},
    "without steering": {"steer_weight": 0.0},
    "uniform times": {"alpha": 0.0},
    "textual inversion": INVERSION,
}
Hits = tuple[np.ndarray, np.ndarray, np.ndarray]


class _Bench:
    """What all parts share: the model, the seed, and how far the whole is."""

    def __init__(self, bundle: DiffusionBundle, seed: int, count: int, total: int) -> None:
        self.bundle, self.seed, self.count = bundle, seed, count
        self.done, self.total = 0, total

    def learnt(
        self, settings: ReversionSettings, seed: int, note: str
    ) -> Generator[Progress, None, Learnt]:
        steps = remembered(self.bundle, settings, seed)
        found = yield from relay_as(steps, self.done, self.total, f"{note}, seed {seed}")
        self.done += 1
        return found

    def drawn(self, word: Word, relation: str, text: str) -> Generator[Progress, None, Hits]:
        """Relation, both objects and the whole, for each pair and one way to say the relation."""
        draw = np.random.default_rng([self.seed, 3])
        examined = pairs(relation, self.count, draw, held_out=True)
        knowing = with_words(self.bundle, [word])
        steps = examine(knowing, relation, text, examined, self.seed, SAMPLER_STEPS, BATCH)
        note = f"{relation}, said as {text}"
        return (yield from relay(steps, lambda _: Progress(self.done, self.total, note)))


def run(
    *,
    seed: int,
    model: ModelRef | str = "world",
    settings: ReversionSettings = SHIPPED_SETTINGS,
    relations: Sequence[str] = OFFERED,
    count: int = COUNT,
) -> Steps[Measured]:
    """All four; words are learnt by `settings`."""
    begun = time.perf_counter()
    total = (2 * len(relations) + len(WITHOUT)) * SEEDS + len(RELATIONS) - len(OFFERED)
    yield Progress(0, total, "Loading the model")
    bundle = drawing.in_float32(drawing.open_bundle(model))
    bench = _Bench(bundle, seed, count, total)
    ours, inverted = list[float](), list[float]()
    untrained: dict[str, list[float]] = {"initialiser": [], "in words": []}
    by_relation: dict[str, Plain] = {}
    for relation in relations:
        plan = replace(settings, relation=relation)
        rows, runs = yield from _learnings(bench, plan, plan.placeholder)
        others, theirs = yield from _learnings(bench, replace(plan, **INVERSION), "inversion")  # type: ignore[arg-type]
        ours += runs
        inverted += theirs
        found: dict[str, Plain] = {"word": rows, "textual inversion": others}
        word = Word(plan.placeholder, token_table(bundle)[0].detach().cpu())
        for name, text in {"initialiser": plan.initialiser, "in words": relation}.items():
            hits = yield from bench.drawn(word, relation, text)
            found[name] = _plain(hits)
            untrained[name].append(float(hits[2].mean()))
        by_relation[relation] = found
    parts = yield from _parts(bench, settings)
    unoffered: dict[str, Plain] = {}
    for relation in (name for name in RELATIONS if name not in OFFERED):
        learnt = yield from bench.learnt(replace(settings, relation=relation), seed, relation)
        hits = yield from bench.drawn(learnt.word, relation, learnt.word.token)
        unoffered[relation] = _plain(hits)
    mean = Mean.of_values(ours)
    return Measured.of(
        measured=mean.value,
        versus=float(np.mean(untrained["initialiser"])),
        interval=(mean.low, mean.high),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "unit": f"{len(ours)} learnings: {len(relations)} relations, {SEEDS} seeds each",
            "textual inversion": asdict(Mean.of_values(inverted)),
            "word minus textual inversion": asdict(Mean.of_values(np.subtract(ours, inverted))),
            "in words": float(np.mean(untrained["in words"])),
            "chance of the relation": CHANCE,
            "by relation": by_relation,
            f"parts taken away, {ABLATED}, {FEW} exemplars": parts,
            "not offered": unoffered,
            "equal bits after undo": undone(bundle, word),
        },
    )


def _learnings(
    bench: _Bench, settings: ReversionSettings, note: str
) -> Generator[Progress, None, tuple[list[Plain], list[float]]]:
    """Every seed's rates, and its share of pictures in which all is right."""
    rows: list[Plain] = []
    shares: list[float] = []
    for number in range(SEEDS):
        learnt = yield from bench.learnt(
            settings, bench.seed + number, f"{settings.relation}, {note}"
        )
        hits = yield from bench.drawn(learnt.word, settings.relation, settings.placeholder)
        rows.append({**_plain(hits), "nearness to objects": _leak(bench.bundle, learnt)})
        shares.append(float(hits[2].mean()))
    return rows, shares


def _parts(
    bench: _Bench, settings: ReversionSettings
) -> Generator[Progress, None, dict[str, Plain]]:
    found: dict[str, Plain] = {}
    for name, changed in WITHOUT.items():
        plan = replace(settings, relation=ABLATED, count=FEW, **changed)  # type: ignore[arg-type]
        found[name], _ = yield from _learnings(bench, plan, name)
    return found


def _leak(bundle: DiffusionBundle, learnt: Learnt) -> dict[str, float]:
    """Largest and mean cosine of the row to the words of the exemplars' objects."""
    shortest = " ".join(exemplar.descriptions[0] for exemplar in learnt.exemplars)
    objects = shortest.replace("{}", " ")
    rows = bundle.tokenizers[0](objects, add_special_tokens=False).input_ids
    table = token_table(bundle).detach().float().cpu()[rows]
    cosines = torch.nn.functional.cosine_similarity(learnt.word.row[None].float(), table)
    return {"largest": float(cosines.max()), "mean": float(cosines.mean())}


def _plain(hits: Hits) -> dict[str, Plain]:
    names = ("relation", "both objects", "all right")
    return {name: asdict(Rate.of_hits(row)) for name, row in zip(names, hits, strict=True)}


def undone(bundle: DiffusionBundle, word: Word) -> dict[str, float]:
    """Share of equal bits after adding the row and taking it off, by number format."""
    name, grown = table_name(bundle), grown_table(bundle, [word])
    return equal_bits_after_undo(
        {name: grown[:-1]}, lambda now: {name: grown.to(now[name].dtype)}, "reversion"
    )
