"""The jobs: all ways on one sheet, two of them against one another, one of them to take along."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from torch import nn

from engine.core.baked import Baked
from engine.core.catalog import Exactness, RoundTrip
from engine.core.errors import BadInput, PatchConflict
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, State, state_fingerprint
from engine.core.precision import state_at_home
from engine.core.recipe import ModelRef, Recipe
from engine.core.reversible import compare
from engine.core.settings import Items, OneOf, Range
from engine.core.shapes import Float, Tensor
from engine.core.taking import taking
from engine.metrics.intervals import Rate
from engine.models.library import load, resolve, with_tensors
from engine.unlearning import _stored as stored
from engine.unlearning._baselines import WAYS, Sets
from engine.unlearning._card import rate_of
from engine.unlearning._case import Case, Question, always, judged, outputs
from engine.unlearning._compare import (
    Agreement,
    Relearning,
    grams,
    layers_of,
    relearned,
    similarity,
)
from engine.unlearning._dampening import Changed, Dampening, automatic_alpha, ratios
from engine.unlearning._export import FORMS, Exported, exported
from engine.unlearning._importance import Measure
from engine.unlearning._samples import Samples
from engine.unlearning._settings import LAMBDA, Alpha, Unit
from engine.unlearning._world import TRIGGERS
from engine.unlearning.forgetting_lab import METHODS, ORIGINAL, RETRAINED
from engine.unlearning.forgetting_lab.results import (
    Laboratory,
    OfClass,
    OfLayer,
    OfPicture,
    Order,
    Pair,
    Point,
    Row,
)

COMPARED, MOST_RELEARN, MOST_SHOWN = 400, 200, 24
RELEARN_RATE, REGAINED = 0.02, 0.8
DAMPENING = ("SSD", "label-free SSD")
EVERY = (ORIGINAL, RETRAINED, *METHODS)


@dataclass(frozen=True)
class _Settings:
    """By which ways is forgotten, and how relearning is tried."""

    ways: tuple[str, ...]
    unit: str
    alpha: float
    relearn_samples: int
    relearn_steps: int


@dataclass(frozen=True, eq=False)
class Made:
    """A network by one way, with its cost and its patch; the original has none."""

    name: str
    network: nn.Module
    first_seconds: float = 0.0
    stored_seconds: float | None = None
    patch: Patch | None = None
    note: str = ""


Making = Generator[str, None, Made]


@taking(question=Question)
def run(
    *,
    seed: int,
    question: Question,
    model: ModelRef | str = "fashion",
    methods: Annotated[Sequence[Annotated[str, OneOf(METHODS)]], Items(len(METHODS))] = (
        "SSD",
        "fine-tuning",
        "bad teacher",
    ),
    unit: Unit = "sorted",
    alpha: Alpha = 0.0,
    relearn_samples: Annotated[int, Range(1, 1000, "32 are few.")] = 32,
    relearn_steps: Annotated[int, Range(0, MOST_RELEARN, "40 are enough.")] = 40,
) -> Steps[Laboratory]:
    """Every way on one case: cards, distances to the retrained network, relearning, cost, plane.

    The original comes first and the retrained network second, where there is one.
    """
    ways = tuple(dict.fromkeys(methods))
    settings = _Settings(ways, unit, alpha, relearn_samples, relearn_steps)
    case = question.case(model, seed)
    shown = Laboratory(
        case.forget.name,
        case.reference,
        len(case.forget_set),
        notes=_notes(case, settings),
    )
    yield Progress(0, 1, "Loading the model", shown)
    reference = yield from _reference(case, seed, shown)
    total = len(settings.ways) + (1 if case.reference else 0) + 1
    for turn, name in enumerate(_order(case, settings)):
        made = yield from relay(
            making(case, name, settings.unit, settings.alpha, seed),
            _noted(turn, total, shown),
        )
        row = yield from relay(
            _row(case, made, reference, settings, seed),
            always(Progress(turn, total, name, shown)),
        )
        rows = (*shown.rows, row)
        shown = replace(shown, rows=rows, points=plane(rows))
        yield Progress(turn + 1, total, name, shown)
    return shown


def _noted(done: int, total: int, shown: object) -> Callable[[str], Progress]:
    """Notes as progress that stands where it is."""
    return lambda note: Progress(done, total, note, shown)


def _order(case: Case, settings: _Settings) -> tuple[str, ...]:
    retrained = (RETRAINED,) if case.reference else ()
    return (ORIGINAL, *retrained, *settings.ways)


def _notes(case: Case, settings: _Settings) -> tuple[str, ...]:
    told = []
    if not case.reference:
        told.append(
            "No network was retrained without this forget set, so distances are to nothing; "
            "retraining takes about as long as the first training."
        )
    trained = [name for name in settings.ways if name not in DAMPENING]
    if trained:
        told.append(f"{', '.join(trained)}: one epoch each, less than in their publications.")
    return tuple(told)


# ---------------------------------------------------------------------- making


def making(case: Case, name: str, unit: str, alpha: float, seed: int) -> Making:
    """The network of a way; yields what is being done."""
    if name == ORIGINAL:
        return Made(name, case.model)
    if name == RETRAINED:
        if not case.reference:
            raise BadInput(
                "No network was retrained without this forget set.",
                "Forget the bags, the T-shirts or the sandals, or compare other ways.",
            )
        return Made(name, load(ModelRef(case.reference), dtype="float32").model)
    if name in DAMPENING:
        return (yield from _dampened(case, name, unit, alpha, seed))
    if case.retain_set is None:
        raise BadInput(f"{name} needs retain data, and none was given.", "Upload a zip of it.")
    begun = time.perf_counter()
    training = WAYS[name](case.model, Sets(case.retain_set, case.forget_set, seed))
    network = yield from relay(training, always(f"Training {name}"))
    spent = time.perf_counter() - begun
    return Made(name, network, spent, patch=_patch(case, network.state_dict(), name, seed))


def _dampened(case: Case, name: str, unit: str, alpha: float, seed: int) -> Making:
    measure = Measure(unit, name == "label-free SSD", seed=seed)  # type: ignore[arg-type]
    begun = time.perf_counter()
    source, streaming = stored.of_all_data(case, measure, ())
    full = yield from relay(streaming, always(f"{name}: importance of all data"))
    between = time.perf_counter()
    forgets = stored.of_forget_set(case, measure, ())
    forget = yield from relay(forgets, always(f"{name}: importance of the forget set"))
    how = Dampening(alpha or automatic_alpha(ratios(forget, full)), LAMBDA)
    state = case.model.state_dict()
    tensors = how.edit(state, forget, full)
    ended = time.perf_counter()
    patch = _patch(case, {**state, **tensors}, name, seed)
    note = f"{name}: importances {source.told}, alpha {how.alpha:.3g}"
    network = with_tensors(case.model, tensors)
    return Made(name, network, ended - begun, ended - between, patch, note)


def _patch(case: Case, new: State, name: str, seed: int) -> Patch:
    params = {"methods": [name], **case.forget.plain()}
    label = f"forget {case.forget.name} by {name}"[:80]
    ref = resolve(case.bundle.ref)
    recipe = Recipe("forgetting_lab", "run", ref, params, seed, label=label)
    return Patch.between(case.model.state_dict(), new, recipe, sparse=True)


# ---------------------------------------------------------------------- judging


@dataclass(frozen=True, eq=False)
class _Reference:
    """What the retrained network says and sees, to be held against."""

    kept: Float[Tensor, "n k"]
    forgotten: Float[Tensor, "m k"]
    grams: Mapping[str, Float[Tensor, "p p"]]


def _sets(case: Case, seed: int) -> tuple[Samples, Samples] | None:
    """Unseen pictures that are kept, and forgotten ones: unseen where there are such."""
    if case.test_retain is None:
        return None
    forgotten = case.test_forget or case.forget_set
    return tuple(s.some(COMPARED, seed, "compared") for s in (case.test_retain, forgotten))  # type: ignore[return-value]


def _reference(
    case: Case, seed: int, shown: Laboratory
) -> Generator[Progress, None, _Reference | None]:
    sets = _sets(case, seed)
    if not case.reference or sets is None:
        return None
    network = load(ModelRef(case.reference), dtype="float32").model
    return (
        yield from relay(
            _seen(network, sets), always(Progress(0, 1, "The retrained network", shown))
        )
    )


def _seen(network: nn.Module, sets: tuple[Samples, Samples]) -> Generator[None, None, _Reference]:
    kept = yield from outputs(network, sets[0])
    forgotten = yield from outputs(network, sets[1])
    found = yield from grams(network, sets[0].joined(sets[1]), layers_of(network))
    return _Reference(kept, forgotten, found)


def _row(
    case: Case, made: Made, reference: _Reference | None, settings: _Settings, seed: int
) -> Generator[object, None, Row]:
    card = yield from judged(case, made.network, made.name, seed)
    if made.patch is not None:
        card = replace(card, changed_share=_changed_share(case, made), before=_before(case))
    row = Row(
        made.name,
        card,
        first_seconds=made.first_seconds,
        stored_seconds=made.stored_seconds,
        patch=made.patch,
        undo=None if made.patch is None else _undone(case, made.patch),
    )
    sets = _sets(case, seed)
    if reference is not None and sets is not None:
        mine = yield from _seen(made.network, sets)
        row = replace(
            row,
            agreement=Agreement.of(mine.kept, reference.kept),
            agreement_forgotten=Agreement.of(mine.forgotten, reference.forgotten),
            similarity=similarity(mine.grams, reference.grams),
        )
    if settings.relearn_steps and made.name != ORIGINAL:
        row = replace(row, relearning=(yield from _relearning(case, made, settings, seed)))
    return (yield from _with_attack(case, made, row))


def _before(case: Case) -> str:
    return state_fingerprint(case.model.state_dict())


def _changed_share(case: Case, made: Made) -> float:
    old = dict(case.model.named_parameters())
    new = made.network.state_dict()
    return Changed.between(old, {name: new[name] for name in old}).share


def _undone(case: Case, patch: Patch) -> RoundTrip:
    state = case.model.state_dict()
    return compare(dict(state), dict(patch.undo(patch.apply(state))))


def _relearning(
    case: Case, made: Made, settings: _Settings, seed: int
) -> Generator[None, None, Relearning]:
    """On a few forgotten samples; judged on unseen ones, or on those that were not trained on."""
    judge = (case.test_forget or case.forget_set).some(COMPARED, seed, "relearned")
    original = yield from outputs(case.model, judge)
    goal = REGAINED * float((original.argmax(1) == judge.labels).float().mean())
    return (
        yield from relearned(
            made.network,
            case.forget_set,
            judge,
            samples=settings.relearn_samples,
            steps=settings.relearn_steps,
            rate=RELEARN_RATE,
            goal=goal,
            seed=seed,
        )
    )


def _with_attack(case: Case, made: Made, row: Row) -> Generator[object, None, Row]:
    """How often a planted trigger still gets its way, where the model has one."""
    trigger = TRIGGERS.get(case.bundle.ref.source)
    if trigger is None or case.test_retain is None:
        return row
    tests = case.test_retain.take(case.test_retain.labels != trigger.target)
    told = yield from outputs(made.network, trigger.planted(tests.some(COMPARED, 0, "attacked")))
    return replace(row, attack_success=rate_of(told.argmax(1) == trigger.target))


def plane(rows: Sequence[Row]) -> tuple[Point, ...]:
    """Forgotten against kept; the best are those that no other one beats in both.

    The retrained network is drawn and takes part in nothing: it is what all others aim at.
    """
    told = [
        (row.name, forget, row.card.retain_test)
        for row in rows
        if (forget := row.card.forget_test or row.card.forget_train) and row.card.retain_test
    ]
    compared = [one for one in told if one[0] != RETRAINED]

    def is_beaten(forget: Rate, retain: Rate) -> bool:
        return any(
            (f.rate, -r.rate) != (forget.rate, -retain.rate)
            and f.rate <= forget.rate
            and r.rate >= retain.rate
            for _, f, r in compared
        )

    return tuple(
        Point(name, forget, retain, name != RETRAINED and not is_beaten(forget, retain))
        for name, forget, retain in told
    )


# ---------------------------------------------------------------------- two at a time


@taking(question=Question)
def pair(
    *,
    seed: int,
    question: Question,
    model: ModelRef | str = "fashion",
    first: Annotated[str, OneOf(EVERY)] = "SSD",
    second: Annotated[str, OneOf(EVERY)] = "retrained",
    unit: Unit = "sorted",
    alpha: Alpha = 0.0,
    pictures_shown: Annotated[int, Range(0, MOST_SHOWN)] = 12,
    stack: bool = False,
) -> Steps[Pair]:
    """Two ways by class, by picture and by layer, and their edits in every order.

    `stack` makes the second edit once more, on the network with the first one, and takes both off.
    """
    case = question.case(model, seed)
    shown = Pair(first, second)
    yield Progress(0, 4, "Loading the model", shown)
    a, b = yield from _both(case, (first, second), unit, alpha, seed, shown)
    samples = _all_unseen(case, seed)
    told_a, told_b = yield from _said(case, (a, b), samples, shown)
    shown = replace(
        shown,
        agreement=Agreement.of(told_a, told_b),
        classes=_by_class(case, samples, told_a, told_b),
        pictures=_by_picture(case, samples, told_a, told_b, pictures_shown),
    )
    yield Progress(2, 4, "By class and picture", shown)
    some = samples.some(COMPARED, seed, "layers")
    layers = relay(_by_layer(a.network, b.network, some), always(Progress(3, 4, "Layers", shown)))
    shown = replace(shown, layers=(yield from layers))
    shown = replace(shown, orders=orders(case.model.state_dict(), a.patch, b.patch))
    if not stack or a.patch is None or second in (ORIGINAL, RETRAINED):
        return shown
    upon = replace(case, bundle=replace(case.bundle, model=a.network))
    making_upon = making(upon, second, unit, alpha, seed)
    top = yield from relay(making_upon, _noted(3, 4, shown))
    stacked = orders(case.model.state_dict(), a.patch, top.patch)
    return replace(shown, orders=(*shown.orders, *stacked[2:]))


def _both(
    case: Case, names: tuple[str, str], unit: str, alpha: float, seed: int, shown: Pair
) -> Generator[Progress, None, list[Made]]:
    found = []
    for turn, name in enumerate(names):
        steps = making(case, name, unit, alpha, seed)
        made = yield from relay(steps, _noted(turn, 4, shown))
        found.append(made)
    return found


def _all_unseen(case: Case, seed: int) -> Samples:
    """Unseen pictures of both kinds, or what there is."""
    parts = [s for s in (case.test_retain, case.test_forget or case.forget_set) if s is not None]
    joined = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
    return joined.some(2000, seed, "pair")


def _said(
    case: Case, both: tuple[Made, Made], samples: Samples, shown: Pair
) -> Generator[Progress, None, list[Tensor]]:
    found = []
    for made in both:
        steps = outputs(made.network, samples)
        found.append((yield from relay(steps, always(Progress(2, 4, "Unseen pictures", shown)))))
    return found


def _by_class(case: Case, samples: Samples, a: Tensor, b: Tensor) -> tuple[OfClass, ...]:
    forgotten = set(case.forget_set.labels.tolist())

    def rate(told: Tensor, label: int) -> Rate | None:
        return rate_of((told.argmax(1) == label)[samples.labels == label])

    return tuple(
        OfClass(name, rate(a, label), rate(b, label), label in forgotten)
        for label, name in enumerate(case.bundle.classes)
    )


def _by_picture(
    case: Case, samples: Samples, a: Tensor, b: Tensor, count: int
) -> tuple[OfPicture, ...]:
    """Those whose outputs are furthest apart."""
    gap = (a - b).abs().sum(1)
    names = case.bundle.classes
    forgotten = set(case.forget_set.labels.tolist())
    shown = samples.pixels.expand(-1, 3, -1, -1) if samples.pixels.shape[1] == 1 else samples.pixels
    found = []
    for i in gap.argsort(descending=True)[:count].tolist():
        label = int(samples.labels[i])
        truth = max(label, 0)
        found.append(
            OfPicture(
                np.ascontiguousarray(shown[i].permute(1, 2, 0).numpy()),
                names[label] if label >= 0 else "",
                names[int(a[i].argmax())],
                names[int(b[i].argmax())],
                float(a[i, truth]),
                float(b[i, truth]),
                label in forgotten,
            )
        )
    return tuple(found)


def _by_layer(
    a: nn.Module, b: nn.Module, samples: Samples
) -> Generator[None, None, tuple[OfLayer, ...]]:
    names = layers_of(a)
    ours = yield from grams(a, samples, names)
    theirs = yield from grams(b, samples, names)
    alike = similarity(ours, theirs)
    here, there = (state_at_home(dict(model.named_parameters())) for model in (a, b))
    return tuple(OfLayer(name, alike[name], _weight_distance(here, there, name)) for name in names)


def _weight_distance(a: State, b: State, layer: str) -> float:
    """How far the weights of a layer moved, over their size."""
    pairs = [(a[name], b[name]) for name in a if name.startswith(f"{layer}.")]
    moved = sum(float((p.double() - q.double()).square().sum()) for p, q in pairs)
    size = sum(float(p.double().square().sum()) for p, _ in pairs)
    return (moved / size) ** 0.5 if size else 0.0


def orders(state: State, first: Patch | None, second: Patch | None) -> tuple[Order, ...]:
    """Both edits, applied and undone in each order, from the same base.

    The second edit is carried over to the first one's result by its own bits where their tensors
    are disjoint; where they overlap, it is refused by name, which is told.
    """
    if first is None or second is None:
        return ()
    one, two = ("+", first), ("+", second)
    off_one, off_two = ("-", first), ("-", second)
    tried = (
        (one, off_one),
        (two, off_two),
        (one, two, off_two, off_one),
        (one, two, off_one, off_two),
    )
    return tuple(_tried(state, steps) for steps in tried)


def _tried(state: State, steps: Sequence[tuple[str, Patch]]) -> Order:
    now: State = state
    told = []
    for sign, patch in steps:
        told.append(f"{'apply' if sign == '+' else 'undo'} {patch.name}")
        move: Callable[[State], State] = patch.apply if sign == "+" else patch.undo
        try:
            now = move(now)
        except PatchConflict as conflict:
            return Order(tuple(told), f"refused: {conflict.message}", False)
    exact = compare(dict(state), dict(now)).exactness is Exactness.BITWISE
    return Order(tuple(told), "every bit is back" if exact else "differs", exact)


# ---------------------------------------------------------------------- taken along


@dataclass(frozen=True)
class Chosen:
    """One way, as jobs take it; `unit` and `alpha` are those of dampening."""

    way: Annotated[str, OneOf(METHODS)] = "SSD"
    unit: Unit = "sorted"
    alpha: Alpha = 0.0


@taking(question=Question, chosen=Chosen)
def bake(
    *, seed: int, question: Question, chosen: Chosen, model: ModelRef | str = "fashion"
) -> Steps[Baked]:
    """The edit of one way as a patch, applied and undone once to see every bit come back."""
    case = question.case(model, seed)
    _, patch = yield from _alone(case, chosen, seed)
    state = case.model.state_dict()
    return Baked.of(patch.name, patch, {name: state[name] for name in patch.before})


@taking(question=Question, chosen=Chosen)
def export(
    *,
    seed: int,
    question: Question,
    chosen: Chosen,
    model: ModelRef | str = "fashion",
    form: Annotated[str, OneOf(FORMS)] = "patch",
) -> Steps[Exported]:
    """The edit of one way as files, read back: "patch", "checkpoint" or "card"."""
    case = question.case(model, seed)
    made, patch = yield from _alone(case, chosen, seed)
    judging = judged(case, made.network, chosen.way, seed)
    card = yield from relay(judging, always(Progress(1, 2, "Judging it")))
    card = replace(card, changed_share=_changed_share(case, made), before=_before(case))
    return exported(case.bundle, patch, card, form)


def _alone(case: Case, chosen: Chosen, seed: int) -> Generator[Progress, None, tuple[Made, Patch]]:
    yield Progress(0, 2, chosen.way)
    steps = making(case, chosen.way, chosen.unit, chosen.alpha, seed)
    made = yield from relay(steps, _noted(0, 2, None))
    assert made.patch is not None
    return made, made.patch
