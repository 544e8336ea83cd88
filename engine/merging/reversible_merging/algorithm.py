"""The jobs: un-merge and see it, the film over p, weigh, count, revert, bake, export.

The mathematics is in `basis`, the ways to compare with in `ways`.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch

from engine.core.baked import Baked
from engine.core.cache import LruCache
from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.named_file import TextFile
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Recipe
from engine.core.reversible import Missed, RoundTrip, compare, missed
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.merging.reversible_merging import applied, exports, tasks
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging import bundle as bundles
from engine.merging.reversible_merging.collection import Collection, check_sources, collect
from engine.merging.reversible_merging.gauge import aligned
from engine.merging.reversible_merging.pt_svd import recompressed
from engine.merging.reversible_merging.results import (
    BakedMerge,
    Counted,
    Exported,
    Film,
    Lost,
    Reverted,
    Row,
    Score,
    Unmerged,
    Weighed,
)
from engine.merging.reversible_merging.survey import (
    Survey,
    p_for_error,
    p_for_storage,
    storage_at,
    survey,
)
from engine.merging.reversible_merging.ways import MERGES, REBUILDING, Mix
from engine.models.adapters import canonical, open_lora, part_of
from engine.models.diffusion import DiffusionBundle
from engine.models.drawing import (
    GuidanceScale,
    Pictures,
    Prompt,
    SamplerSteps,
    View,
    decode,
    open_bundle,
)
from engine.models.library import ASSETS, MODELS, adapter_sets, resolve
from engine.models.tensor_file import TensorFile

STYLES = "world-styles"
Adapters = Annotated[Sequence[Annotated[str, Text(500)]], Items(64, blanks=False)]
Components = Annotated[int, Range(0, 64, "Try 2.")]
MergeName = Annotated[str, OneOf(MERGES)]
Weight = Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")]
Density = Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")]
FORMS = ("bundle", "peft", "kohya", "merged", "report")
FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Weights = Mapping[str, Tensor]


def run(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Adapters = (),
    p: Components = 2,
    align: bool = False,
    merge: MergeName = "average",
    weight: Weight = 0.5,
    density: Density = 0.4,
    prompt: Prompt = "a cat",
    steps: SamplerSteps = 10,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Unmerged]:
    """Every adapter's own picture, the picture after a merge, and the one pulled out of the basis.

    One prompt and one noise for all. No adapter named means all shipped style adapters.
    """
    view = View.of([prompt], steps, guidance_scale)
    mix = Mix(weight, density, seed)
    way = _way(align)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    rmm.check_p(p, collection.n, _rank(collection))
    MERGES[merge].check(collection)
    bundle = open_bundle(model)
    names = applied.names_in(bundle.model.state_dict(), collection)
    n = collection.n
    shown = Unmerged(
        collection.names,
        p,
        collection.largest_p,
        storage_at(collection, p),
        megabytes=2 * collection.numbers / 1e6,
        notes=collection.notes(),
    )
    drawing = _Drawing(bundle, collection, names, view, seed, 2 * n + 1)
    mine = yield from drawing.each("own", "its own adapter", lambda i: own(collection, i), shown)
    shown = replace(shown, rows=(mine,))
    mixed = yield from drawing.merged(merge, mix, shown)
    shown = replace(shown, rows=(mine, mixed))
    basis, errors = yield from rebuilt(collection, way, p, drawing.done, drawing.total)
    shown = replace(shown, errors=errors)
    row = yield from drawing.each(
        "rebuilt", f"pulled out again, p = {p}", lambda i: products(basis, i), shown
    )
    apart, merged_apart = _apart(mine.pictures, row.pictures), _apart(mine.pictures, mixed.pictures)
    shown = replace(shown, rows=(mine, mixed, row), apart=apart, merged_apart=merged_apart)
    return replace(shown, trip=_trip(collection))


def sweep(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Adapters = (),
    align: bool = False,
    prompt: Prompt = "a cat",
    steps: SamplerSteps = 10,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Film]:
    """Every adapter at every p, from the average to the exact originals, as a film to drag."""
    view, way = View.of([prompt], steps, guidance_scale), _way(align)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    bundle = open_bundle(model)
    names = applied.names_in(bundle.model.state_dict(), collection)
    ps = range(collection.largest_p + 1)
    storages = tuple(storage_at(collection, p) for p in ps)
    film = Film(collection.names, prompt, storages)
    drawing = _Drawing(bundle, collection, names, view, seed, collection.n * (len(ps) + 1))
    mine = yield from drawing.each("own", "its own adapter", lambda i: own(collection, i), film)
    film = replace(film, own=mine.pictures)
    frames: list[UInt8[Array, "n h w 3"]] = []
    verdicts: list[tuple[str, ...]] = []
    for p in ps:
        basis, _ = yield from rebuilt(collection, way, p, drawing.done, drawing.total)
        row = yield from drawing.each("rebuilt", f"p = {p}", partial(products, basis), film)
        frames.append(row.pictures)  # type: ignore[arg-type]
        verdicts.append(row.lines)
        film = replace(film, frames=np.stack(frames, 1), verdicts=tuple(verdicts))
    return film


def weigh(
    *,
    seed: int,
    adapters: Adapters = (),
    storage: Annotated[float, Range(0, 10, "0 leaves the choice to you.")] = 0.0,
    error: Annotated[float, Range(0, 10, "0 leaves the choice to you.")] = 0.0,
) -> Steps[Weighed]:
    """The curves, from the factors alone; no base model is read and the seed is not used.

    `storage` above 0 chooses the largest p that takes no more than this share of the adapters,
    `error` above 0 the smallest p that loses no more of the factors' energy.
    """
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    found = yield from _survey(collection)
    p = min(2, collection.largest_p)
    if storage > 0:
        p = p_for_storage(collection, storage)
    elif error > 0:
        p = p_for_error(found.energy, error)
    return Weighed(found, p, storage_at(collection, p), collection.notes())


def count(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Adapters = (),
    p: Components = 2,
    align: bool = False,
    after_training: bool = False,
    rivals: Annotated[Sequence[Annotated[str, OneOf(REBUILDING)]], Items(16)] = (
        "layer",
        "joint",
        "ranks",
    ),
    merges: Annotated[Sequence[MergeName], Items(16)] = (
        "average",
        "sum",
        "ties",
        "dare",
    ),
    weight: Weight = 0.3,
    density: Density = 0.4,
    pictures: Annotated[int, Range(1, 200, "Try 40.")] = 40,
) -> Steps[Counted]:
    """Accuracy per task: the base, each adapter alone, rebuilt at every p, rivals and merges.

    The tasks bring their own base, so `model` is not used. With `after_training` each delta is
    first compressed by an SVD of its product, which forgets how training had written it (the
    paper's PT-SVD).
    """
    mix = Mix(weight, density, seed)
    settings = _Count(p, _way(align), tuple(rivals), tuple(merges), mix, pictures)
    chosen = _chosen(adapters, tasks.KEY)
    yield Progress(0, 1, "Opening the tasks")
    collection, known = collect(chosen), tasks.load_tasks()
    for merge in settings.merges:
        MERGES[merge].check(collection)
    places = [known.index(name) for name in collection.names]
    if after_training:
        yield Progress(0, 1, "Compressing the deltas")
        collection = recompressed(collection)
    return (yield from _count(collection, known, places, settings))


def revert(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Adapters = (),
    adapter: Annotated[str, Text(500)] = "",
    p: Components = 2,
    align: bool = False,
    merge: MergeName = "average",
    weight: Weight = 0.5,
    density: Density = 0.4,
    prompts: Annotated[str, Text(8000)] = "a cat; a house; a car; a rose",
    steps: SamplerSteps = 10,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Reverted]:
    """One adapter out of the basis, loaded and run: on prompts, or on pictures of its task."""
    view = View.of(prompts, steps, guidance_scale)
    mix, way = Mix(weight, density, seed), _way(align)
    first = adapter
    chosen = _chosen(adapters, first.partition("/")[0] if "/" in first else STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    rmm.check_p(p, collection.n, _rank(collection))
    MERGES[merge].check(collection)
    index = _index(collection, chosen, first)
    basis, errors = yield from rebuilt(collection, way, p, 0, 1)
    deltas = {
        "its own adapter": ("own", own(collection, index)),
        "merged": ("merged", merged(collection, merge, mix)),
        f"reverted, p = {p}": ("rebuilt", products(basis, index)),
    }
    name, error = collection.names[index], errors[index]
    if all(source.startswith(f"{tasks.KEY}/") for source in chosen):
        return _answers(collection, name, deltas, error, seed)
    bundle = open_bundle(model)
    names = applied.names_in(bundle.model.state_dict(), collection)
    todo: dict[str, tuple[str, applied.Deltas]] = {"the base model": ("base", {}), **deltas}
    drawing = _Drawing(bundle, collection, names, view, seed, len(todo))
    rows = []
    for title, (kind, change) in todo.items():
        pictures = yield from drawing.of(change, title)
        rows.append(Row(title, kind, pictures, _verdicts(bundle, pictures)))
    return Reverted(name, "", view.prompts, tuple(rows), error, collection.notes())


def bake(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Adapters = (),
    merge: MergeName = "sum",
    weight: Weight = 0.3,
    density: Density = 0.4,
) -> Steps[BakedMerge]:
    """A merge written into the weights as a patch, undone bit for bit; and the usual way beside it.

    The usual way adds the delta to the weights and later subtracts it again.
    """
    mix = Mix(weight, density, seed)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 3, "Opening the adapters")
    collection = collect(chosen)
    MERGES[merge].check(collection)
    bundle = open_bundle(model)
    old = dict(bundle.model.state_dict())
    names = applied.names_in(old, collection)
    yield Progress(1, 3, "Merging")
    deltas = merged(collection, merge, mix)
    new = applied.baked(old, collection, names, deltas)
    ref = resolve(model)
    params = {"adapters": list(chosen), "merge": merge, "weight": weight, "density": density}
    label = f"merge {collection.n} adapters, {MERGES[merge].title}"[:80]
    patch = Patch.between(old, {**old, **new}, Recipe("reversible_merging", "bake", ref, params,
                                                      seed, label=label).here())  # fmt: skip
    yield Progress(2, 3, "Applying and undoing")
    touched = {name: old[name] for name in names.values()}
    baked = Baked.of(label, patch, touched)
    lost = []
    for name, kind in FORMATS.items():
        lost.append(_add_and_subtract(name, kind, touched, collection, names, deltas))
        yield Progress(2, 3, f"Adding and subtracting in {name}")
    return BakedMerge(**vars(baked), lost=tuple(lost))


def export(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Adapters = (),
    form: Annotated[str, OneOf(FORMS)] = "bundle",
    adapter: Annotated[str, Text(500)] = "",
    p: Components = 2,
    align: bool = False,
    half: bool = False,
    merge: MergeName = "sum",
    weight: Weight = 0.3,
    density: Density = 0.4,
) -> Steps[Exported]:
    """Files for other tools, each read back and compared.

    `form` is "bundle" (the basis with a short reader), "peft" or "kohya" (the adapter named in
    `adapter`, rebuilt), "merged" (one merged adapter as a PEFT folder, for which `p` does not
    count) or "report". `half` writes the bundle in fp16. `model` says what the modules of Kohya
    files are called.
    """
    mix, way = Mix(weight, density, seed), _way(align)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    if form == "merged":
        MERGES[merge].check(collection)
        return _merged_export(_as_called(collection, model), merge, mix)
    rmm.check_p(p, collection.n, _rank(collection))
    if form == "report":
        found = yield from _survey(collection)
        text = exports.report(found, p, storage_at(collection, p), collection.notes())
        file = TextFile.of("report.md", text)
        return Exported(form, {"report": file}, note="How much each adapter lost.")
    if form != "kohya":
        collection = _as_called(collection, model)
    if form == "bundle":
        return (yield from _bundle(collection, p, align, half))
    basis, _ = yield from rebuilt(collection, way, p, 0, 1)
    index = _index(collection, chosen, adapter)
    return _one_export(collection, basis, index, form)


# ---------------------------------------------------------------------- settings


@dataclass(frozen=True)
class _Count:
    """What is counted."""

    p: int
    way: str
    rivals: tuple[str, ...]
    merges: tuple[str, ...]
    mix: Mix
    pictures: int


def _chosen(adapters: Sequence[str], key: str) -> list[str]:
    """The sources that were named, or all shipped ones of a set."""
    if not adapters:
        listed = [f"{key}/{name}" for name in adapter_sets().get(key, ())]
        if not listed:
            raise AssetMissing(
                f"The adapters {key[:40]} are not installed here.",
                f"Fetch the repository again, or make them: python -m engine.zoo build {key[:40]}",
            )
        return listed
    check_sources(adapters)
    return list(adapters)


def _way(align: bool) -> str:
    return "rmm aligned" if align else "rmm"


def _index(collection: Collection, sources: Sequence[str], adapter: str) -> int:
    """The place of an adapter by its source or name; the first one for an empty text."""
    for place, (source, name) in enumerate(zip(sources, collection.names, strict=True)):
        if adapter in (source, name, ""):
            return place
    raise BadInput(
        f"{adapter[:60]} is not among the chosen adapters.",
        f"Choose {', '.join(collection.names[:8])}.",
    )


def _rank(collection: Collection) -> int:
    return max(shape.r for shape in collection.shapes.values())


# ---------------------------------------------------------------------- deltas


def own(collection: Collection, index: int) -> dict[str, Float[Tensor, "m d"]]:
    """The deltas of one adapter as its file has them."""
    lora = collection.loras[index]
    found = {}
    for module in lora.layers:
        a, b = lora.factors(module)
        found[module] = a @ b
    return found


def products(
    pairs: Mapping[str, tuple[Tensor, Tensor]], index: int
) -> dict[str, Float[Tensor, "m d"]]:
    return {module: a[index] @ b[index] for module, (a, b) in pairs.items()}


def merged(collection: Collection, merge: str, mix: Mix) -> dict[str, Float[Tensor, "m d"]]:
    """One set of deltas for all adapters."""
    return MERGES[merge].of(collection, mix)


Pairs = dict[str, tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]]


def rebuilt(
    collection: Collection, way: str, budget: int, done: int, total: int
) -> Generator[Progress, None, tuple[Pairs, tuple[float, ...]]]:
    """All adapters after a way of keeping them, in float32, and their relative squared errors."""
    key = (collection.digest, way, budget)
    return (yield from _REBUILT.steps(key, lambda: _rebuilt(collection, way, budget, done, total)))


def _rebuilt(
    collection: Collection, way: str, budget: int, done: int, total: int
) -> Generator[Progress, None, tuple[Pairs, tuple[float, ...]]]:
    pairs: Pairs = {}
    lost = torch.zeros(collection.n, dtype=torch.float64)
    size = torch.zeros_like(lost)
    for place, (module, a, b) in enumerate(collection.each()):
        a, b = a.double(), b.double()
        found = _back(collection, module, way, budget, a, b)
        lost += rmm.delta_error(*found, a, b)
        size += rmm.delta_gram(a, b).diagonal()
        pairs[module] = (found[0].float(), found[1].float())
        if place % 8 == 0:
            yield Progress(done, total, f"Fitting the basis, p = {budget}")
    return pairs, tuple((lost / size.clamp(min=1e-300)).tolist())


def _back(
    collection: Collection, module: str, way: str, budget: int, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """All adapters at one module. Of a small collection the basis is kept whole, for any p."""
    if not (way.startswith("rmm") and collection.is_small):
        return REBUILDING[way].back(a, b, budget)
    key, most = (collection.digest, module, way), rmm.largest_p(len(a), a.shape[2])
    pair = aligned(a, b) if way == "rmm aligned" else (a, b)
    whole = _BASES.get(key, lambda: rmm.fit(*pair, most))
    return rmm.revert_all(whole.at(min(budget, most)))


def _survey(collection: Collection) -> Generator[Progress, None, Survey]:
    steps = _SURVEYS.steps(collection.digest, lambda: survey(collection, done=0, total=1))
    return (yield from steps)


def _trip(collection: Collection) -> RoundTrip:
    """The factors of one layer against those that come back at the largest p."""
    _, a, b = next(iter(collection.each()))
    back = rmm.revert_all(rmm.fit(a, b, rmm.largest_p(len(a), a.shape[2])))
    return compare((a, b), (back[0].float(), back[1].float()))


# ---------------------------------------------------------------------- pictures


@dataclass
class _Drawing:
    """Pictures of one view from one noise under many sets of weights, counted as progress."""

    bundle: DiffusionBundle
    collection: Collection
    names: Mapping[str, str]
    view: View
    seed: int
    sets: int
    done: int = 0

    @property
    def total(self) -> int:
        """Sampler steps of all sets of weights."""
        return self.sets * self.view.steps

    def each(
        self, kind: str, title: str, deltas: Callable[[int], applied.Deltas], shown: Any
    ) -> Generator[Progress, None, Row]:
        """One picture for each adapter."""
        drawn: list[UInt8[Array, "h w 3"]] = []
        for index, name in enumerate(self.collection.names):
            pictures = yield from self.of(deltas(index), f"{name}: {title}")
            drawn.append(pictures[0])
            row = Row(title, kind, np.stack(drawn), _verdicts(self.bundle, np.stack(drawn)))
            yield Progress(self.done, self.total, f"{name}: {title}", _with_row(shown, row))
        return row

    def merged(self, merge: str, mix: Mix, shown: Any) -> Generator[Progress, None, Row]:
        """The picture of the merged weights: one for all, shown in every column."""
        title = f"merged: {MERGES[merge].title}"
        pictures = yield from self.of(merged(self.collection, merge, mix), title)
        n = self.collection.n
        row = Row(
            title, "merged", np.repeat(pictures, n, axis=0), _verdicts(self.bundle, pictures) * n
        )
        yield Progress(self.done, self.total, title, _with_row(shown, row))
        return row

    def of(self, deltas: applied.Deltas, title: str) -> Generator[Progress, None, Pictures]:
        """The pictures of the model with these deltas in its weights, one a prompt."""
        key = (*self.view.cache_key(self.bundle, self.seed), _digest(deltas))
        pictures = yield from _PICTURES.steps(key, lambda: self._drawn(deltas, title))
        self.done += self.view.steps
        return pictures

    def _drawn(self, deltas: applied.Deltas, title: str) -> Generator[Progress, None, Pictures]:
        state = dict(self.bundle.model.state_dict())
        weights = applied.baked(state, self.collection, self.names, deltas)
        model = applied.with_weights(self.bundle, weights)
        for step in self.view.walk(model, self.seed):
            yield Progress(self.done + step.i + 1, self.total, title)
        return decode(model, step.z)


def _with_row(shown: Any, row: Row) -> Any:
    """The preview with one more row, where it has rows."""
    return replace(shown, rows=(*shown.rows, row)) if isinstance(shown, Unmerged) else shown


def _verdicts(bundle: DiffusionBundle, pictures: UInt8[Array, "b h w 3"]) -> tuple[str, ...]:
    """Style and object as the judges see them; empty texts for other models."""
    from engine.models.style_judge import load_style_judge
    from engine.models.vision import load_judge

    if bundle.vocabulary is None or STYLES not in MODELS:
        return ("",) * len(pictures)
    try:
        styles = load_style_judge(ASSETS / STYLES / "judge").names(pictures)
        objects = load_judge().judge(pictures)
    except AssetMissing:
        return ("",) * len(pictures)
    things = [objects.best("subject", i)[0] for i in range(len(objects))]
    return tuple(
        f"{'another style' if style == 'another' else style} {sure:.0%}, {thing}".replace("%", " %")
        for (style, sure), thing in zip(styles, things, strict=True)
    )


def _apart(
    a: UInt8[Array, "n h w 3"] | None, b: UInt8[Array, "n h w 3"] | None
) -> tuple[float, ...]:
    """Mean difference of the pixels, of 255."""
    if a is None or b is None:
        return ()
    gap = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return tuple(float(one.mean()) for one in gap)


def _digest(deltas: applied.Deltas) -> str:
    return state_fingerprint(deltas) if deltas else ""


# ---------------------------------------------------------------------- counting


def _count(
    collection: Collection, known: tasks.Tasks, places: Sequence[int], asked: _Count
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

    def score(way: str, budget: int, storage: float, deltas: Callable[[int], Any]) -> Score:
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
        for x in REBUILDING[way].budgets(collection.n, _rank(collection))
        if stored(way, x, collection) < 1.05
    ]
    chosen = np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int)
    return [every[i] for i in dict.fromkeys(chosen.tolist())]


def stored(way: str, budget: int, collection: Collection) -> float:
    numbers = REBUILDING[way].numbers
    total = sum(numbers(collection.n, shape, budget) for shape in collection.shapes.values())
    return total / collection.numbers


def _answers(
    collection: Collection, name: str, deltas: Mapping[str, Any], error: float, seed: int
) -> Reverted:
    """Six pictures of the adapter's task, and what each set of weights answers."""
    known = tasks.load_tasks()
    place, names = known.index(name), applied.names_in(known.state, collection)
    count = known.pictures.shape[1]
    picked = np.random.default_rng(seed).choice(count, min(6, count), replace=False)
    pixels = tasks.grey(known.pictures[place, picked])
    truth = [known.said(place, int(known.answers[place, i])) for i in picked]
    rows = []
    todo = {"the base model": ("base", {}), **deltas}
    for title, (kind, change) in todo.items():
        weights = applied.baked(known.state, collection, names, change)
        sure, best = known.outputs(weights, place, count)[torch.from_numpy(picked)].max(-1)
        answers = [
            f"{'✓' if int(b) == int(known.answers[place, i]) else '✗'} "
            f"{known.said(place, int(b))} {float(s):.0%}".replace("%", " %")
            for i, b, s in zip(picked, best, sure, strict=True)
        ]
        rows.append(Row(title, kind, pixels, tuple(answers)))
    return Reverted(
        name, known.questions[name], tuple(truth), tuple(rows), error, collection.notes()
    )


# ---------------------------------------------------------------------- baking and files


def _add_and_subtract(
    name: str,
    kind: torch.dtype,
    touched: Weights,
    collection: Collection,
    names: Mapping[str, str],
    deltas: applied.Deltas,
) -> Lost:
    """Add, subtract, and count what differs; and the same through a patch."""
    off = total = 0
    old, new = {}, {}
    for module, weight_name in names.items():
        before = touched[weight_name].detach().to(kind)
        layer = collection.layer(module)
        delta = applied.shaped(deltas[module], before, layer).to(kind)
        added = before + delta
        off += int(((added - delta) != before).sum())
        total += before.numel()
        old[weight_name], new[weight_name] = before, added
    patch = Patch.between(old, new, Recipe("reversible_merging"))
    trip = compare(old, patch.undo(patch.apply(old)))
    return Lost(name, off / max(total, 1), 1 - trip.equal_bits)


def _bundle(
    collection: Collection, p: int, align: bool, half: bool
) -> Generator[Progress, None, Exported]:
    layers = len(collection.modules)  # each is fitted, and then read back
    steps = bundles.make(collection, p, align=align, half=half)
    file = yield from relay(steps, lambda event: replace(event, total=2 * layers))
    header, tensors = bundles.header(file), file.read()
    error, seen = 0.0, Missed()
    for place, (module, found) in enumerate(bundles.read(tensors, header).items(), start=1):
        a, b = collection.factors(module)
        pair = aligned(a, b) if align else (a, b)
        truth = rmm.revert_all(rmm.fit(*pair, min(p, rmm.largest_p(len(a), a.shape[2]))))
        back = rmm.revert_all(replace(found, mu=found.mu.double(), U=found.U.double(),
                                      C=found.C.double()))  # fmt: skip
        error = max(error, _relative(back[0], truth[0]), _relative(back[1], truth[1]))
        for index, (up, down) in enumerate(zip(*back, strict=True)):
            seen.add(up @ down, _delta(collection, module, index))
        yield Progress(layers + place, 2 * layers, "Reading it back")
    note = f"{len(file.data) / 1e6:.2f} MB for {collection.n} adapters; python read_bundle.py"
    reader = TextFile.of("read_bundle.py", bundles.READER)
    return Exported("bundle", {"bundle": file, "read_bundle": reader}, error, note, seen.share)


def _one_export(collection: Collection, basis: Pairs, index: int, form: str) -> Exported:
    pairs = {
        module: (a[index], b[index])
        for module, (a, b) in basis.items()
        if module in collection.loras[index].layers
    }
    made = _written(collection, pairs, form, f"{collection.names[index]}, rebuilt")
    gap = missed((a @ b, _delta(collection, m, index)) for m, (a, b) in pairs.items())
    return replace(made, error=gap)


def _delta(collection: Collection, module: str, index: int) -> Float[Tensor, "m d"]:
    """What one adapter of the collection adds to a module."""
    a, b = collection.factors(module)
    return a[index].double() @ b[index].double()


def _merged_export(collection: Collection, merge: str, mix: Mix) -> Exported:
    rank = min(collection.n * _rank(collection), 256)
    whole = merged(collection, merge, mix)
    pairs = {module: exports.pair_of(delta, rank) for module, delta in whole.items()}
    made = _written(collection, pairs, "merged", f"{MERGES[merge].title} of {collection.n}")
    gap = missed((a.double() @ b.double(), whole[module]) for module, (a, b) in pairs.items())
    return replace(made, error=gap)


def _as_called(collection: Collection, model: ModelRef | str) -> Collection:
    """Kohya's keys have lost their dots: the model says where they were."""
    if not collection.has_lost_dots:
        return collection
    state = open_bundle(model).model.state_dict()
    return collection.called(applied.names_in(state, collection))


def _written(
    collection: Collection, pairs: Mapping[str, tuple[Tensor, Tensor]], form: str, what: str
) -> Exported:
    """The files, opened again by our own reader and compared."""
    is_kohya = form == "kohya"
    files = [exports.kohya(collection, pairs)] if is_kohya else exports.peft(collection, pairs)
    known = {module: collection.layer(module).name for module in pairs}
    error = 0.0
    with TemporaryDirectory() as scratch:
        for file in files:
            path = Path(scratch, file.name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.data)
        for file in files:
            if not isinstance(file, TensorFile):
                continue
            path, part = Path(scratch, file.name), file.name.rpartition("/")[0]
            lora = open_lora(path if is_kohya else path.parent, what)
            for module, (a, b) in pairs.items():
                inside = module if is_kohya else canonical(part_of(known[module])[1])
                if is_kohya or part in ("", part_of(known[module])[0]):
                    back = lora.factors(inside)
                    error = max(error, _relative(back[0] @ back[1], a.float() @ b.float()))
    return Exported(form, {file.name: file for file in files}, error, what)


def _relative(found: Tensor, truth: Tensor) -> float:
    size = float(truth.abs().max()) or 1.0
    return float((found.double() - truth.double()).abs().max()) / size


# ---------------------------------------------------------------------- what was computed before

_PICTURES: LruCache[Pictures] = LruCache()
_SURVEYS: LruCache[Survey] = LruCache()
_REBUILT: LruCache[tuple[Pairs, tuple[float, ...]]] = LruCache()
_BASES: LruCache[rmm.Basis] = LruCache(400)  # one a module and way of a small collection
