"""How often a small classifier is right under each set of weights, task by task."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from engine.core.job import Progress
from engine.merging.reversible_merging import applied, tasks
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.rebuilding import merged, own, products, rebuilt
from engine.merging.reversible_merging.results import Counted, Reverted, Row, Score
from engine.merging.reversible_merging.survey import storage_at
from engine.merging.reversible_merging.ways import MERGES, REBUILDING, Mix


@dataclass(frozen=True)
class Count:
    """What is counted."""

    p: int
    way: str
    rivals: tuple[str, ...]
    merges: tuple[str, ...]
    mix: Mix
    pictures: int


def counted(
    collection: Collection, known: tasks.Tasks, places: Sequence[int], asked: Count
) -> Generator[Progress, None, Counted]:
    """All scores, one set of weights after the other."""
    names = applied.names_in(known.state, collection)
    n, ps = collection.n, range(collection.largest_p + 1)
    budgets = [(way, x) for way in asked.rivals for x in affordable_budgets(way, collection)]
    todo = 2 + len(ps) + len(budgets) + len(asked.merges)
    found = Counted(
        tuple(known.names[place] for place in places),
        tuple(known.questions[known.names[place]] for place in places),
        asked.pictures,
        min(asked.p, collection.largest_p),
        notes=collection.notes(),
    )

    def score(
        way: str, budget: int, storage: float, deltas: Callable[[int], applied.Deltas]
    ) -> Score:
        right = []
        for i, place in enumerate(places):
            weights = applied.baked(known.state, collection, names, deltas(i))
            right.append(float(known.right(weights, place, asked.pictures).mean()))
        return Score(way, budget, storage, tuple(right))

    found = replace(found, base=score("base", -1, 0.0, lambda i: {}))
    yield Progress(1, todo, "The base alone", found)
    found = replace(found, own=score("own", -1, 1.0, lambda i: own(collection, i)))
    yield Progress(2, todo, "Each adapter alone", found)
    done = 2
    for p in ps:
        pairs, _ = yield from rebuilt(collection, asked.way, p, done, todo)
        one = score(asked.way, p, storage_at(collection, p), partial(products, pairs))
        found, done = replace(found, rebuilt=(*found.rebuilt, one)), done + 1
        yield Progress(done, todo, f"Rebuilt with p = {p}", found)
    for merge in asked.merges:
        same = [merged(collection, merge, asked.mix)] * n
        one = score(merge, -1, 1 / n, same.__getitem__)
        found, done = replace(found, merged=(*found.merged, one)), done + 1
        yield Progress(done, todo, MERGES[merge].title, found)
    for way, budget in budgets:
        pairs, _ = yield from rebuilt(collection, way, budget, done, todo)
        storage = stored(way, budget, collection)
        one = score(way, budget, storage, partial(products, pairs))
        found, done = replace(found, rivals=(*found.rivals, one)), done + 1
        yield Progress(done, todo, f"{REBUILDING[way].title}, {budget}", found)
    return found


def affordable_budgets(way: str, collection: Collection, most: int = 3) -> list[int]:
    """Some budgets of a way whose storage stays below the adapters' own."""
    every = [
        x
        for x in REBUILDING[way].budgets(collection.n, collection.rank)
        if stored(way, x, collection) < 1.05
    ]
    chosen = np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int)
    return [every[i] for i in dict.fromkeys(chosen.tolist())]


def stored(way: str, budget: int, collection: Collection) -> float:
    """Numbers that a way keeps at this budget, as a share of the adapters' own."""
    numbers = REBUILDING[way].numbers
    total = sum(numbers(collection.n, shape, budget) for shape in collection.shapes.values())
    return total / collection.numbers


def answers_of(
    collection: Collection,
    name: str,
    deltas: Mapping[str, tuple[str, applied.Deltas]],
    error: float,
    seed: int,
) -> Reverted:
    """Six pictures of the adapter's task, and what each set of weights answers."""
    known = tasks.load_tasks()
    place, names = known.index(name), applied.names_in(known.state, collection)
    count = known.pictures.shape[1]
    picked = np.random.default_rng(seed).choice(count, min(6, count), replace=False)
    pixels = tasks.grey(known.pictures[place, picked])
    truth = [known.answer_name(place, int(known.answers[place, i])) for i in picked]
    rows = []
    todo: dict[str, tuple[str, applied.Deltas]] = {"the base model": ("base", {}), **deltas}
    for title, (kind, change) in todo.items():
        weights = applied.baked(known.state, collection, names, change)
        sure, best = known.outputs(weights, place, count)[torch.from_numpy(picked)].max(-1)
        answers = [
            f"{'✓' if int(b) == int(known.answers[place, i]) else '✗'} "
            f"{known.answer_name(place, int(b))} {float(s):.0%}".replace("%", " %")
            for i, b, s in zip(picked, best, sure, strict=True)
        ]
        rows.append(Row(title, kind, pixels, tuple(answers)))
    return Reverted(
        name, known.questions[name], tuple(truth), tuple(rows), error, collection.notes()
    )
