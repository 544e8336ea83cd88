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

from engine.core import checks
from engine.core.baked import Baked
from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Progress, Steps
from engine.core.named_file import TextFile
from engine.core.patch import Patch, state_fingerprint
from engine.core.recent import Recent
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
from engine.merging.reversible_merging.ways import MERGES, REBUILDING, Mix, merge_named
from engine.models.adapters import canonical, open_lora, part_of
from engine.models.diffusion import DiffusionBundle, decode_latents
from engine.models.library import ASSETS, MODELS, adapter_sets, resolve
from engine.models.tensor_file import TensorFile

STYLES = "world-styles"
MOST_STEPS, LARGEST_GUIDANCE, MOST_PROMPTS, MOST_P = 100, 30.0, 8, 64
FORMS = ("bundle", "peft", "kohya", "merged", "report")
FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Weights = Mapping[str, Tensor]


def run(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
    p: Annotated[int, Range(0, MOST_P, "Try 2.")] = 2,
    align: bool = False,
    merge: Annotated[str, Text(40)] = "average",
    weight: Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")] = 0.5,
    density: Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")] = 0.4,
    prompt: Annotated[str, Text(1000)] = "a cat",
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 10.")] = 10,
    guidance_scale: Annotated[float, Range(0, LARGEST_GUIDANCE, "4 is good.")] = 4.0,
) -> Steps[Unmerged]:
    """Every adapter's own picture, the picture after a merge, and the one pulled out of the basis.

    One prompt and one noise for all. No adapter named means all shipped style adapters.
    """
    view = _View.of(prompt, steps, guidance_scale)
    mix = _mix(weight, density, seed)
    way = _way(align)
    merge_named(merge)
    chosen = _chosen(adapters, STYLES)
    _check_p(p)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    rmm.check_p(p, collection.n, _rank(collection))
    merge_named(merge).check(collection)
    bundle = applied.open_bundle(model)
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
    apart, mush = _apart(mine.pictures, row.pictures), _apart(mine.pictures, mixed.pictures)
    shown = replace(shown, rows=(mine, mixed, row), apart=apart, merged_apart=mush)
    return replace(shown, trip=_trip(collection))


def sweep(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
    align: bool = False,
    prompt: Annotated[str, Text(1000)] = "a cat",
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 10.")] = 10,
    guidance_scale: Annotated[float, Range(0, LARGEST_GUIDANCE, "4 is good.")] = 4.0,
) -> Steps[Film]:
    """Every adapter at every p, from the average to the exact originals, as a film to drag."""
    view, way = _View.of(prompt, steps, guidance_scale), _way(align)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    bundle = applied.open_bundle(model)
    names = applied.names_in(bundle.model.state_dict(), collection)
    ps = range(collection.largest_p + 1)
    storages = tuple(storage_at(collection, p) for p in ps)
    film = Film(collection.names, view.prompt, storages)
    drawing = _Drawing(bundle, collection, names, view, seed, collection.n * (len(ps) + 1))
    mine = yield from drawing.each("own", "its own adapter", lambda i: own(collection, i), film)
    film = replace(film, own=mine.pictures)
    frames: list[UInt8[Array, "n h w 3"]] = []
    said: list[tuple[str, ...]] = []
    for p in ps:
        basis, _ = yield from rebuilt(collection, way, p, drawing.done, drawing.total)
        row = yield from drawing.each("rebuilt", f"p = {p}", partial(products, basis), film)
        frames.append(row.pictures)  # type: ignore[arg-type]
        said.append(row.lines)
        film = replace(film, frames=np.stack(frames, 1), verdicts=tuple(said))
    return film


def weigh(
    *,
    seed: int,
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
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
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
    p: Annotated[int, Range(0, MOST_P, "Try 2.")] = 2,
    align: bool = False,
    after_training: bool = False,
    rivals: Annotated[Sequence[Annotated[str, OneOf(REBUILDING)]], Items(16)] = (
        "layer",
        "joint",
        "ranks",
    ),
    merges: Annotated[Sequence[Annotated[str, Text(40)]], Items(16)] = (
        "average",
        "sum",
        "ties",
        "dare",
    ),
    weight: Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")] = 0.3,
    density: Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")] = 0.4,
    pictures: Annotated[int, Range(1, 200, "Try 40.")] = 40,
) -> Steps[Counted]:
    """Accuracy per task: the base, each adapter alone, rebuilt at every p, rivals and merges.

    The tasks bring their own base, so `model` is not used. With `after_training` each delta is
    first compressed by an SVD of its product, which forgets how training had written it (the
    paper's PT-SVD).
    """
    settings = _Count.of(adapters, p, align, rivals, merges, weight, density, pictures, seed)
    yield Progress(0, 1, "Opening the tasks")
    collection, known = collect(settings.adapters), tasks.load_tasks()
    for merge in settings.merges:
        merge_named(merge).check(collection)
    places = [known.index(name) for name in collection.names]
    if after_training:
        yield Progress(0, 1, "Compressing the deltas")
        collection = recompressed(collection)
    return (yield from _count(collection, known, places, settings))


def revert(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
    adapter: Annotated[str, Text(500)] = "",
    p: Annotated[int, Range(0, MOST_P, "Try 2.")] = 2,
    align: bool = False,
    merge: Annotated[str, Text(40)] = "average",
    weight: Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")] = 0.5,
    density: Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")] = 0.4,
    prompts: Annotated[str, Text(8000)] = "a cat; a house; a car; a rose",
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 10.")] = 10,
    guidance_scale: Annotated[float, Range(0, LARGEST_GUIDANCE, "4 is good.")] = 4.0,
) -> Steps[Reverted]:
    """One adapter out of the basis, loaded and run: on prompts, or on pictures of its task."""
    texts = [text.strip() for text in str(prompts).split(";") if text.strip()]
    if not 1 <= len(texts) <= MOST_PROMPTS:
        raise BadInput(f"Give 1 to {MOST_PROMPTS} prompts.", 'Write "a cat; a house".')
    views = [_View.of(text, steps, guidance_scale) for text in texts]
    mix, way = _mix(weight, density, seed), _way(align)
    merge_named(merge)
    _check_p(p)
    first = str(adapter or "")
    chosen = _chosen(adapters, first.partition("/")[0] if "/" in first else STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    rmm.check_p(p, collection.n, _rank(collection))
    merge_named(merge).check(collection)
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
    bundle = applied.open_bundle(model)
    names = applied.names_in(bundle.model.state_dict(), collection)
    rows, noise = [], applied.start_noise(bundle, seed, len(texts))
    todo: dict[str, tuple[str, applied.Deltas]] = {"the base model": ("base", {}), **deltas}
    total = len(todo) * views[0].steps
    for place, (title, (kind, change)) in enumerate(todo.items()):
        drawn = yield from _drawn(bundle, collection, names, change, texts, noise, views[0],
                                  place * views[0].steps, total, title)  # fmt: skip
        rows.append(Row(title, kind, drawn, _verdicts(bundle, drawn)))
    return Reverted(name, "", tuple(texts), tuple(rows), error, collection.notes())


def bake(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
    merge: Annotated[str, Text(40)] = "sum",
    weight: Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")] = 0.3,
    density: Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")] = 0.4,
) -> Steps[BakedMerge]:
    """A merge written into the weights as a patch, undone bit for bit; and the usual way beside it.

    The usual way adds the delta to the weights and later subtracts it again.
    """
    mix = _mix(weight, density, seed)
    merge_named(merge)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 3, "Opening the adapters")
    collection = collect(chosen)
    merge_named(merge).check(collection)
    bundle = applied.open_bundle(model)
    old = dict(bundle.model.state_dict())
    names = applied.names_in(old, collection)
    yield Progress(1, 3, "Merging")
    deltas = merged(collection, merge, mix)
    new = applied.baked(old, collection, names, deltas)
    ref = resolve(ModelRef(model) if isinstance(model, str) else model)
    params = {"adapters": list(chosen), "merge": merge, "weight": weight, "density": density}
    label = f"merge {collection.n} adapters, {MERGES[merge].title}"[:80]
    patch = Patch.between(old, {**old, **new}, Recipe("reversible_merging", "bake", ref, params,
                                                      seed, label=label).here())  # fmt: skip
    yield Progress(2, 3, "Applying and undoing")
    touched = {name: old[name] for name in names.values()}
    baked = Baked.of(label, patch, touched)
    lost = []
    for name, kind in FORMATS.items():
        lost.append(_lost(name, kind, touched, collection, names, deltas))
        yield Progress(2, 3, f"Adding and subtracting in {name}")
    return BakedMerge(**vars(baked), lost=tuple(lost))


def export(
    *,
    seed: int,
    model: ModelRef | str = "world",
    adapters: Annotated[Sequence[Annotated[str, Text(500)]], Items(64)] = (),
    form: Annotated[str, OneOf(FORMS)] = "bundle",
    adapter: Annotated[str, Text(500)] = "",
    p: Annotated[int, Range(0, MOST_P, "Try 2.")] = 2,
    align: bool = False,
    half: bool = False,
    merge: Annotated[str, Text(40)] = "sum",
    weight: Annotated[float, Range(-4, 4, "0.3 is a good start for eight adapters.")] = 0.3,
    density: Annotated[float, Range(0.01, 1, "0.4 keeps the larger part.")] = 0.4,
) -> Steps[Exported]:
    """Files for other tools, each read back and compared.

    `form` is "bundle" (the basis with a short reader), "peft" or "kohya" (the adapter named in
    `adapter`, rebuilt), "merged" (one merged adapter as a PEFT folder, for which `p` does not
    count) or "report". `half` writes the bundle in fp16. `model` says what the modules of Kohya
    files are called.
    """
    if form not in FORMS:
        raise BadInput(f'There is no form "{str(form)[:40]}".', f"Choose {', '.join(FORMS)}.")
    mix, way = _mix(weight, density, seed), _way(align)
    merge_named(merge)
    _check_p(p)
    chosen = _chosen(adapters, STYLES)
    yield Progress(0, 1, "Opening the adapters")
    collection = collect(chosen)
    if form == "merged":
        merge_named(merge).check(collection)
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
    index = _index(collection, chosen, str(adapter or ""))
    return _one_export(collection, basis, index, form)


# ---------------------------------------------------------------------- settings


@dataclass(frozen=True)
class _View:
    """What is drawn, checked."""

    prompt: str
    steps: int
    guidance_scale: float

    @classmethod
    def of(cls, prompt: object, steps: object, guidance_scale: object) -> "_View":
        if not isinstance(prompt, str) or len(prompt) > 1000:
            raise BadInput("The prompt must be a text of at most 1000 characters.", 'Try "a cat".')
        steps = checks.count("steps", steps, 1, MOST_STEPS, "Try 10.")
        scale = checks.number("guidance_scale", guidance_scale, 0.0, LARGEST_GUIDANCE, "4 is good.")
        return cls(prompt, steps, scale)


@dataclass(frozen=True)
class _Count:
    """What is counted, checked."""

    adapters: tuple[str, ...]
    p: int
    way: str
    rivals: tuple[str, ...]
    merges: tuple[str, ...]
    mix: Mix
    pictures: int

    @classmethod
    def of(
        cls,
        adapters: Sequence[str],
        p: int,
        align: bool,
        rivals: Sequence[str],
        merges: Sequence[str],
        weight: float,
        density: float,
        pictures: int,
        seed: int,
    ) -> "_Count":
        _check_p(p)
        for name in _texts(merges, "merges"):
            merge_named(name)
        for name in _texts(rivals, "rivals"):
            if name not in REBUILDING:
                raise BadInput(
                    f'There is no way called "{name[:40]}".', f"Choose {', '.join(REBUILDING)}."
                )
        if isinstance(pictures, bool) or not isinstance(pictures, int) or not 1 <= pictures <= 200:
            raise BadInput(f"pictures must be from 1 to 200, got {pictures!s:.40}.", "Try 40.")
        return cls(
            tuple(_chosen(adapters, tasks.KEY)),
            p,
            _way(align),
            tuple(rivals),
            tuple(merges),
            _mix(weight, density, seed),
            pictures,
        )


def _chosen(adapters: object, key: str) -> list[str]:
    """The sources that were named, or all shipped ones of a set."""
    if adapters in ((), [], None, ""):
        listed = [f"{key}/{name}" for name in adapter_sets().get(key, ())]
        if not listed:
            raise AssetMissing(
                f"The adapters {key[:40]} are not installed here.",
                f"Fetch the repository again, or make them: python -m engine.zoo build {key[:40]}",
            )
        return listed
    if isinstance(adapters, str):
        adapters = [text.strip() for text in adapters.split(",") if text.strip()]
    check_sources(adapters)
    return list(adapters)  # type: ignore[call-overload]


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise BadInput(f"{name} must be a list of names.", "Leave it out for the usual ones.")
    return list(value)


def _mix(weight: float, density: float, seed: int) -> Mix:
    checks.number("weight", weight, -4.0, 4.0, "0.3 is a good start for eight adapters.")
    checks.number("density", density, 0.01, 1.0, "0.4 keeps the larger part.")
    return Mix(float(weight), float(density), seed)


def _way(align: object) -> str:
    if not isinstance(align, bool):
        raise BadInput("align must be true or false.", "false is the paper's own method.")
    return "rmm aligned" if align else "rmm"


def _check_p(p: object) -> None:
    if isinstance(p, bool) or not isinstance(p, int) or not 0 <= p <= MOST_P:
        raise BadInput(f"p must be a whole number from 0, got {p!s:.40}.", "Try 2.")


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
    if (kept := _REBUILT.peek(key)) is not None:
        return kept
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
    errors = tuple((lost / size.clamp(min=1e-300)).tolist())
    _REBUILT.put(key, (pairs, errors))
    return pairs, errors


def _back(
    collection: Collection, module: str, way: str, budget: int, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """All adapters at one module. Of a small collection the basis is kept whole, for any p."""
    if not (way.startswith("rmm") and collection.is_small):
        return REBUILDING[way].back(a, b, budget)
    key, most = (collection.digest, module, way), rmm.largest_p(len(a), a.shape[2])
    if (whole := _BASES.peek(key)) is None:
        whole = rmm.fit(*(aligned(a, b) if way == "rmm aligned" else (a, b)), most)
        _BASES.put(key, whole)
    return rmm.revert_all(whole.at(min(budget, most)))


def _survey(collection: Collection) -> Generator[Progress, None, Survey]:
    if (kept := _SURVEYS.peek(collection.digest)) is None:
        kept = yield from survey(collection, done=0, total=1)
        _SURVEYS.put(collection.digest, kept)
    return kept


def _trip(collection: Collection) -> RoundTrip:
    """The factors of one layer against those that come back at the largest p."""
    _, a, b = next(iter(collection.each()))
    back = rmm.revert_all(rmm.fit(a, b, rmm.largest_p(len(a), a.shape[2])))
    return compare((a, b), (back[0].float(), back[1].float()))


# ---------------------------------------------------------------------- pictures


@dataclass
class _Drawing:
    """Pictures of one prompt from one noise under many sets of weights, counted as progress."""

    bundle: DiffusionBundle
    collection: Collection
    names: Mapping[str, str]
    view: _View
    seed: int
    pictures: int
    done: int = 0

    @property
    def total(self) -> int:
        return self.pictures * self.view.steps

    def each(
        self, kind: str, title: str, deltas: Callable[[int], applied.Deltas], shown: Any
    ) -> Generator[Progress, None, Row]:
        """One picture for each adapter."""
        drawn: list[UInt8[Array, "h w 3"]] = []
        for index, name in enumerate(self.collection.names):
            change = deltas(index)
            picture = yield from self._one(change, f"{name}: {title}", kind)
            drawn.append(picture)
            row = Row(title, kind, np.stack(drawn), self._lines(drawn))
            yield Progress(self.done, self.total, f"{name}: {title}", _with_row(shown, row))
        return Row(title, kind, np.stack(drawn), self._lines(drawn))

    def merged(self, merge: str, mix: Mix, shown: Any) -> Generator[Progress, None, Row]:
        """The picture of the merged weights: one for all, shown in every column."""
        title = f"merged: {MERGES[merge].title}"
        deltas = merged(self.collection, merge, mix)
        picture = yield from self._one(deltas, title, "merged")
        row = Row(
            title,
            "merged",
            np.stack([picture] * self.collection.n),
            self._lines([picture]) * self.collection.n,
        )
        yield Progress(self.done, self.total, title, _with_row(shown, row))
        return row

    def _one(
        self, deltas: applied.Deltas, title: str, kind: str
    ) -> Generator[Progress, None, UInt8[Array, "h w 3"]]:
        key = (
            self.bundle.ref, str(self.bundle.folder), self.bundle.dtype, self.view, self.seed,
            _digest(deltas),
        )  # fmt: skip
        if (kept := _PICTURES.peek(key)) is None:
            noise = applied.start_noise(self.bundle, self.seed, 1)
            drawn = yield from _drawn(
                self.bundle, self.collection, self.names, deltas, [self.view.prompt], noise,
                self.view, self.done, self.total, title,
            )  # fmt: skip
            kept = drawn[0]
            _PICTURES.put(key, kept)
        self.done += self.view.steps
        return kept

    def _lines(self, drawn: Sequence[UInt8[Array, "h w 3"]]) -> tuple[str, ...]:
        return _verdicts(self.bundle, np.stack(drawn))


def _drawn(
    bundle: DiffusionBundle,
    collection: Collection,
    names: Mapping[str, str],
    deltas: applied.Deltas,
    prompts: Sequence[str],
    noise: Tensor,
    view: _View,
    done: int,
    total: int,
    title: str,
) -> Generator[Progress, None, UInt8[Array, "b h w 3"]]:
    """Pictures of the model with these deltas in its weights."""
    state = dict(bundle.model.state_dict())
    changed = applied.with_weights(bundle, applied.baked(state, collection, names, deltas))
    walked = applied.walk(
        changed, prompts, noise, steps=view.steps, guidance_scale=view.guidance_scale
    )
    for step in walked:
        yield Progress(done + step.i + 1, total, title)
    return decode_latents(bundle, step.z.float())


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
    said = [objects.best("subject", i)[0] for i in range(len(objects))]
    return tuple(
        f"{'another style' if style == 'another' else style} {sure:.0%}, {thing}".replace("%", " %")
        for (style, sure), thing in zip(styles, said, strict=True)
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
    budgets = [(way, x) for way in asked.rivals for x in few(way, collection)]
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


def few(way: str, collection: Collection, most: int = 3) -> list[int]:
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
        told = [
            f"{'✓' if int(b) == int(known.answers[place, i]) else '✗'} "
            f"{known.said(place, int(b))} {float(s):.0%}".replace("%", " %")
            for i, b, s in zip(picked, best, sure, strict=True)
        ]
        rows.append(Row(title, kind, pixels, tuple(told)))
    return Reverted(
        name, known.questions[name], tuple(truth), tuple(rows), error, collection.notes()
    )


# ---------------------------------------------------------------------- baking and files


def _lost(
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
    for made in bundles.make(collection, p, align=align, half=half):
        if isinstance(made, Progress):
            yield replace(made, total=2 * layers)
        else:
            file = made
    told, tensors = bundles.header(file), file.read()
    error, seen = 0.0, Missed()
    for place, (module, found) in enumerate(bundles.read(tensors, told).items(), start=1):
        a, b = collection.factors(module)
        pair = aligned(a, b) if align else (a, b)
        truth = rmm.revert_all(rmm.fit(*pair, min(p, rmm.largest_p(len(a), a.shape[2]))))
        back = rmm.revert_all(replace(found, mu=found.mu.double(), U=found.U.double(),
                                      C=found.C.double()))  # fmt: skip
        error = max(error, _relative(back[0], truth[0]), _relative(back[1], truth[1]))
        for index, (up, down) in enumerate(zip(*back, strict=True)):
            seen.add(up @ down, _delta(collection, module, index))
        yield Progress(layers + place, 2 * layers, "Reading it back")
    said = f"{len(file.data) / 1e6:.2f} MB for {collection.n} adapters; python read_bundle.py"
    reader = TextFile.of("read_bundle.py", bundles.READER)
    return Exported("bundle", {"bundle": file, "read_bundle": reader}, error, said, seen.share)


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
    state = applied.open_bundle(model).model.state_dict()
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

_PICTURES: Recent[UInt8[Array, "h w 3"]] = Recent(400)
_SURVEYS: Recent[Survey] = Recent(16)
_REBUILT: Recent[tuple[Pairs, tuple[float, ...]]] = Recent(8)
_BASES: Recent[rmm.Basis] = Recent(400, megabytes=400)  # one a module and way of a small collection
