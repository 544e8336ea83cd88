"""The jobs: repair by one method, compare methods over the share that was found, export the edit.

What is flagged and how a repair is judged is in `repair`, the automatic choice in `rule`.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, TypeAlias

from torch import nn

from engine.core.baked import Baked
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Plain, Recipe
from engine.core.reversible import compare
from engine.core.settings import Items, OneOf, Range, checked
from engine.core.taking import taking
from engine.models.library import resolve, with_tensors
from engine.unlearning._baselines import (
    Sets,
    Trained,
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
from engine.unlearning._importance import Unit as GradientUnit
from engine.unlearning._settings import Alpha, Chunk, Lambda
from engine.unlearning._thumbnails import Thumbnails
from engine.unlearning.corrective import rule
from engine.unlearning.corrective.repair import (
    FalseFlags,
    Flags,
    Repair,
    judged,
    opened,
)
from engine.unlearning.corrective.results import AtGamma, Corrected, Curves, TriedWay

METHODS = ("SSD", "RewoD", "CF", "SCRUB", "BadT")
BATCH, MOST_RETAINED, MOST_GAMMAS, SHOWN = 128, 20_000, 12, 16
UNITS = ("mixed", "sample")
WAYS: Mapping[str, Callable[..., Trained]] = {
    "CF": catastrophic,
    "SCRUB": scrub,
    "BadT": bad_teacher,
    "RewoD": retrain,
}
OF_LAST = ("CF", "RewoD")
Unit: TypeAlias = Annotated[str, OneOf(UNITS)]
Retained: TypeAlias = Annotated[int, Range(16, MOST_RETAINED, "4000 are enough.")]
ORACLE = "oracle: the settings were given by hand, maybe by looking at the test"


@dataclass(frozen=True)
class How:
    """How a repair is made, as jobs take it. `alpha` 0 leaves both numbers to the automatic rule.

    `way` is "SSD", or one that trains: "CF", "SCRUB", "BadT", or "RewoD" from new weights. With
    `tune` the rule chooses the settings of a way that trains, too. `last` lets CF and RewoD train
    that many layers from the end and no others. SSD looks at `retained` samples that were not
    flagged.
    """

    way: Annotated[str, OneOf(METHODS)] = "SSD"
    unit: Unit = "sample"
    alpha: Alpha = 0.0
    lam: Lambda = 1.0
    retained: Retained = 4000
    chunk: Chunk = 0
    tune: bool = False
    last: Annotated[int, Range(0, 1000, "0 trains all layers.")] = 0

    @classmethod
    def of(cls, **values: object) -> "How":
        """From plain settings, checked. Raises `BadInput`."""
        how = cls(**checked(cls, values))  # type: ignore[arg-type]
        if how.last and how.way not in OF_LAST:
            raise BadInput(
                f"last is for {' and '.join(OF_LAST)}; {how.way} changes all layers.",
                "Set it to 0.",
            )
        return how

    def measure(self, seed: int) -> Measure:
        """The gradients of it."""
        unit: GradientUnit = self.unit  # type: ignore[assignment]
        return Measure(unit, batch=BATCH, chunk=self.chunk, seed=seed)


@dataclass(frozen=True)
class _Settings:
    """What was flagged, and how the repair is made."""

    flags: Flags
    how: How
    measure: Measure

    @classmethod
    def of(cls, flags: Flags, how: How, seed: int) -> "_Settings":
        return cls(flags, how, how.measure(seed))

    @property
    def method(self) -> str:
        """The name of the way."""
        return self.how.way

    def plain(self, how: Dampening | None) -> dict[str, Plain]:
        """The settings of a run that makes this very repair, the dampening's numbers filled in."""
        found: dict[str, Plain] = {**self.flags.plain(), "way": self.method}
        if how is not None:
            found |= {"unit": self.measure.unit, "alpha": how.alpha, "lam": how.lam}
        if self.how.tune:
            found["tune"] = True
        if self.how.last:
            found["last"] = self.how.last
        return {**found, "retained": self.how.retained}


@taking(flags=Flags, how=How)
def run(
    *,
    seed: int,
    flags: Flags,
    how: How,
    model: ModelRef | str = "fashion-poisoned",
) -> Steps[Corrected]:
    """Repair with what was flagged, judge beside the original, and undo."""
    settings = _Settings.of(flags, how, seed)
    repair = opened(model, flags, seed)
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
    told = "nothing: the settings of the publication, one short round"
    if settings.how.tune and settings.method in rule.GRIDS:
        network, shown = yield from _tuned(repair, settings.method, seed, shown)
        told = rule.TUNED_ON
    else:
        given = {"last": settings.how.last} if settings.how.last else {}
        training = trained(repair, settings.method, seed, given)
        network = yield from relay(training, always(Progress(1, 4, settings.method, shown)))
    shown = replace(shown, tuned_on=told, seconds={"edit": time.perf_counter() - begun})
    return _patched(repair, network, settings, None, seed), shown


def trained(
    repair: Repair,
    method: str,
    seed: int,
    settings: Mapping[str, float] = MappingProxyType({}),
    *,
    hold_out: bool = False,
) -> Trained:
    """One of the ways that train, on the flagged and the other samples.

    With `hold_out` it does not see what is held out, so that the rule can look at it.
    """
    rest = repair.retained
    if rest is None:
        raise BadInput(f"{method} needs retained samples.", "Upload a zip of them.")
    if repair.held_out is not None and not hold_out:
        rest = rest.joined(repair.held_out)
    return WAYS[method](repair.model, Sets(rest, repair.flagged, seed), **settings)


def tuned(
    repair: Repair, method: str, seed: int
) -> Generator[tuple[TriedWay, ...], None, tuple[nn.Module, tuple[TriedWay, ...]]]:
    """A way that trains with the settings of its grid that the rule takes."""
    assert repair.held_out is not None
    return rule.trained_best(
        lambda settings: trained(repair, method, seed, settings, hold_out=True),
        repair.flagged,
        repair.held_out,
        rule.GRIDS[method],
    )


def _tuned(
    repair: Repair, method: str, seed: int, shown: Corrected
) -> Generator[Progress, None, tuple[nn.Module, Corrected]]:
    total = len(rule.GRIDS[method])

    def told(found: tuple[TriedWay, ...]) -> Progress:
        note = f"{method}, setting {min(len(found) + 1, total)} of {total}"
        return Progress(1, 4, note, replace(shown, tried_ways=found))

    network, seen = yield from relay(tuned(repair, method, seed), told)
    return network, replace(shown, tried_ways=seen)


def _dampened(
    repair: Repair, settings: _Settings, seed: int, shown: Corrected
) -> Generator[Progress, None, tuple[_Made, Corrected]]:
    """Importances of the flagged and of retained samples, the settings, the edit."""
    begun = time.perf_counter()
    pair = yield from importances(repair, settings.measure, settings.how.retained, seed, shown)
    between = time.perf_counter()
    shown = replace(shown, unit=settings.measure.unit)
    how, told = Dampening(settings.how.alpha, settings.how.lam), ORACLE
    if not settings.how.alpha:
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
    false_flags: FalseFlags = 0,
    unit: Unit = "sample",
    alpha: Alpha = 0.0,
    lam: Lambda = 1.0,
    retained: Retained = 4000,
    tune: bool = False,
) -> Steps[Curves]:
    """Every method at every share, one point after the other; the original's comes first."""
    flags = [Flags(gamma, false_flags) for gamma in gammas]
    ways = [How(name, unit, alpha, lam, retained, tune=tune) for name in methods]
    total = len(gammas) * len(methods) + 1
    first = opened(model, flags[0], seed)
    note = ("RewoD is the only slow one: it trains anew at every share.",)
    shown = Curves(first.kind, notes=note if "RewoD" in methods else ())
    card = yield from relay(
        judged(first, first.model, "original"), always(Progress(0, total, "original", shown))
    )
    shown = replace(shown, points=(AtGamma(0.0, 0, card),))
    for flag in flags:
        repair = opened(model, flag, seed)
        for how in ways:
            done, note_of = len(shown.points), f"{how.way} at {flag.gamma:g}"
            point = yield from relay(
                _point(repair, _Settings.of(flag, how, seed), seed),
                always(Progress(done, total, note_of, shown)),
            )
            shown = replace(shown, points=(*shown.points, point))
            yield Progress(done + 1, total, note_of, shown)
    return shown


def _point(repair: Repair, settings: _Settings, seed: int) -> Generator[object, None, AtGamma]:
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
    return AtGamma(settings.flags.gamma, len(repair.flagged), card)


@taking(flags=Flags, how=How)
def bake(
    *, seed: int, flags: Flags, how: How, model: ModelRef | str = "fashion-poisoned"
) -> Steps[Baked]:
    """The repair as a patch, applied and undone once to see every bit come back."""
    settings = _Settings.of(flags, how, seed)
    repair = opened(model, flags, seed)
    yield Progress(0, 4, settings.method)
    made, _ = yield from relay(
        _made(repair, settings, seed, Corrected(repair.told, settings.method)),
        lambda event: replace(event, preview=None),
    )
    state = repair.model.state_dict()
    return Baked.of(made.patch.name, made.patch, {n: state[n] for n in made.patch.before})


@taking(flags=Flags, how=How)
def export(
    *,
    seed: int,
    flags: Flags,
    how: How,
    model: ModelRef | str = "fashion-poisoned",
    form: Annotated[str, OneOf(FORMS)] = "patch",
) -> Steps[Exported]:
    """The repair as files, read back: "patch", "checkpoint" (with what undoes it) or "card"."""
    settings = _Settings.of(flags, how, seed)
    repair = opened(model, flags, seed)
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
