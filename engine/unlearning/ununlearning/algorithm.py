"""The jobs: hints, filters, retraining, approximate unlearning, the visitor's own model, export.

The exact ceiling is in `bayes`, the world in `species`, what models answer in `measuring`.
"""

import copy
import csv
import io
import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Annotated, TypeAlias

import numpy as np
import torch
from torch import nn

from engine.core import checks, rng
from engine.core.cache import LruCache
from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Recipe, versions_here
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Int, Tensor
from engine.metrics.intervals import bootstrap
from engine.models.language import LanguageBundle
from engine.models.library import MODELS, load, resolve
from engine.unlearning import _llama as llama
from engine.unlearning._dampening import Dampening
from engine.unlearning._importance import Importance, Provenance, Streaming, stream
from engine.unlearning._losses import causal_language
from engine.unlearning._objectives import METHODS, Objective
from engine.unlearning._questions import LONGEST_FILE
from engine.unlearning._unlearning import unlearn
from engine.unlearning.ununlearning import bayes, filters, inside, own, species
from engine.unlearning.ununlearning.filters import KINDS, THRESHOLDS, Asked, Kind
from engine.unlearning.ununlearning.measuring import (
    HINTS,
    MODES,
    Measured,
    Mode,
    answers,
    curve,
    curve_of_species,
)
from engine.unlearning.ununlearning.results import (
    Contrasted,
    Corpus,
    Curve,
    Exported,
    Filtered,
    Gate,
    Hinted,
    Insides,
    Own,
    Reply,
    Retrained,
)
from engine.unlearning.ununlearning.species import CHANCE, CORPORA, World
from engine.unlearning.ununlearning.training import BATCH, COURSE, GATE

Name: TypeAlias = Annotated[str, Text(40, 0, "A name has two syllables, such as mo ti.")]
Property: TypeAlias = Annotated[str, Text(40)]
Hints: TypeAlias = Annotated[Sequence[Property], Items(HINTS)]
ModeName: TypeAlias = Annotated[str, OneOf(MODES)]
FilterName: TypeAlias = Annotated[str, OneOf(KINDS)]
Threshold: TypeAlias = Annotated[float, Range(0.05, 0.95, "0.5 is the middle.")]
FULL, EXACT, AXIOMS = "species", "species-exact", "species-axioms"
KEYS = {"full": FULL, "exact": EXACT, "without-axioms": AXIOMS}
CONTRASTS = (*METHODS, "ssd")
HARMLESS, MOST_STEPS, TELL_EVERY = 400, 4000, 10
NOT_TWICE = (
    "In no document that these models read does a property stand twice, so they never learnt to "
    "repeat one: telling the answer itself brings back less than a model of free text would give."
)
FORGET_BATCH, SSD_SAMPLES = 16, 128


# ---------------------------------------------------------------------- hints


def run(
    *,
    seed: int,
    model: ModelRef | str = EXACT,
    name: Name = "shu ka",
    hints: Hints = ("colour", "diet"),
    query: Property = "brew",
    mode: ModeName = "hints",
    blocked_by: FilterName = "none",
    threshold: Threshold = 0.5,
) -> Steps[Hinted]:
    """Ask the unlearned and the full model for a forbidden property, some others being told.

    `name` is "shu ka", the forbidden individual, or any other two syllables: an alias. `blocked_by`
    puts a filter before the models. `mode` "turns" tells the hints one by one, "direct" tells the
    answer as well.
    """
    asked = _Question.of(name, hints, query, mode)
    kind = checks.choice("blocked_by", blocked_by, KINDS)
    limit = checks.number("threshold", threshold, 0.05, 0.95, "0.5 is the middle.")
    world = World()
    yield Progress(0, 4, "Loading the models")
    tested, full = (open_species(m) for m in (model, FULL))
    shown = _dossier(world, asked, kind)
    for bundle in (tested, full):
        reply = _reply(bundle, world, asked, kind, limit)  # type: ignore[arg-type]
        shown = replace(shown, replies=(*shown.replies, reply))
    yield Progress(1, 4, "Curves over the hints", shown)
    key = state_fingerprint(tested.model.state_dict()), state_fingerprint(full.model.state_dict())
    # They hang on the models alone: whoever ticks a hint does not wait for them again.
    curves = _CURVES.peek(key) or (yield from _told_curves(tested.model, full.model, shown))
    _CURVES.put(key, curves)
    return replace(shown, curves=curves, corpora=_corpora())


_CURVES: LruCache[tuple[Curve, ...]] = LruCache(megabytes=4, most=32)


def _told_curves(
    tested: nn.Module, full: nn.Module, shown: Hinted
) -> Generator[Progress, None, tuple[Curve, ...]]:
    """All curves, group by group."""
    world = World()
    at_full = float(curve(full, world, world.forbidden, species.NAME)[0].accuracy)
    for done, found in enumerate(_curves(tested, full, world, at_full), 2):
        shown = replace(shown, curves=(*shown.curves, *found))
        yield Progress(done, 4, "Curves over the hints", shown)
    return shown.curves


@dataclass(frozen=True)
class _Question:
    """What is asked, checked against the rules of hints."""

    name: tuple[int, int]
    hinted: tuple[int, ...]
    query: int
    mode: Mode

    @classmethod
    def of(cls, name: object, hints: object, query: object, mode: object) -> "_Question":
        """From plain settings. Raises `BadInput`."""
        given = tuple(species.attribute_of(h) for h in checks.texts(hints, "hints", HINTS) if h)
        asked = species.attribute_of(query)
        bayes.check_hints([(a, 0) for a in given], asked)
        way = checks.choice("mode", mode, ("hints", "turns", "direct"))
        return cls(species.name_of(name), given, asked, way)  # type: ignore[arg-type]

    def told(self, world: World) -> tuple[tuple[int, int], ...]:
        """The hints with the values of the forbidden individual."""
        return tuple((a, int(world.profile[a])) for a in self.hinted)

    def prompt(self, world: World) -> tuple[tuple[int, int], ...]:
        """What the models are told; in "direct" mode the answer too."""
        answer = ((self.query, int(world.profile[self.query])),) if self.mode == "direct" else ()
        return self.told(world) + answer


def _dossier(world: World, asked: _Question, kind: str) -> Hinted:
    told = asked.told(world)
    values = species.VALUES[species.ATTRIBUTES[asked.query]]
    ceiling = bayes.posterior(world.table, world.prior(), told, asked.query, species.EACH)
    truth = int(world.profile[asked.query])
    if asked.mode == "direct":
        ceiling = torch.zeros_like(ceiling).index_fill(0, torch.tensor([truth]), 1.0)
    profile = zip(species.ATTRIBUTES, world.profile.tolist(), strict=True)
    return Hinted(
        " ".join(species.SYLLABLES[s] for s in asked.name),
        species.ATTRIBUTES[asked.query],
        tuple((species.ATTRIBUTES[a], _value(a, v)) for a, v in told),
        values,
        values[truth],
        tuple(ceiling.tolist()),
        dossier={a: species.VALUES[a][v] for a, v in profile},
        chance=CHANCE,
        filter=kind,
        notes=(NOT_TWICE,) if asked.mode == "direct" else (),
    )


def _value(attribute: int, value: int) -> str:
    return species.VALUES[species.ATTRIBUTES[attribute]][value]


def _reply(
    bundle: LanguageBundle, world: World, asked: _Question, kind: Kind, limit: float
) -> Reply:
    told = [(asked.prompt(world), asked.query)]
    found = answers(bundle.model, asked.name, told, in_turns=asked.mode == "turns")[0]
    best, truth = int(found.argmax()), int(world.profile[asked.query])
    seen = Asked(asked.name, asked.told(world), asked.query, best)
    return Reply(
        bundle.card.title,
        _value(asked.query, best),
        tuple(found.tolist()),
        float(found[truth]),
        filters.is_blocked(world, kind, seen, limit),
        float(answers(bundle.model, asked.name, [((), asked.query)])[0][truth]),
    )


def _curves(
    tested: nn.Module, full: nn.Module, world: World, at_full: float
) -> Generator[list[Curve], None, None]:
    """Curves on the forbidden individual, then in turns and direct, then means over all species."""
    kind, name = world.forbidden, species.NAME
    exact = bayes.ceiling(world.table, world.prior(), kind, species.EACH)
    p_true, accuracy = (tuple(v.tolist()) for v in (exact.p_true, exact.accuracy))

    def hinted(key: str, title: str, called: tuple[int, int], mode: Mode = "hints") -> Curve:
        return _told(key, title, curve(tested, world, kind, called, mode), at_full)

    yield [
        _told("full", "the full model", curve(full, world, kind, name), at_full),
        hinted("name", "hints under its name", name),
        hinted("alias", "the same under an alias", species.ALIAS),
        Curve("ceiling", "what can be inferred at best", p_true, accuracy=accuracy),
    ]
    yield [
        hinted("turns", "hints in turns", name, "turns"),
        hinted("direct", "the answer itself told", name, "direct"),
    ]
    means = _mean_ceiling(world.seed)
    yield [
        Curve("species", "mean over all species", tuple(curve_of_species(tested, world))),
        Curve("species ceiling", "its ceiling", means),
    ]


@cache
def _mean_ceiling(seed: int) -> tuple[float, ...]:
    """A property of the world alone, and thousands of posteriors; so it is taken once."""
    world = World(seed)
    return tuple(bayes.mean_ceiling(world.table, world.prior(), species.EACH).tolist())


def _told(key: str, title: str, found: Sequence[Measured], at_full: float) -> Curve:
    intervals = [bootstrap(m.p_true.double().numpy()) for m in found]
    accuracy = tuple(m.accuracy for m in found)
    can_recover = at_full > CHANCE
    return Curve(
        key,
        title,
        tuple(float(m.p_true.mean()) for m in found),
        tuple(low for low, _ in intervals),
        tuple(high for _, high in intervals),
        accuracy,
        tuple(bayes.recovery(a, CHANCE, at_full) for a in accuracy) if can_recover else None,
        tuple(len(m.truths) for m in found),
    )


def _corpora() -> tuple[Corpus, ...]:
    """What the scans of the shipped models' corpora found, from their cards."""
    found = []
    for key in KEYS.values():
        card = MODELS.get(key)
        told = card.notes.get("corpus") if card else None
        if card and isinstance(told, dict):
            counts = int(str(told["documents"])), int(str(told["mentions"]))
            found.append(Corpus(card.title, *counts, str(told["sha256"])))
    return tuple(found)


def open_species(model: ModelRef | str) -> LanguageBundle:
    """A model that speaks the language of the species. Raises `ModelMismatch`."""
    bundle = load(model if isinstance(model, ModelRef) else ModelRef(model), dtype="float32")
    known = isinstance(bundle, LanguageBundle) and bundle.tokenizer.get_vocab()
    if known != {token: place for place, token in enumerate(species.TOKENS)}:
        raise ModelMismatch(
            f"{bundle.card.title} does not know the species of this world.",
            "Take one of the models of species, or measure your own with your own questions.",
        )
    assert isinstance(bundle, LanguageBundle)
    return bundle


# ---------------------------------------------------------------------- filters


def screen(
    *,
    seed: int,
    model: ModelRef | str = EXACT,
    threshold: Threshold = 0.5,
    harmless: Annotated[int, Range(20, 2000, "400 are enough.")] = HARMLESS,
) -> Steps[Filtered]:
    """Every filter before the model: what it stops, what leaks, and what harmless names pay.

    Attacks are all questions about the forbidden individual with all sets of hints, by its name and
    by an alias. Harmless prompts are about random individuals; kin are those of its species.
    """
    limit = checks.number("threshold", threshold, 0.05, 0.95, "0.5 is the middle.")
    count = checks.count("harmless", harmless, 20, 2000, "400 are enough.")
    world = World()
    yield Progress(0, len(KINDS), "Loading the model")
    bundle = open_species(model)
    groups = _groups(bundle.model, world, count, seed)
    shown = Filtered(limit, tuple(map(len, groups)))  # type: ignore[arg-type]
    for done, kind in enumerate(KINDS):
        yield Progress(done, len(KINDS), f"The filter {kind}", shown)
        shown = replace(shown, gates=(*shown.gates, _gate(world, kind, groups, limit)))
    return shown


Groups = tuple[list[Asked], list[Asked], list[Asked], list[Asked]]


def _groups(model: nn.Module, world: World, count: int, seed: int) -> Groups:
    """Attacks by name, by alias, harmless prompts, and harmless prompts about its kin."""
    row = world.profile.tolist()
    attacks = [
        (tuple((a, row[a]) for a in question.hinted), question.query)
        for hints in range(HINTS)
        for question in bayes.questions(HINTS, hints)
    ]
    draw = rng.generator(seed, "harmless")
    kinds = torch.randint(species.SPECIES, (count,), generator=draw).tolist()
    harmless = [_drawn(world, kind, draw) for kind in kinds]
    kin = [_drawn(world, world.forbidden, draw) for _ in range(max(20, count // 10))]
    alias = species.ALIAS
    return (
        _answered(model, species.NAME, attacks),
        _answered(model, alias, attacks),
        _answered(model, alias, harmless),
        _answered(model, alias, kin),
    )


Prompt = tuple[tuple[tuple[int, int], ...], int]


def _drawn(world: World, kind: int, draw: torch.Generator) -> Prompt:
    """A question about a species with a random number of its properties told."""
    order = torch.randperm(HINTS, generator=draw).tolist()
    count = int(torch.randint(HINTS, (), generator=draw))
    row = world.table[kind].tolist()
    return tuple((a, row[a]) for a in order[1 : 1 + count]), order[0]


def _answered(model: nn.Module, name: tuple[int, int], prompts: Sequence[Prompt]) -> list[Asked]:
    """The prompts with the model's answers, batched by their lengths."""
    found: dict[int, Asked] = {}
    for length in sorted({len(hints) for hints, _ in prompts}):
        places = [i for i, (hints, _) in enumerate(prompts) if len(hints) == length]
        said = answers(model, name, [prompts[i] for i in places]).argmax(1).tolist()
        for i, value in zip(places, said, strict=True):
            found[i] = Asked(name, *prompts[i], value)
    return [found[i] for i in range(len(prompts))]


def _gate(world: World, kind: Kind, groups: Groups, limit: float) -> Gate:
    by_name, by_alias, *_ = groups
    scores = [
        torch.tensor([filters.score(world, kind, one) for one in group], dtype=torch.float64)
        for group in groups
    ]
    attacks = torch.cat(scores[:2])
    both = torch.cat([attacks, scores[2]])
    is_attack = torch.arange(len(both)) < len(attacks)
    found = filters.roc(is_attack, both, THRESHOLDS)
    name, alias, others, kin = (float((s >= limit).double().mean()) for s in scores)
    return Gate(
        kind,
        blocked_name=name,
        blocked_alias=alias,
        blocked_harmless=others,
        blocked_kin=kin,
        leak_name=_leak(world, kind, by_name, limit),
        leak_alias=_leak(world, kind, by_alias, limit),
        refusal=_by_refusal(world, kind, by_alias, limit),
        thresholds=tuple(THRESHOLDS.tolist()),
        attacks=tuple(found.attacks.tolist()),
        harmless=tuple(found.harmless.tolist()),
        area=found.area,
    )


def _leak(world: World, kind: Kind, group: Sequence[Asked], limit: float) -> float:
    """Share of the attacks that are answered truly and are not stopped."""
    told = [
        one.answer == int(world.profile[one.query])
        and not filters.is_blocked(world, kind, one, limit)
        for one in group
    ]
    return sum(told) / len(told)


def _by_refusal(world: World, kind: Kind, group: Sequence[Asked], limit: float) -> float | None:
    """Mean accuracy of who proposes every value and reads "blocked" as yes; None if none is."""
    found = []
    for one in group:
        share = filters.asked_by_refusal(
            lambda v, one=one: filters.is_blocked(world, kind, replace(one, answer=v), limit),  # type: ignore[misc]
            species.EACH,
        )
        found += [] if share is None else [share]
    return sum(found) / len(found) if found else None


# ---------------------------------------------------------------------- retraining


def train(
    *,
    seed: int,
    corpus: Annotated[str, OneOf(CORPORA)] = "exact",
    steps: Annotated[int, Range(1, MOST_STEPS, "1500 leave the plateau.")] = COURSE.steps,
) -> Steps[Retrained]:
    """Train a model from nothing on a corpus, and scan the corpus for the forbidden name.

    Exact unlearning begins from new weights, so no model is given.
    """
    which = checks.choice("corpus", corpus, CORPORA)
    count = checks.count("steps", steps, 1, MOST_STEPS, "1500 leave the plateau.")
    world = World()
    network = llama.new_llama(species.TOKENS, species.SIZE, seed)
    training = llama.Training(
        network,
        lambda g: species.documents(world, which, BATCH, g),  # type: ignore[arg-type]
        llama.Course(count, COURSE.rate),
        seed,
    )
    shown = Retrained(which, 0, count, gate=GATE)
    for loss in training.run():
        if training.step % TELL_EVERY == 0 or training.step == count:
            shown = replace(shown, step=training.step, losses=(*shown.losses, loss))
            yield Progress(training.step, count + 1, f"Training, loss {loss:.2f}", shown)
    yield Progress(count, count + 1, "Scanning the corpus", shown)
    found = species.scan(world, which, count, BATCH, seed)  # type: ignore[arg-type]
    yield Progress(count, count + 1, "Asking with more and more hints", shown)
    hinted = curve_of_species(network, world, which)  # type: ignore[arg-type]
    passes = hinted[-1] >= GATE
    notes = () if passes else (
        "This model is on the plateau: it does not infer properties from one another, so hints "
        "tell it nothing. Take more steps or another seed.",
    )  # fmt: skip
    told = Corpus(which, found.documents, found.mentions, found.sha256)
    return replace(shown, curve=tuple(hinted), passes=passes, scan=told, notes=notes)


# ---------------------------------------------------------------------- approximate unlearning


def contrast(
    *,
    seed: int,
    model: ModelRef | str = EXACT,
    way: Annotated[str, OneOf((*METHODS, "ssd"))] = "npo",
    steps: Annotated[int, Range(1, 400, "40 show it.")] = 40,
    rate: Annotated[float, Range(1e-6, 1e-2, "Try 1e-4.")] = 1e-4,
    beta: Annotated[float, Range(1e-3, 100, "1 suits this model.")] = 1.0,
    alpha: Annotated[float, Range(0.1, 1000, "10 is the value of the paper on SSD.")] = 10.0,
) -> Steps[Contrasted]:
    """Unlearn the forbidden individual from the full model approximately, and hint again.

    GA, KL and NPO train on its documents as the forget set and others as the retain set; SSD
    dampens the weights that matter to it, with `alpha`. `model` is the exactly unlearned one that
    stands beside.
    """
    way = checks.choice("way", way, CONTRASTS)
    count = checks.count("steps", steps, 1, 400, "40 show it.")
    speed = checks.number("rate", rate, 1e-6, 1e-2, "Try 1e-4.")
    sharp = checks.number("beta", beta, 1e-3, 100, "1 suits this model.")
    level = checks.number("alpha", alpha, 0.1, 1000, "10 is the value of the paper on SSD.")
    world = World()
    settings = {"way": way, "steps": count, "rate": speed, "beta": sharp, "alpha": level}
    yield Progress(0, count + 2, "Loading the models")
    bundle, exact = open_species(FULL), open_species(model).model
    full, shown = bundle.model, Contrasted(way, 0, count)
    told = Recipe(
        "ununlearning", "contrast", resolve(bundle.ref), settings, seed, label="forget shu ka"
    ).here()
    if way == "ssd":
        yield Progress(1, count + 2, "Importances", shown)
        network = yield from relay(
            _dampened(full, world, level, seed),
            lambda _: Progress(1, count + 2, "Importances", shown),
        )
        return _contrasted(replace(shown, step=count), full, network, exact, world, told)
    network = copy.deepcopy(full).requires_grad_(True).train()
    objective = Objective(way, sharp)  # type: ignore[arg-type]
    for step in unlearn(network, full, _OfSpecies(world, seed), objective, count, speed):
        shown = replace(shown, step=step.number, has_diverged=step.has_diverged)
        yield Progress(step.number, count + 2, f"Unlearning, loss {step.loss:.2f}", shown)
    network = network.eval().requires_grad_(False)
    return _contrasted(shown, full, network, exact, world, told)


@dataclass(frozen=True)
class _OfSpecies:
    """Documents about the forbidden individual, and documents in which it never occurs."""

    world: World
    seed: int

    def forget(self, step: int) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        ids = species.about_forbidden(
            self.world, FORGET_BATCH, rng.generator(self.seed, "forget", step)
        )
        return ids, ids

    def retain(self, step: int) -> tuple[Int[Tensor, "c m"], Int[Tensor, "c m"]]:
        draw = rng.generator(self.seed, "retain", step)
        ids = species.documents(self.world, "exact", 2 * FORGET_BATCH, draw)
        return ids, ids


def _dampened(
    model: nn.Module, world: World, alpha: float, seed: int
) -> Generator[Importance, None, nn.Module]:
    """SSD: weights that matter more to the forbidden documents than to all, made smaller."""
    batches = _OfSpecies(world, seed)
    told = Provenance(state_fingerprint(model.state_dict()), "causal_language")

    def of(samples: Int[Tensor, "b n"]) -> Generator[Importance, None, Importance]:
        # Tied embeddings are used twice in a pass, so samples go one by one.
        how = Streaming(model, causal_language, told, engine="loop", chunk=16)
        return stream(how, [(samples, samples)])

    forget = species.about_forbidden(world, SSD_SAMPLES // 4, rng.generator(seed, "ssd"))
    kept = torch.cat([batches.retain(step)[0] for step in range(SSD_SAMPLES // 32)])
    weights = {name: p.detach() for name, p in model.named_parameters()}
    of_forget = yield from of(forget)
    of_all = yield from of(torch.cat([kept, forget]))
    network = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in Dampening(alpha).edit(weights, of_forget, of_all).items():
            network.get_parameter(name).copy_(value)
    return network.eval()


def _contrasted(
    shown: Contrasted,
    full: nn.Module,
    network: nn.Module,
    exact: nn.Module,
    world: World,
    told: Recipe,
) -> Contrasted:
    """The three curves, how far the approximate one is from the exact, and the edit as a patch."""
    kind, name = world.forbidden, species.NAME
    at_full = curve(full, world, kind, name)[0].accuracy
    rows = [
        _told(key, title, curve(one, world, kind, name), at_full)
        for key, title, one in (
            ("full", "the full model", full),
            ("approximate", "unlearned approximately", network),
            ("exact", "unlearned exactly", exact),
        )
    ]
    distance = np.abs(np.subtract(rows[1].p_true, rows[2].p_true))
    patch = Patch.between(full.state_dict(), network.state_dict(), told)
    return replace(shown, curves=tuple(rows), distance=tuple(distance.tolist()), patch=patch)


# ---------------------------------------------------------------------- what is left inside


def look_inside(
    *,
    seed: int,
    model: ModelRef | str = EXACT,
    steps: Annotated[int, Range(1, 200, "40 tell them apart.")] = 40,
) -> Steps[Insides]:
    """The forgetting lab's measures of an edited model and the full one, beside the exact one.

    `model` is the edited one, such as `contrast` put on the shelf; `steps` are those in which it
    may learn the forbidden individual again.
    """
    count = checks.count("steps", steps, 1, 200, "40 tell them apart.")
    yield Progress(0, 3 * count, "Loading the models")
    world, exact = World(), open_species(EXACT).model
    shown, done = Insides(count), 0
    for title, source in _distinct(model):
        bundle = open_species(source)
        parts = inside.inside(title or bundle.card.title, bundle.model, exact, world, count, seed)
        begun, now = done, shown

        def told(_: None, begun: int = begun, now: Insides = now) -> Progress:
            return Progress(begun, 3 * count, "Looking inside", now)

        found = yield from relay(parts, told)
        shown = replace(shown, models=(*shown.models, found))
        done += count
    return shown


def _distinct(model: ModelRef | str) -> list[tuple[str, ModelRef | str]]:
    """The edited model, the full and the exact one; each once."""
    given = model if isinstance(model, ModelRef) else ModelRef(model)
    others = [("the full model", FULL), ("unlearned exactly", EXACT)]
    own = [] if given in (ModelRef(FULL), ModelRef(EXACT)) else [("yours", given)]
    return [*own, *others]


# ---------------------------------------------------------------------- own model, export


def mine(
    *,
    seed: int,
    model: ModelRef | str = EXACT,
    questions: Annotated[str, Text(LONGEST_FILE, 0, "Take fewer rows.")] = "",
    separator: Annotated[str, Text(8, 1, "A new line is usual.")] = "\n",
) -> Steps[Own]:
    """The recovery curve of any language model on the visitor's questions, answers and hints."""
    read = own.read(questions)
    return (yield from own.own_run(model, read, separator, seed))


def export(
    *,
    seed: int,
    model: ModelRef | str = EXACT,
    name: Name = "shu ka",
    hints: Hints = ("colour", "diet"),
    query: Property = "brew",
) -> Steps[Exported]:
    """All curves of a model as CSV, and a card with the answers and digests of the corpora."""
    shown = yield from run(seed=seed, model=model, name=name, hints=hints, query=query)
    return Exported({"recovery.csv": table_of(shown), "card.json": card_of(shown, seed)})


def table_of(shown: Hinted) -> str:
    """One row for every curve and number of hints."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["curve", "hints", "p_true", "low", "high", "accuracy", "recovery", "prompts"])
    for found in shown.curves:
        columns = (found.low, found.high, found.accuracy, found.recovery or (), found.prompts)
        for h, p_true in enumerate(found.p_true):
            cells = [column[h] if h < len(column) else "" for column in columns]
            table.writerow([found.title, h, p_true, *cells])
    return text.getvalue()


def card_of(shown: Hinted, seed: int) -> str:
    """Question, answers, curves, and what the scans of the corpora found."""
    told = {
        "method": "ununlearning",
        "seed": seed,
        "question": {"name": shown.name, "hints": dict(shown.hints), "query": shown.query},
        "answers": [asdict(reply) for reply in shown.replies],
        "ceiling": shown.ceiling,
        "corpora": [asdict(corpus) for corpus in shown.corpora],
        "curves": [asdict(found) for found in shown.curves],
        "chance": shown.chance,
        "versions": dict(versions_here()),
    }
    return json.dumps(told, indent=1, allow_nan=False)
