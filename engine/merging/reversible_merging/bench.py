"""Measures the claim on the shipped adapters, and what it costs beside the usual ways.

    python -m engine bench reversible_merging      writes assets/claims/reversible_merging.json

1. Eight task adapters, counted on 200 pictures each: RMM at every p, plain, aligned, and after an
   SVD of the deltas (PT-SVD); its rivals in storage; every merge with its best weight, chosen on
   some of these very pictures, in the merge's favour. Rates with Wilson intervals over all answers.
2. The four adapters of one start against the four of their own.
3. The style adapters, drawn at every p and judged.
4. Add and subtract against a patch, in three number formats.
5. Seconds and memory for eight adapters of the size of Stable Diffusion 1.5's: `speed`.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, finish
from engine.core.recipe import ModelRef, Plain
from engine.merging.reversible_merging import (
    algorithm,
    applied,
    counting,
    drawing,
    rebuilding,
    speed,
    tasks,
)
from engine.merging.reversible_merging.collection import Collection, collect, of
from engine.merging.reversible_merging.pt_svd import recompressed
from engine.merging.reversible_merging.ways import MERGES, Mix
from engine.metrics.intervals import Rate
from engine.models.diffusion import DiffusionBundle
from engine.models.drawing import View, open_bundle
from engine.models.library import ASSETS, MODELS, adapter_sets

WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
DARE_SEEDS = (0, 1, 2)
# A merge's weight is chosen on the first pictures of the very ones that are counted.
PICTURES, TRIED, STEPS = 200, 50, 10
PROMPTS = ("a cat", "a house", "a car")
Counted = dict[str, int | float]
Found = Generator[Progress, None, dict[str, Plain]]


def run(*, seed: int, model: ModelRef | str = "world", speed_too: bool = True) -> Steps[Measured]:
    """All five."""
    begun = time.perf_counter()
    yield Progress(0, 6, "Opening the tasks")
    known = tasks.load_tasks()
    every = collect([f"{tasks.KEY}/{name}" for name in adapter_sets()[tasks.KEY]])
    counted = yield from _tasks(every, known, seed, 1)
    starts = yield from _starts(every, known, 3)
    styles = yield from _styles(model, seed, 4)
    yield Progress(5, 6, "Adding and subtracting")
    baked = finish(algorithm.bake(seed=seed, model=model))
    costs: list[dict[str, Plain]] = []
    if speed_too:
        for cost in speed.measure(seed):
            costs.append(asdict(cost))
            yield Progress(5, 6, f"Adapters of real size: {cost.route}")
    rates: Mapping[str, Counted] = counted["RMM"]  # type: ignore[assignment]
    merges: Mapping[str, Counted] = counted["merges"]  # type: ignore[assignment]
    separate = [name for name in merges if MERGES[name].separate]
    best = max(merges[name]["rate"] for name in separate)
    first = rates["p = 1"]
    return Measured.of(
        measured=first["rate"],
        versus=best,
        interval=(first["low"], first["high"]),
        seed=seed,
        begun=begun,
        figures={
            "tasks": counted,
            "init seed": starts,
            "styles": styles,
            "weights that did not come back": {
                lost.number_format: {"added and subtracted": lost.share, "patch": lost.patch_share}
                for lost in baked.lost
            },
            "eight adapters of the size of SD 1.5's": costs,
        },
    )


def _tasks(every: Collection, known: tasks.Tasks, seed: int, done: int) -> Found:
    """Rates of everything on all eight tasks."""
    places = [known.index(name) for name in every.names]
    names = applied.names_in(known.state, every)
    found: dict[str, Plain] = {}

    def right(deltas: Sequence[applied.Deltas], count: int = PICTURES) -> np.ndarray:
        rows = []
        for change, place in zip(deltas, places, strict=True):
            weights = applied.baked(known.state, every, names, change)
            rows.append(known.right(weights, place, count))
        return np.stack(rows)

    def merged(name: str, weight: float, seeds: Sequence[int], count: int) -> np.ndarray:
        """Answers of one set of weights to all tasks, for each seed."""
        mixes = [Mix(weight, 0.4, s) for s in seeds]
        return np.concatenate(
            [right([rebuilding.merged(every, name, mix)] * every.n, count) for mix in mixes], 1
        )

    own = [rebuilding.own(every, i) for i in range(every.n)]
    mine = right(own)
    found["base"], found["own adapters"] = rate(right([{}] * every.n)), rate(mine)
    found["each task, own adapter"] = dict(zip(every.names, mine.mean(1).tolist(), strict=True))
    for title, way, of_these in (
        ("RMM", "rmm", every),
        ("RMM, aligned", "rmm aligned", every),
        ("RMM after PT-SVD", "rmm", recompressed(every)),
    ):
        curve: dict[str, Plain] = {}
        for p in range(every.largest_p + 1):
            yield Progress(done, 6, f"{title}, p = {p}")
            pairs, errors = yield from rebuilding.rebuilt(of_these, way, p, done, 6)
            answers = right([rebuilding.products(pairs, i) for i in range(every.n)])
            storage = counting.stored(way, p, every)
            curve[f"p = {p}"] = {**rate(answers), **_kept(storage, errors)}
        found[title] = curve
        same = float((answers == mine).mean())
        found[f"{title}: answers equal to the adapters' own at the largest p"] = same
    for way in ("layer", "joint", "ranks", "int8"):
        curve = {}
        for budget in counting.affordable_budgets(way, every, 6):
            yield Progress(done + 1, 6, f"{way}, {budget}")
            pairs, errors = yield from rebuilding.rebuilt(every, way, budget, done, 6)
            answers = right([rebuilding.products(pairs, i) for i in range(every.n)])
            storage = counting.stored(way, budget, every)
            curve[str(budget)] = {**rate(answers), **_kept(storage, errors)}
        found[way] = curve
    merges: dict[str, Plain] = {}
    for name, merge in MERGES.items():
        # PEFT's modes are our own merges again, as the tests show; two of them speak for all.
        if name.startswith("peft") and name not in ("peft svd", "peft ties_svd"):
            continue
        seeds = [seed + s for s in DARE_SEEDS] if "dare" in name else [seed]
        tried = {}
        for weight in WEIGHTS if merge.has_weight else (1.0,):
            yield Progress(done + 1, 6, f"{merge.title}, weight {weight}")
            tried[weight] = merged(name, weight, seeds[:1], TRIED).mean()
        best = max(tried, key=lambda weight: tried[weight])
        answers = merged(name, best, seeds, PICTURES)
        merges[name] = {**rate(answers), "weight": best, "seeds": len(seeds)}
    found["merges"] = merges
    return found


def _kept(storage: float, errors: Sequence[float]) -> dict[str, float]:
    return {"storage": storage, "error of the deltas": float(np.mean(errors))}


def _starts(every: Collection, known: tasks.Tasks, done: int) -> Found:
    """Adapters of one init seed against those of their own, four and four."""
    card: Mapping[str, Mapping[str, Plain]] = MODELS[tasks.KEY].notes["adapters"]  # type: ignore[assignment]
    found: dict[str, Plain] = {}
    for title, shared in (("one start", True), ("own starts", False)):
        part = of([lora for lora in every.loras if bool(card[lora.name]["shares_init"]) is shared])
        names = applied.names_in(known.state, part)
        for way in ("rmm", "rmm aligned"):
            curve: dict[str, Plain] = {}
            for p in range(part.largest_p + 1):
                yield Progress(done, 6, f"{title}, {way}, p = {p}")
                pairs, errors = yield from rebuilding.rebuilt(part, way, p, done, 6)
                answers = np.stack(
                    [
                        known.right(
                            applied.baked(known.state, part, names, rebuilding.products(pairs, i)),
                            known.index(name),
                            PICTURES,
                        )
                        for i, name in enumerate(part.names)
                    ]
                )
                storage = counting.stored(way, p, part)
                curve[f"p = {p}"] = {**rate(answers), **_kept(storage, errors)}
            found[f"{title}, {way}"] = curve
    return found


def _styles(model: ModelRef | str, seed: int, done: int) -> Found:
    """Share of pictures in the adapter's own style, at every p and for three merges."""
    from engine.models.style_judge import load_style_judge

    bundle = open_bundle(model)
    key = drawing.STYLES
    collection = collect([f"{key}/{name}" for name in adapter_sets()[key]])
    names = applied.names_in(bundle.model.state_dict(), collection)
    judge = load_style_judge(ASSETS / key / "judge")

    def share(deltas: Sequence[applied.Deltas]) -> Counted:
        """Of one set of deltas for each adapter, or of a single one for all."""
        drawn = [_pictures(bundle, collection, names, change, seed) for change in deltas]
        drawn = drawn if len(drawn) > 1 else drawn * collection.n
        hits = [
            [style == name.replace("-", " ") for style, _ in judge.names(pictures)]
            for name, pictures in zip(collection.names, drawn, strict=True)
        ]
        return rate(np.array(hits))

    found: dict[str, Plain] = {}
    yield Progress(done, 6, "Styles: own adapters")
    found["own adapters"] = share([rebuilding.own(collection, i) for i in range(collection.n)])
    for p in range(collection.largest_p + 1):
        yield Progress(done, 6, f"Styles, p = {p}")
        pairs, errors = yield from rebuilding.rebuilt(collection, "rmm", p, done, 6)
        shown = share([rebuilding.products(pairs, i) for i in range(collection.n)])
        storage = counting.stored("rmm", p, collection)
        found[f"RMM, p = {p}"] = {**shown, **_kept(storage, errors)}
    for merge in ("sum", "ties"):
        yield Progress(done, 6, f"Styles, {merge}")
        found[merge] = share([rebuilding.merged(collection, merge, Mix(0.3, 0.4, seed))])
    return found


def _pictures(
    bundle: DiffusionBundle,
    collection: Collection,
    names: Mapping[str, str],
    change: applied.Deltas,
    seed: int,
) -> np.ndarray:
    state = dict(bundle.model.state_dict())
    changed = applied.with_weights(bundle, applied.baked(state, collection, names, change))
    return View(PROMPTS, STEPS, guidance_scale=4.0).draw(changed, seed)


def rate(hits: np.ndarray) -> Counted:
    """Share of right answers with its Wilson interval."""
    return asdict(Rate.of_hits(hits))
