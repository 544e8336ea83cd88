"""The jobs: un-merge and see it, the film over p, weigh, count, revert, bake, export.

The mathematics is in `basis`, the ways to compare with in `ways`; `rebuilding` gives adapters back.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np

from engine.core.baked import Baked
from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Progress, Steps
from engine.core.named_file import TextFile
from engine.core.patch import Patch
from engine.core.recipe import ModelRef, Recipe
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, UInt8
from engine.merging.reversible_merging import applied, exports, tasks
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging.baking import FORMATS, added_and_subtracted
from engine.merging.reversible_merging.collection import Collection, check_sources, collect
from engine.merging.reversible_merging.counting import Count, answers_of, counted
from engine.merging.reversible_merging.drawing import (
    STYLES,
    Drawing,
    pixel_differences,
    verdicts,
)
from engine.merging.reversible_merging.pt_svd import recompressed
from engine.merging.reversible_merging.read_back import (
    adapter_files,
    as_called,
    bundle_files,
    merged_files,
)
from engine.merging.reversible_merging.rebuilding import (
    merged,
    own,
    products,
    rebuilt,
    round_trip_of,
)
from engine.merging.reversible_merging.results import (
    BakedMerge,
    Counted,
    Exported,
    Film,
    Reverted,
    Row,
    Unmerged,
    Weighed,
)
from engine.merging.reversible_merging.survey import (
    p_for_error,
    p_for_storage,
    storage_at,
    surveyed,
)
from engine.merging.reversible_merging.ways import MERGES, REBUILDING, Mix
from engine.models.drawing import GuidanceScale, Prompt, SamplerSteps, View, open_bundle
from engine.models.library import adapter_sets, resolve

Adapters = Annotated[Sequence[Annotated[str, Text(500)]], Items(64, blanks=False)]
Components = Annotated[int, Range(0, 64, "Try 2.")]
MergeName = Annotated[str, OneOf(MERGES)]
Weight = Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")]
Density = Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")]
FORMS = ("bundle", "peft", "kohya", "merged", "report")


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
    rmm.check_p(p, collection.n, collection.rank)
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
    drawing = Drawing(bundle, collection, names, view, seed, 2 * n + 1)
    mine = yield from drawing.each("own", "its own adapter", lambda i: own(collection, i), shown)
    shown = replace(shown, rows=(mine,))
    mixed = yield from drawing.merged(merge, mix, shown)
    shown = replace(shown, rows=(mine, mixed))
    basis, errors = yield from rebuilt(collection, way, p, drawing.done, drawing.total)
    shown = replace(shown, errors=errors)
    row = yield from drawing.each(
        "rebuilt", f"pulled out again, p = {p}", lambda i: products(basis, i), shown
    )
    return replace(
        shown,
        rows=(mine, mixed, row),
        apart=pixel_differences(mine.pictures, row.pictures),
        merged_apart=pixel_differences(mine.pictures, mixed.pictures),
        trip=round_trip_of(collection),
    )


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
    drawing = Drawing(bundle, collection, names, view, seed, collection.n * (len(ps) + 1))
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
    found = yield from surveyed(collection)
    p = min(2, collection.largest_p)
    if storage > 0:
        p = p_for_storage(collection, storage)
    elif error > 0:
        p = p_for_error(found.energy, error)
    return Weighed(found, p, storage_at(collection, p), collection.notes())


def count(
    *,
    seed: int,
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
    settings = Count(p, _way(align), tuple(rivals), tuple(merges), mix, pictures)
    chosen = _chosen(adapters, tasks.KEY)
    yield Progress(0, 1, "Opening the tasks")
    collection, known = collect(chosen), tasks.load_tasks()
    for merge in settings.merges:
        MERGES[merge].check(collection)
    places = [known.index(name) for name in collection.names]
    if after_training:
        yield Progress(0, 1, "Compressing the deltas")
        collection = recompressed(collection)
    return (yield from counted(collection, known, places, settings))


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
    rmm.check_p(p, collection.n, collection.rank)
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
        return answers_of(collection, name, deltas, error, seed)
    bundle = open_bundle(model)
    names = applied.names_in(bundle.model.state_dict(), collection)
    todo: dict[str, tuple[str, applied.Deltas]] = {"the base model": ("base", {}), **deltas}
    drawing = Drawing(bundle, collection, names, view, seed, len(todo))
    rows = []
    for title, (kind, change) in todo.items():
        pictures = yield from drawing.of(change, title)
        rows.append(Row(title, kind, pictures, verdicts(bundle, pictures)))
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
        lost.append(added_and_subtracted(name, kind, touched, collection, names, deltas))
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
        return merged_files(as_called(collection, model), merge, mix)
    rmm.check_p(p, collection.n, collection.rank)
    if form == "report":
        found = yield from surveyed(collection)
        text = exports.report(found, p, storage_at(collection, p), collection.notes())
        file = TextFile.of("report.md", text)
        return Exported(form, {"report": file}, note="How much each adapter lost.")
    if form != "kohya":
        collection = as_called(collection, model)
    if form == "bundle":
        return (yield from bundle_files(collection, p, align, half))
    basis, _ = yield from rebuilt(collection, way, p, 0, 1)
    index = _index(collection, chosen, adapter)
    return adapter_files(collection, basis, index, form)


# ---------------------------------------------------------------------- settings


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
