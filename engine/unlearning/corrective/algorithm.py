"""The jobs: repair by one method, compare methods over the share that was found, export the edit.

What is flagged and how a repair is judged is in `repair`, the automatic choice in `rule`.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Plain, Recipe
from engine.core.reversible import compare
from engine.core.settings import Items, OneOf, Range
from engine.models.library import resolve, with_tensors
from engine.pictures import PictureSetting
from engine.unlearning._baselines import (
    Sets,
    Trained,
    Way,
    bad_teacher,
    catastrophic,
    retrain,
    scrub,
)
from engine.unlearning._card import Card
from engine.unlearning._case import always, state_of
from engine.unlearning._dampening import Changed, Dampening, ratios
from engine.unlearning._export import FORMS, Exported, exported
from engine.unlearning._importance import Importance, Measure, stream
from engine.unlearning._settings import (
    Alpha,
    Chunk,
    ClassName,
    IndexTable,
    Indices,
    Lambda,
    PictureSet,
)
from engine.unlearning._thumbnails import Thumbnails
from engine.unlearning.corrective import rule
from engine.unlearning.corrective.repair import (
    MOST_FALSE,
    MOST_STAMPED,
    Flags,
    Repair,
    judged,
    opened,
)
from engine.unlearning.corrective.results import AtGamma, Corrected, Curves

METHODS = ("SSD", "RewoD", "CF", "SCRUB", "BadT")
BATCH, MOST_RETAINED, MOST_GAMMAS, SHOWN = 128, 20_000, 12, 16
UNITS = ("mixed", "sample")
ORACLE = "oracle: the settings were given by hand, maybe by looking at the test"


@dataclass(frozen=True)
class _Settings:
    """How a repair is made, checked. `alpha` 0 leaves both numbers to the automatic rule."""

    flags: Flags
    method: str
    measure: Measure
    alpha: float
    lam: float
    retained: int

    @classmethod
    def of(
        cls,
        seed: int,
        flags: Flags,
        way: object,
        unit: object,
        alpha: object,
        lam: object,
        retained: object,
        chunk: object,
    ) -> "_Settings":
        checks.choice("unit", unit, UNITS)
        return cls(
            flags,
            checks.choice("way", way, METHODS),
            Measure(
                unit,  # type: ignore[arg-type]
                batch=BATCH,
                chunk=checks.count("chunk", chunk, 0, 4096, "0 chooses by the size of the model."),
                seed=seed,
            ),
            checks.number("alpha", alpha, 0, 1e7, "0 chooses automatically."),
            checks.number("lam", lam, 1e-6, 1e7, "1 is the value of the paper."),
            checks.count("retained", retained, 16, MOST_RETAINED, "4000 are enough."),
        )

    def plain(self, how: Dampening | None) -> dict[str, Plain]:
        """The settings of a run that makes this very repair, the dampening's numbers filled in."""
        found: dict[str, Plain] = {**self.flags.plain(), "way": self.method}
        if how is not None:
            found |= {"unit": self.measure.unit, "alpha": how.alpha, "lam": how.lam}
        return {**found, "retained": self.retained}


def run(
    *,
    seed: int,
    model: ModelRef | str = "fashion-poisoned",
    gamma: Annotated[float, Range(0, 1, "0.1 is a tenth of what was manipulated.")] = 0.1,
    false_flags: Annotated[int, Range(0, MOST_FALSE)] = 0,
    indices: Indices = (),
    index_table: IndexTable = "",
    pictures: PictureSet = "",
    retain: PictureSet = "",
    test: PictureSet = "",
    trigger: PictureSetting | None = None,
    target: ClassName = "",
    stamped: Annotated[int, Range(1, MOST_STAMPED, "100 are enough.")] = 100,
    way: Annotated[str, OneOf(METHODS)] = "SSD",
    unit: Annotated[str, OneOf(UNITS)] = "sample",
    alpha: Alpha = 0.0,
    lam: Lambda = 1.0,
    retained: Annotated[int, Range(16, MOST_RETAINED, "4000 are enough.")] = 4000,
    chunk: Chunk = 0,
) -> Steps[Corrected]:
    """Repair with what was flagged, judge beside the original, and undo.

    `gamma` of the manipulated samples are flagged; or those of `indices` or `pictures`; or clean
    samples with a recovered `trigger` on them. `retained` samples that were not flagged are looked
    at. `way` is "SSD", or one that trains: "CF", "SCRUB", "BadT", or "RewoD" from new weights.
    """
    flags = Flags.of(gamma, false_flags, indices or index_table, pictures, trigger, target, stamped)
    settings = _Settings.of(seed, flags, way, unit, alpha, lam, retained, chunk)
    repair = opened(model, flags, seed, retain=retain, test=test)
    shown = Corrected(repair.told, settings.method, notes=_notes(repair, settings))
    yield Progress(0, 4, "The original", shown)
    original = yield from relay(
        judged(repair, repair.model, "original"),
        lambda card: Progress(0, 4, "The original", replace(shown, cards=(card,))),
    )
    shown = replace(shown, cards=(original,))
    made, shown = yield from _made(repair, settings, seed, shown)
    shown = _undone(repair, made.patch, shown)
    begun = time.perf_counter()
    card = yield from relay(
        judged(repair, made.network, settings.method),
        lambda card: Progress(3, 4, "The repaired network", replace(shown, cards=(original, card))),
    )
    seconds = {**shown.seconds, "evaluation": time.perf_counter() - begun}
    card = replace(
        card,
        seconds=seconds,
        changed_share=made.changed.share,
        settings=made.patch.recipe.params,  # type: ignore[arg-type]
        tuned_on=shown.tuned_on,
        before=shown.before,
    )
    shown = replace(shown, cards=(original, card), seconds=seconds)
    return replace(shown, stamped=_stamped_pictures(repair, made.network))


def _notes(repair: Repair, settings: _Settings) -> tuple[str, ...]:
    told = [repair.told.warning] if repair.told.warning else []
    if settings.measure.unit == "mixed" and len(repair.flagged) < BATCH:
        told.append(
            f"The {len(repair.flagged)} flagged samples are less than a batch of {BATCH}: their "
            "importance is one squared mean, and alpha depends on their number."
        )
    if repair.told.false_flags:
        told.append(f"{repair.told.false_flags} of the flagged samples are clean.")
    if repair.told.kind == "recovered trigger":
        told.append("The forget set was made with a recovered trigger; nobody flagged anything.")
    return tuple(told)


# ---------------------------------------------------------------------- the methods


@dataclass(frozen=True, eq=False)
class _Made:
    """The repaired network, its patch, and what changed."""

    network: nn.Module
    patch: Patch
    changed: Changed


def _made(
    repair: Repair, settings: _Settings, seed: int, shown: Corrected
) -> Generator[Progress, None, tuple[_Made, Corrected]]:
    if settings.method == "SSD":
        return (yield from _dampened(repair, settings, seed, shown))
    begun = time.perf_counter()
    training = trained(repair, settings.method, seed)
    network = yield from relay(training, always(Progress(1, 4, settings.method, shown)))
    shown = replace(
        shown,
        tuned_on="nothing: the settings of the publication, one short round",
        seconds={"edit": time.perf_counter() - begun},
    )
    return _patched(repair, network, settings, None, seed), shown


def trained(repair: Repair, method: str, seed: int) -> Trained:
    """One of the ways that train, on the flagged and the other samples."""
    rest = repair.retained
    if rest is None:
        raise BadInput(f"{method} needs retained samples.", "Upload a zip of them.")
    if repair.held_out is not None:
        rest = rest.joined(repair.held_out)
    sets = Sets(rest, repair.flagged, seed)
    ways: dict[str, Way] = {
        "CF": catastrophic,
        "SCRUB": scrub,
        "BadT": bad_teacher,
        "RewoD": retrain,
    }
    return ways[method](repair.model, sets)


def _dampened(
    repair: Repair, settings: _Settings, seed: int, shown: Corrected
) -> Generator[Progress, None, tuple[_Made, Corrected]]:
    """Importances of the flagged and of retained samples, the settings, the edit."""
    begun = time.perf_counter()
    pair = yield from importances(repair, settings.measure, settings.retained, seed, shown)
    between = time.perf_counter()
    shown = replace(shown, unit=settings.measure.unit)
    how, told = Dampening(settings.alpha, settings.lam), ORACLE
    if not settings.alpha:
        assert repair.held_out is not None
        grid = rule.grid(ratios(*pair))
        seen = yield from relay(
            rule.tried(repair.model, pair, repair.flagged, repair.held_out, grid),
            lambda found: Progress(
                2, 4, f"Setting {len(found)} of {len(grid)}", replace(shown, tried=found)
            ),
        )
        best = rule.automatic(seen)
        how, told = Dampening(best.alpha, best.lam), rule.TUNED_ON
        shown = replace(shown, tried=seen)
    chosen = time.perf_counter()
    state = repair.model.state_dict()
    network = with_tensors(repair.model, how.edit(state, *pair))
    seconds = {
        "importances": between - begun,
        "choice of settings": chosen - between,
        "edit": time.perf_counter() - chosen,
    }
    shown = replace(shown, alpha=how.alpha, lam=how.lam, tuned_on=told, seconds=seconds)
    return _patched(repair, network, settings, how, seed), shown


def importances(
    repair: Repair, measure: Measure, retained: int, seed: int, shown: object
) -> Generator[Progress, None, tuple[Importance, Importance]]:
    """I_f of the flagged samples, and I_D of retained ones without them, as in the paper."""
    if repair.retained is None:
        raise BadInput("SSD needs retained samples.", "Upload a zip of them.")
    measure = replace(measure, fingerprint=state_of(repair.model))
    found = []
    rest = repair.retained.some(retained, seed, "retained")
    for samples, note in ((repair.flagged, "Flagged samples"), (rest, "Retained samples")):
        streaming = stream(measure.streaming(repair.model), measure.batches(samples))
        found.append((yield from relay(streaming, always(Progress(1, 4, note, shown)))))
    return found[0], found[1]


def _patched(
    repair: Repair, network: nn.Module, settings: _Settings, how: Dampening | None, seed: int
) -> _Made:
    old, new = repair.model.state_dict(), network.state_dict()
    label = f"repair with {len(repair.flagged)} flagged, {settings.method}"
    ref, params = resolve(repair.bundle.ref), settings.plain(how)
    recipe = Recipe("corrective", "run", ref, params, seed, label=label)
    editable = dict(repair.model.named_parameters())
    return _Made(
        network,
        Patch.between(old, new, recipe, sparse=True),
        Changed.between(editable, {name: new[name] for name in editable}),
    )


def _undone(repair: Repair, patch: Patch, shown: Corrected) -> Corrected:
    state = repair.model.state_dict()
    applied = patch.apply(state)
    undone = patch.undo(applied)
    editable = dict(repair.model.named_parameters())
    return replace(
        shown,
        patch=patch,
        digest=patch.digest,
        patch_bytes=patch.nbytes,
        changed=Changed.between(editable, {name: applied[name] for name in editable}),
        before=state_fingerprint(state),
        after=state_fingerprint(applied),
        undone=state_fingerprint(undone),
        undo=compare(dict(state), dict(undone)),
    )


def _stamped_pictures(repair: Repair, network: nn.Module) -> Thumbnails | None:
    """Unseen pictures with the trigger, or of the confused classes, before and after."""
    samples = repair.attacked or repair.corrected or repair.kept
    if samples is None:
        return None
    some, names = samples.some(SHOWN, 0, "shown"), repair.bundle.classes
    return Thumbnails.of(some, names, before=repair.model, after=network)


# ---------------------------------------------------------------------- over the share found


def curves(
    *,
    seed: int,
    model: ModelRef | str = "fashion-poisoned",
    gammas: Annotated[
        Sequence[Annotated[float, Range(1e-3, 1, "0.1 is a tenth.")]], Items(MOST_GAMMAS, fewest=1)
    ] = (0.05, 0.1, 0.5, 1.0),
    methods: Annotated[Sequence[Annotated[str, OneOf(METHODS)]], Items(len(METHODS))] = (
        "SSD",
        "CF",
        "SCRUB",
        "BadT",
    ),
    false_flags: Annotated[int, Range(0, MOST_FALSE)] = 0,
    unit: Annotated[str, OneOf(UNITS)] = "sample",
    alpha: Alpha = 0.0,
    lam: Lambda = 1.0,
    retained: Annotated[int, Range(16, MOST_RETAINED, "4000 are enough.")] = 4000,
) -> Steps[Curves]:
    """Every method at every share, one point after the other; the original's comes first."""
    if not isinstance(gammas, list | tuple) or not 1 <= len(gammas) <= MOST_GAMMAS:
        raise BadInput(f"gammas is a list of 1 to {MOST_GAMMAS} shares.", "Try 0.1, 0.5, 1.")
    shares = [checks.number("gamma", gamma, 1e-3, 1, "0.1 is a tenth.") for gamma in gammas]
    listed = checks.texts(methods, "methods", len(METHODS))
    for name in listed:
        checks.choice("methods", name, METHODS)
    flags = [Flags.of(share, false_flags, (), "", "", "", 100) for share in shares]
    rows = [
        [_Settings.of(seed, flag, name, unit, alpha, lam, retained, 0) for name in listed]
        for flag in flags
    ]
    shown = Curves("")
    total = len(shares) * len(listed) + 1
    first = opened(model, flags[0], seed)
    note = ("RewoD is the only slow one: it trains anew at every share.",)
    shown = Curves(first.kind, notes=note if "RewoD" in listed else ())
    card = yield from relay(
        judged(first, first.model, "original"), always(Progress(0, total, "original", shown))
    )
    shown = replace(shown, points=(AtGamma(0.0, 0, card),))
    for share, row in zip(shares, rows, strict=True):
        repair = opened(model, row[0].flags, seed)
        for chosen in row:
            done, note_of = len(shown.points), f"{chosen.method} at {share:g}"
            point = yield from relay(
                _point(repair, chosen, seed, share),
                always(Progress(done, total, note_of, shown)),
            )
            shown = replace(shown, points=(*shown.points, point))
            yield Progress(done + 1, total, note_of, shown)
    return shown


def _point(
    repair: Repair, settings: _Settings, seed: int, share: float
) -> Generator[object, None, AtGamma]:
    bare = Corrected(repair.told, settings.method)
    made, shown = yield from _made(repair, settings, seed, bare)
    card: Card = yield from judged(repair, made.network, settings.method)
    card = replace(
        card,
        changed_share=made.changed.share,
        seconds=shown.seconds,
        settings=made.patch.recipe.params,  # type: ignore[arg-type]
        tuned_on=shown.tuned_on,
    )
    return AtGamma(share, len(repair.flagged), card)


def export(
    *,
    seed: int,
    model: ModelRef | str = "fashion-poisoned",
    gamma: Annotated[float, Range(0, 1, "0.1 is a tenth of what was manipulated.")] = 0.1,
    false_flags: Annotated[int, Range(0, MOST_FALSE)] = 0,
    indices: Indices = (),
    index_table: IndexTable = "",
    pictures: PictureSet = "",
    retain: PictureSet = "",
    test: PictureSet = "",
    trigger: PictureSetting | None = None,
    target: ClassName = "",
    stamped: Annotated[int, Range(1, MOST_STAMPED, "100 are enough.")] = 100,
    way: Annotated[str, OneOf(METHODS)] = "SSD",
    unit: Annotated[str, OneOf(UNITS)] = "sample",
    alpha: Alpha = 0.0,
    lam: Lambda = 1.0,
    retained: Annotated[int, Range(16, MOST_RETAINED, "4000 are enough.")] = 4000,
    chunk: Chunk = 0,
    form: Annotated[str, OneOf(FORMS)] = "patch",
) -> Steps[Exported]:
    """The repair as files, read back: "patch", "checkpoint" (with what undoes it) or "card"."""
    form = checks.choice("form", form, FORMS)
    flags = Flags.of(gamma, false_flags, indices or index_table, pictures, trigger, target, stamped)
    settings = _Settings.of(seed, flags, way, unit, alpha, lam, retained, chunk)
    repair = opened(model, flags, seed, retain=retain, test=test)
    yield Progress(0, 4, settings.method)
    made, shown = yield from relay(
        _made(repair, settings, seed, Corrected(repair.told, settings.method)),
        lambda event: replace(event, preview=None),
    )
    card = yield from relay(
        judged(repair, made.network, settings.method), always(Progress(3, 4, settings.method))
    )
    told: dict[str, Plain] = dict(made.patch.recipe.params)  # type: ignore[arg-type]
    card = replace(card, settings=told, tuned_on=shown.tuned_on)
    return exported(repair.bundle, made.patch, card, form)
