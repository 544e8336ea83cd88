"""The jobs: forget and compare, sweep both settings, stream importances, export the edit.

The edit is in `_dampening`, the gradients are in `_importance` and `_per_sample`.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from torch import nn

from engine.core.baked import Baked
from engine.core.cache import LruCache
from engine.core.errors import BadInput, OutOfBudget
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Plain, Recipe
from engine.core.reversible import compare as compare_states
from engine.core.settings import Items, OneOf, Range
from engine.core.shapes import Tensor
from engine.core.taking import taking
from engine.metrics.intervals import Rate
from engine.models.library import load, resolve, with_tensors
from engine.unlearning import _stored as stored
from engine.unlearning._baselines import WAYS, Sets
from engine.unlearning._card import Card, rate_of
from engine.unlearning._case import (
    Case,
    Forget,
    Question,
    always,
    judged,
    judged_once,
    open_classifier,
    opened,
    outputs,
)
from engine.unlearning._dampening import (
    Changed,
    Dampening,
    Ratios,
    automatic_alpha,
    bound,
    ratios,
)
from engine.unlearning._export import FORMS, Exported, Importances, exported, written
from engine.unlearning._importance import BATCH, Importance, Measure
from engine.unlearning._settings import (
    LAMBDA,
    LARGEST_ALPHA,
    Alpha,
    BatchSize,
    Cap,
    Chunk,
    Exponent,
    Lambda,
    PictureSet,
    Place,
    Unit,
)
from engine.unlearning._stored import Gradients
from engine.unlearning._thumbnails import Thumbnails
from engine.unlearning.ssd.results import Forgotten, Point, Sweep

MOST_POINTS = 64
IN_MEMORY = 64_000_000
CURVE_PICTURES, THUMBNAILS = 1000, 12
PREVIEW_SECONDS = 0.3
# Of all weights: an alpha that selects so many leaves no class alive.
DEADLY_SHARE = 0.4
# Of a hundred: where the importance of all data ends, both importances, the judging of the edit.
STREAMED, EDITED, JUDGED, WHOLE = 30, 50, 80, 100


@dataclass(frozen=True)
class Strength:
    """How strong the edit is, as jobs take it. `alpha` 0 chooses automatically.

    `cap` and `exponent` are options of the authors' code, which their paper leaves at 1.
    """

    alpha: Alpha = 0.0
    lam: Lambda = LAMBDA
    cap: Cap = 1.0
    exponent: Exponent = 1.0

    def dampening(self, alpha: float) -> Dampening:
        """The edit with this alpha."""
        return Dampening(alpha, self.lam, self.cap, self.exponent)

    def plain(self, alpha: float) -> dict[str, Plain]:
        """For a recipe: alpha filled in, and what is not as in the paper."""
        told: dict[str, Plain] = {"alpha": alpha, "lam": self.lam}
        return told | {n: v for n in ("cap", "exponent") if (v := getattr(self, n)) != 1}


@dataclass(frozen=True)
class _Settings:
    """What a run edits and how."""

    forget: Forget
    gradients: Gradients
    measure: Measure
    strength: Strength = Strength()

    @classmethod
    def of(
        cls, question: Question, gradients: Gradients, seed: int, strength: Strength = Strength()
    ) -> "_Settings":
        return cls(question.chosen, gradients, gradients.measure(seed), strength)

    def plain(self, alpha: float) -> dict[str, Plain]:
        """For a recipe: what changes the result."""
        return {
            **self.forget.plain(),
            **self.strength.plain(alpha),
            **self.gradients.plain(),
        }


@taking(question=Question, gradients=Gradients, strength=Strength)
def run(
    *,
    seed: int,
    question: Question,
    gradients: Gradients,
    strength: Strength,
    model: ModelRef | str = "fashion",
    compare: Annotated[Sequence[Annotated[str, OneOf(WAYS)]], Items(len(WAYS))] = (),
    curve: Annotated[int, Range(0, MOST_POINTS, "9 are enough for a curve.")] = 9,
) -> Steps[Forgotten]:
    """Forget, judge beside the original and the retrained network, and undo.

    `alpha` 0 chooses automatically. `curve` alphas are tried besides, for the slider. `compare`
    names baselines that are trained now.
    """
    settings = _Settings.of(question, gradients, seed, strength)
    case = question.case(model, seed)
    shown = _begun(case, settings)
    yield Progress(0, 1, "The importances", shown)
    pair, shown = yield from _importances(case, settings, shown)
    edit, shown = yield from _edited(case, settings, pair, shown, seed)
    shown = yield from _beside(case, edit, compare, shown, seed)
    return (yield from _curve(case, settings, pair, curve, shown))


# ---------------------------------------------------------------------- importances


@dataclass(frozen=True, eq=False)
class _Pair:
    """I_f, I_D, and the distribution of their ratio."""

    forget: Importance
    full: Importance
    ratios: Ratios


def _begun(case: Case, settings: _Settings) -> Forgotten:
    unit = settings.measure.unit
    size = 1 if unit == "sample" else settings.measure.batch
    parts = [-(-samples // size) for samples in (case.total, len(case.forget_set))]
    limit = None if unit == "mixed" or not parts[1] else bound(*parts)
    return Forgotten(
        settings.forget.name,
        unit,
        lam=settings.strength.lam,
        bound=limit if case.retain_set is not None else None,
        forget_samples=len(case.forget_set),
        all_samples=case.total,
        notes=_notes(case, settings, limit),
    )


def _notes(case: Case, settings: _Settings, limit: float | None) -> tuple[str, ...]:
    told = []
    alpha, lam = settings.strength.alpha, settings.strength.lam
    if limit is not None and alpha >= limit:
        told.append(
            f"alpha {alpha:g} is at or above the bound {limit:.3g}, from which on nothing "
            "is selected, so the network stays as it is."
        )
    if lam > alpha > 0:
        told.append(
            "lambda is above alpha, so some selected weights are kept whole: the factor is at most "
            f"{settings.strength.cap:g}."
        )
    if 0 < alpha < 1e-3:
        told.append("So small an alpha selects nearly every weight that the forget set touches.")
    if settings.measure.unit == "sorted" and len(case.forget_set) < settings.measure.batch:
        told.append(
            f"The forget set is smaller than a batch of {settings.measure.batch}: its importance "
            "is one squared mean. Gradients of single samples are steadier here."
        )
    if case.reference:
        told.append(f"The reference was retrained without it: {case.reference}.")
    return tuple(told)


def _importances(
    case: Case, settings: _Settings, shown: Forgotten
) -> Generator[Progress, None, tuple[_Pair, Forgotten]]:
    """Both importances; the histogram grows while the forget set streams."""
    gradients, begun = settings.gradients, time.perf_counter()
    source, streaming = stored.of_all_data(
        case, settings.measure, gradients.protected, gradients.importances
    )
    told = f"Importance of all data, {source.told}"
    full = yield from relay(
        streaming,
        lambda part: Progress(STREAMED * part.samples // case.total, WHOLE, told, shown),
    )
    between = time.perf_counter()
    shown = replace(shown, importance_from=source.told, was_stored=source.was_stored)
    forgets = stored.of_forget_set(case, settings.measure, gradients.protected)
    forget = yield from relay(_watched(forgets), lambda part: _partly(part, full, case, shown))
    ended = time.perf_counter()
    found = ratios(forget, full)
    seconds = {
        "importance of all data": between - begun,
        "importance of the forget set": ended - between,
    }
    shown = replace(
        shown, ratios=found, seen=forget.samples, seconds=seconds, before=full.provenance.model
    )
    return _Pair(forget, full, found), shown


def _watched(
    streaming: Generator[Importance, None, Importance],
) -> Generator[tuple[Importance, bool], None, Importance]:
    """Each part, and whether enough time has passed to look into it."""
    looked = time.perf_counter()

    def part(found: Importance) -> tuple[Importance, bool]:
        nonlocal looked
        is_due = time.perf_counter() - looked > PREVIEW_SECONDS
        looked = time.perf_counter() if is_due else looked
        return found, is_due

    return relay(streaming, part)


def _partly(
    part: tuple[Importance, bool], full: Importance, case: Case, shown: Forgotten
) -> Progress:
    found, is_due = part
    preview = replace(shown, seen=found.samples)
    if is_due:
        preview = replace(preview, ratios=ratios(found, full))
    done = STREAMED + (EDITED - STREAMED) * found.samples // len(case.forget_set)
    return Progress(done, WHOLE, "Importance of the forget set", preview)


# ---------------------------------------------------------------------- the edit


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit of the network: the new tensors, the patch, and the network with it."""

    tensors: dict[str, Tensor]
    patch: Patch
    network: nn.Module
    changed: Changed
    alpha: float


def dampen(case: Case, pair: _Pair, how: Dampening, recipe: Recipe) -> Edit:
    """The dampened network and its patch; the original is not touched."""
    state = case.model.state_dict()
    tensors = how.edit(state, pair.forget, pair.full)
    patch = Patch.between(state, {**state, **tensors}, recipe, sparse=True)
    editable = {name: state[name] for name in pair.forget.values}
    changed = Changed.between(editable, tensors)
    return Edit(tensors, patch, with_tensors(case.model, tensors), changed, how.alpha)


def _dampened(case: Case, settings: _Settings, pair: _Pair, seed: int) -> Edit:
    """The edit that the settings ask for, named after what is forgotten."""
    alpha = settings.strength.alpha or automatic_alpha(pair.ratios)
    ref = resolve(case.bundle.ref)
    label = f"forget {settings.forget.name}"[:80]
    recipe = Recipe("ssd", "run", ref, settings.plain(alpha), seed, label=label)
    return dampen(case, pair, settings.strength.dampening(alpha), recipe)


def _edited(
    case: Case, settings: _Settings, pair: _Pair, shown: Forgotten, seed: int
) -> Generator[Progress, None, tuple[Edit, Forgotten]]:
    """The edit, judged, and undone."""
    begun = time.perf_counter()
    edit = _dampened(case, settings, pair, seed)
    alpha = edit.alpha
    spent = time.perf_counter() - begun
    shown = replace(
        shown,
        alpha=alpha,
        is_automatic=not settings.strength.alpha,
        changed=edit.changed,
        patch=edit.patch,
        digest=edit.patch.digest,
        patch_bytes=edit.patch.nbytes,
        seconds={**shown.seconds, "edit": spent},
    )
    shown = _undone(case, edit, shown)
    yield Progress(EDITED, WHOLE, "The edit", shown)
    original = yield from relay(
        judged_once(case, case.model, "original", seed),
        lambda card: Progress(EDITED, WHOLE, "The original", replace(shown, cards=(card,))),
    )
    shown = replace(shown, cards=(original,))
    begun = time.perf_counter()
    card = yield from relay(
        judged(case, edit.network, "SSD", seed),
        lambda card: Progress(
            EDITED, WHOLE, "The edited network", replace(shown, cards=(original, card))
        ),
    )
    seconds = {**shown.seconds, "evaluation": time.perf_counter() - begun}
    card = replace(
        card,
        changed_share=edit.changed.share,
        seconds=seconds,
        settings=settings.plain(alpha),
        before=shown.before,
    )
    shown = replace(shown, cards=(original, card), seconds=seconds)
    return edit, replace(shown, thumbnails=_thumbnails(case, edit.network, seed))


def _undone(case: Case, edit: Edit, shown: Forgotten) -> Forgotten:
    """The fingerprints before, after and undone, of all weights and buffers."""
    state = case.model.state_dict()
    applied = edit.patch.apply(state)
    undone = edit.patch.undo(applied)
    return replace(
        shown,
        before=state_fingerprint(state),
        after=state_fingerprint(applied),
        undone=state_fingerprint(undone),
        undo=compare_states(dict(state), dict(undone)),
    )


def _thumbnails(case: Case, network: nn.Module, seed: int) -> Thumbnails:
    """Some forgotten pictures and some that are kept, unseen in training where there are such."""
    forgotten = case.test_forget or case.forget_set
    parts = [forgotten.some(THUMBNAILS, seed, "thumbnails")]
    if (kept := case.test_retain or case.retain_set) is not None:
        parts.append(kept.some(THUMBNAILS, seed, "kept thumbnails"))
    samples = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
    flags = [i < len(parts[0]) for i in range(len(samples))]
    return Thumbnails.of(
        samples, case.bundle.classes, before=case.model, after=network, is_forgotten=flags
    )


# ---------------------------------------------------------------------- beside it


def _beside(
    case: Case, edit: Edit, others: Sequence[str], shown: Forgotten, seed: int
) -> Generator[Progress, None, Forgotten]:
    """The retrained reference, and the baselines that were asked for."""
    if case.reference:
        network = load(ModelRef(case.reference), dtype="float32").model
        cards = shown.cards
        card = yield from relay(
            judged_once(case, network, "retrained", seed),
            lambda card: Progress(JUDGED, WHOLE, "Retrained", replace(shown, cards=(*cards, card))),
        )
        shown = replace(shown, cards=(*cards, card))
    for name in others:
        card = yield from _baseline(case, name, shown, seed)
        shown = replace(shown, cards=(*shown.cards, card))
    return shown


def _baseline(
    case: Case, name: str, shown: Forgotten, seed: int
) -> Generator[Progress, None, Card]:
    if case.retain_set is None:
        raise BadInput(f"{name} needs retain data, and none was given.", "Upload a zip of it.")
    begun = time.perf_counter()
    training = WAYS[name](case.model, Sets(case.retain_set, case.forget_set, seed))
    network = yield from relay(training, always(Progress(JUDGED, WHOLE, f"Training {name}", shown)))
    seconds = {"edit": time.perf_counter() - begun}
    card = yield from relay(
        judged(case, network, name, seed), always(Progress(JUDGED, WHOLE, name, shown))
    )
    return replace(card, seconds=seconds)


# ---------------------------------------------------------------------- curves


def _curve(
    case: Case, settings: _Settings, pair: _Pair, count: int, shown: Forgotten
) -> Generator[Progress, None, Forgotten]:
    """Both accuracies along alpha, from the bound (or the largest ratio) downwards."""
    if count and case.test_retain is not None:
        high = min(shown.bound or np.inf, float(pair.ratios.quantiles[0]) * 1.1)
        low = max(1e-3, pair.ratios.alpha_for(DEADLY_SHARE))
        for alpha in np.geomspace(max(high, low * 1.01), low, count):
            how = settings.strength.dampening(float(alpha))
            point = yield from relay(
                _point(case, pair, how),
                always(Progress(JUDGED, WHOLE, "Along alpha", shown)),
            )
            shown = replace(shown, curve=(*shown.curve, point))
            yield Progress(JUDGED, WHOLE, "Along alpha", shown)
    return shown


_POINTS: LruCache[Point] = LruCache(most=1024)
"""A curve stays as it is while alpha moves along it."""


def _point(case: Case, pair: _Pair, how: Dampening) -> Generator[None, None, Point]:
    key = (case.task, pair.forget.provenance, frozenset(pair.forget.values), how)
    found = _POINTS.peek(key)
    if found is None:
        found = yield from _tried(case, pair, how)
        _POINTS.put(key, found)
    return found


def _tried(case: Case, pair: _Pair, how: Dampening) -> Generator[None, None, Point]:
    state = case.model.state_dict()
    tensors = how.edit(state, pair.forget, pair.full)
    network = with_tensors(case.model, tensors)
    editable = {name: state[name] for name in pair.forget.values}
    share = Changed.between(editable, tensors).share
    found: list[Rate | None] = []
    for samples in (case.test_forget or case.forget_set, case.test_retain):
        part = None if samples is None else samples.some(CURVE_PICTURES, 0, "curve")
        if part is None:
            found.append(None)
            continue
        told = yield from outputs(network, part)
        found.append(rate_of(told.argmax(1) == part.labels))
    return Point(how.alpha, how.lam, share, *found)


@taking(question=Question, gradients=Gradients)
def sweep(
    *,
    seed: int,
    question: Question,
    gradients: Gradients,
    model: ModelRef | str = "fashion",
    alphas: Annotated[
        Sequence[Annotated[float, Range(1e-9, LARGEST_ALPHA)]], Items(MOST_POINTS, fewest=1)
    ] = (1.0, 2.0, 4.0, 8.0),
    lams: Annotated[Sequence[Lambda], Items(MOST_POINTS, fewest=1)] = (LAMBDA,),
) -> Steps[Sweep]:
    """Every pair of alpha and lambda, and the points that no other one beats.

    The points are judged on unseen pictures: whoever chooses by them has tuned on the test.
    """
    settings = _Settings.of(question, gradients, seed)
    grid = [Dampening(alpha, lam) for lam in lams for alpha in alphas]
    if len(grid) > MOST_POINTS:
        raise BadInput(f"{len(grid)} settings are too many; {MOST_POINTS} are taken.", "Try 8 x 4.")
    case = question.case(model, seed)
    yield Progress(0, 1, "The importances")
    begun = _begun(case, settings)
    pair, _ = yield from relay(_importances(case, settings, begun), _bare)
    notes = ("Judged on unseen pictures: choosing by these points is tuning on the test.",)
    shown = Sweep(settings.forget.name, notes=notes)
    for how in grid:
        point = yield from relay(
            _point(case, pair, how),
            always(Progress(EDITED, WHOLE, "Along the grid", shown)),
        )
        points = (*shown.points, point)
        shown = replace(shown, points=points, front=pareto(points))
        yield Progress(EDITED, WHOLE, f"alpha {how.alpha:g}", shown)
    return shown


def _bare(event: Progress) -> Progress:
    """Progress of a part whose previews are another action's."""
    return replace(event, preview=None)


def pareto(points: Sequence[Point]) -> tuple[int, ...]:
    """The points that no other one beats: less of the forget set and more of the rest."""
    rates = [
        (p.forget.rate if p.forget else 0.0, -(p.retain.rate if p.retain else 0.0)) for p in points
    ]
    return tuple(
        i
        for i, mine in enumerate(rates)
        if not any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in rates)
    )


# ---------------------------------------------------------------------- files


def importances(
    *,
    seed: int,
    model: ModelRef | str = "fashion",
    retain: PictureSet = "",
    unit: Unit = "sample",
    batch: BatchSize = BATCH,
    label_free: bool = False,
    most: Annotated[int, Range(1, 1_000_000, "All data is best.")] = 20_000,
    chunk: Chunk = 0,
    folder: Place = "",
) -> Steps[Importances]:
    """The importances of all data as a file, after which the data is no longer needed.

    With `folder` the sums lie on disk while they stream, and nothing of the model's size is held
    but the model; without it, files of up to 64 MB are given.
    """
    yield Progress(0, 1, "Loading the model")
    bundle = open_classifier(model)
    case = opened(model, Forget("picked", indices=(0,)), seed, retain=retain)
    samples = case.full.take(case.full.ids.argsort(stable=True)).some(most, seed, "importances")
    size = sum(p.numel() for p in bundle.model.parameters()) * 4
    if size > IN_MEMORY and not folder:
        raise OutOfBudget(
            f"These importances weigh {size / 1e6:.0f} MB; {IN_MEMORY // 1_000_000} can be taken "
            "along.",
            "Name a folder of this machine for the file.",
        )
    measure = Gradients(unit, batch, label_free, chunk=chunk).measure(seed)
    return (yield from written(bundle, samples, measure, folder))


@taking(question=Question, gradients=Gradients, strength=Strength)
def bake(
    *,
    seed: int,
    question: Question,
    gradients: Gradients,
    strength: Strength,
    model: ModelRef | str = "fashion",
) -> Steps[Baked]:
    """The edit as a patch, applied and undone once to see every bit come back."""
    settings = _Settings.of(question, gradients, seed, strength)
    case = question.case(model, seed)
    yield Progress(0, 1, "The importances")
    pair, _ = yield from relay(_importances(case, settings, _begun(case, settings)), _bare)
    patch, state = _dampened(case, settings, pair, seed).patch, case.model.state_dict()
    return Baked.of(patch.name, patch, {name: state[name] for name in patch.before})


@taking(question=Question, gradients=Gradients, strength=Strength)
def export(
    *,
    seed: int,
    question: Question,
    gradients: Gradients,
    strength: Strength,
    model: ModelRef | str = "fashion",
    form: Annotated[str, OneOf(FORMS)] = "patch",
) -> Steps[Exported]:
    """The edit as files, read back: "patch", "checkpoint" (with what undoes it) or "card"."""
    settings = _Settings.of(question, gradients, seed, strength)
    case = question.case(model, seed)
    shown = _begun(case, settings)
    yield Progress(0, 1, "The importances")
    pair, shown = yield from relay(_importances(case, settings, shown), _bare)
    edit, shown = yield from relay(_edited(case, settings, pair, shown, seed), _bare)
    return exported(case.bundle, edit.patch, shown.cards[1], form)
