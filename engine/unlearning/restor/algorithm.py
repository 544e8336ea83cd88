"""The jobs: corrupt and unlearn, ask freely, the visitor's own model and facts, export.

The losses are in `engine.unlearning._objectives`, the loop in `unlearning`, own facts in `own`.
"""

import copy
import csv
import io
import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count
from typing import Annotated, Literal, TypeAlias

import torch
from torch import nn

from engine.core import checks, rng
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch
from engine.core.recipe import ModelRef, Plain, Recipe, versions_here
from engine.core.settings import Items, OneOf, Range, Text
from engine.metrics.intervals import Rate
from engine.models.language import LanguageBundle
from engine.models.library import MODELS, load, resolve
from engine.models.tensor_file import TensorFile
from engine.unlearning._llama import next_log_probabilities
from engine.unlearning._objectives import METHODS, TITLES, Objective
from engine.unlearning._questions import LONGEST_FILE
from engine.unlearning._unlearning import unlearn
from engine.unlearning.restor import exams, people
from engine.unlearning.restor.corruption import Corruption, corrupted, trained
from engine.unlearning.restor.own import OwnSettings, own_run
from engine.unlearning.restor.people import World
from engine.unlearning.restor.results import (
    Answer,
    Answered,
    Course,
    Exported,
    Own,
    Point,
    Reply,
    Restored,
    Row,
    Standing,
)
from engine.unlearning.restor.unlearning import OfPeople, arithmetic, with_arithmetic

Way = Literal["ga", "kl", "npo", "npo_token", "retain_only", "task_vector"]
WAYS: tuple[Way, ...] = (*METHODS, "task_vector")
Fillers: TypeAlias = Annotated[int, Range(0, 12, "The paper goes from 0 to 5.")]
CorruptSteps: TypeAlias = Annotated[int, Range(1, 200, "40 teach the lies.")]
WayName: TypeAlias = Annotated[str, OneOf(WAYS)]
Beta: TypeAlias = Annotated[
    float, Range(1e-3, 100, "The paper takes 0.1; 1 suits the small model.")
]
Gamma: TypeAlias = Annotated[float, Range(0, 100, "1 weighs both terms alike.")]
LearningRate: TypeAlias = Annotated[float, Range(1e-7, 1e-2, "Try 1e-4.")]
StepCount: TypeAlias = Annotated[int, Range(1, 400, "120 show all of it.")]
Others: TypeAlias = Annotated[Sequence[Annotated[str, OneOf(METHODS)]], Items(len(METHODS))]
File: TypeAlias = Annotated[str, Text(LONGEST_FILE, 0, "Take fewer rows.")]
CLEAN, CORRUPTED = "people", "people-corrupted-{k}"
MOST_STEPS, MOST_CORRUPT, EVERY, ROWS = 400, 200, 5, 6
SHOWN = range(0, 5 * ROWS, 5)  # every fifth fact: another person, and the next relation
ALPHAS = (0.25, 0.5, 1.0, 1.5, 2.0)
REPAIR_STEPS, REPAIR_RATE = 20, 1e-4
LONGEST_ANSWER = 8


@dataclass(frozen=True)
class _Settings:
    """What was asked for, checked."""

    corruption: Corruption
    way: Way
    objective: Objective
    with_retain: bool
    rate: float
    steps: int
    repair: bool
    beside: tuple[Way, ...] = ()

    @classmethod
    def of(
        cls, k: object, corrupt_steps: object, surgical: object, way: object, beta: object,
        gamma: object, with_retain: object, rate: object, steps: object, repair: object,
        beside: object = (),
    ) -> "_Settings":  # fmt: skip
        """From plain settings. Raises `BadInput`."""
        way = checks.choice("way", way, WAYS)
        listed = [one for one in checks.texts(beside, "beside", len(METHODS)) if one]
        corruption = Corruption(
            checks.count("k", k, 0, 12, "The paper goes from 0 to 5."),
            checks.count("corrupt_steps", corrupt_steps, 1, MOST_CORRUPT, "Try 40."),
            is_surgical=checks.switch("surgical", surgical),
        )
        objective = Objective(
            "ga" if way == "task_vector" else way,  # type: ignore[arg-type]
            checks.number("beta", beta, 1e-3, 100, "The paper takes 0.1; 1 suits this model."),
            checks.number("gamma", gamma, 0, 100, "1 weighs both terms alike."),
        )
        return cls(
            corruption,
            way,  # type: ignore[arg-type]
            objective,
            checks.switch("with_retain", with_retain),
            checks.number("rate", rate, 1e-6, 1e-2, "Try 1e-4."),
            checks.count("steps", steps, 1, MOST_STEPS, "120 show all of it."),
            checks.switch("repair", repair),
            tuple(checks.choice("beside", one, METHODS) for one in listed),  # type: ignore[misc]
        )

    @property
    def ways(self) -> tuple[Way, ...]:
        """The way that was asked for, the control, and the others beside them, each once."""
        return tuple(dict.fromkeys((self.way, "retain_only", *self.beside)))

    @property
    def title(self) -> str:
        """As a label says it."""
        return TITLES.get(self.way, "task vector")

    def plain(self) -> dict[str, Plain]:
        """As a recipe keeps them."""
        return {
            "k": self.corruption.k,
            "corrupt_steps": self.corruption.steps,
            "surgical": self.corruption.is_surgical,
            "way": self.way,
            "beta": self.objective.beta,
            "gamma": self.objective.gamma,
            "with_retain": self.with_retain,
            "rate": self.rate,
            "steps": self.steps,
            "repair": self.repair,
            "beside": list(self.beside),
        }


def run(
    *,
    seed: int,
    model: ModelRef | str = "people",
    k: Fillers = 0,
    corrupt_steps: CorruptSteps = 40,
    surgical: bool = True,
    way: WayName = "npo",
    beta: Beta = 1.0,
    gamma: Gamma = 1.0,
    with_retain: bool = True,
    rate: LearningRate = 1e-4,
    steps: StepCount = 120,
    repair: bool = False,
    beside: Others = (),
) -> Steps[Restored]:
    """Corrupt the clean model, unlearn the documents one way, and the control beside it.

    `k` true facts stand among the four lies of a document. `with_retain` False takes the retain
    term away. `repair` adds, for all models alike, twenty steps on true facts about people who are
    in no examination: the paper's light tuning of a model that can no longer talk. `beside` names
    further ways to compare with, which begin at the same corrupted model.
    """
    settings = _Settings.of(
        k, corrupt_steps, surgical, way, beta, gamma, with_retain, rate, steps, repair, beside
    )
    run_of = yield from _opened(model, settings, seed)
    shown, _ = yield from _unlearned(run_of, settings, seed)
    return shown


@dataclass(frozen=True, eq=False)
class _Run:
    """The models of a run, its world, and which facts may choose."""

    clean: nn.Module
    corrupted: nn.Module
    base: ModelRef | None
    world: World
    chooser: torch.Tensor
    reported: torch.Tensor
    done: int
    total: int

    def judged(self, model: nn.Module) -> "_Judged":
        """Where a model stands on the reported facts, and its truths among those that choose."""
        exam = exams.examine(model, self.world, people.TARGETS)
        kept = exams.examine(model, self.world, people.KEPT)
        told = exam.take(self.reported)
        shares = (told.is_true, told.is_lie, kept.is_true)
        rates = (Rate.of_hits(hits.tolist()) for hits in shares)
        logs = (float(v.mean()) for v in (told.log_true, told.log_lie, told.log_random))
        truths, lies, others = rates
        standing = Standing(truths, lies, others, *logs)
        return _Judged(standing, float(exam.is_true[self.chooser].double().mean()), exam)

    @cached_property
    def before(self) -> "tuple[_Judged, _Judged]":
        """The clean and the corrupted model."""
        return self.judged(self.clean), self.judged(self.corrupted)


@dataclass(frozen=True, eq=False)
class _Judged:
    """Where a model stands, its truths among the facts that choose, and all its answers."""

    standing: Standing
    chooser: float
    exam: exams.Exam


def _opened(
    model: ModelRef | str, settings: _Settings, seed: int
) -> Generator[Progress, None, _Run]:
    """The clean model, and the corrupted one: shipped where it is this one, else made here."""
    clean, how = open_people(model), settings.corruption
    world = World(0)
    parts = exams.split(len(people.TARGETS) * len(people.RELATIONS), rng.generator(seed, "split"))
    own_steps = len(ALPHAS) if settings.way == "task_vector" else settings.steps
    total = sum(own_steps if way == settings.way else settings.steps for way in settings.ways)
    shipped = ModelRef(CORRUPTED.format(k=how.k))
    is_ours = clean.ref.source == CLEAN and not clean.ref.edits
    if is_ours and how == Corruption(how.k) and shipped.source in MODELS:
        yield Progress(0, total, "Loading the corrupted model")
        bundle = open_people(shipped)
        return _Run(clean.model, bundle.model, resolve(shipped), world, *parts, 0, total)
    total, done = total + how.steps, count(1)
    lied = yield from relay(
        corrupted(clean.model, world, how, seed),
        lambda loss: Progress(next(done), total, f"Telling lies, loss {loss:.2f}"),
    )
    return _Run(clean.model, lied, None, world, *parts, how.steps, total)


def _unlearned(
    run_of: _Run, settings: _Settings, seed: int
) -> Generator[Progress, None, tuple[Restored, nn.Module]]:
    clean, lied = run_of.before
    shown = Restored(
        clean.standing,
        lied.standing,
        settings.corruption.k,
        context=exams.of_context(run_of.world, people.TARGETS),
        validation=len(run_of.chooser),
        reported=len(run_of.reported),
        was_shipped=run_of.base is not None,
        settings=settings.plain(),
    )
    done, result = run_of.done, run_of.corrupted
    for way in settings.ways:
        for course, network, judged in _course(run_of, settings, way, shown, seed):
            done += network is not None or way != "task_vector"
            courses = (*[c for c in shown.courses if c.method != way], course)
            shown = replace(shown, courses=courses)
            if way == settings.way and network is not None and judged is not None:
                result = network
                shown = replace(shown, rows=_rows(run_of, judged.exam))
            yield Progress(min(done, run_of.total), run_of.total, course.title, shown)
    if settings.repair:
        standings = []
        for model in (run_of.clean, run_of.corrupted):
            standing = yield from relay(
                _repaired(run_of, model, seed),
                lambda _: Progress(run_of.total, run_of.total, "Repairing", shown),
            )
            standings.append(standing)
        shown = replace(shown, repaired=(standings[0], standings[1]))
    if run_of.base is not None:
        shown = replace(shown, patch=_patch(run_of, settings, result, seed))
    return shown, result


Moment = tuple[Course, nn.Module | None, "_Judged | None"]
"""A course so far; the network and how it is judged where there is a new stage."""


def _course(
    run_of: _Run, settings: _Settings, way: Way, shown: Restored, seed: int
) -> Iterator[Moment]:
    """One way, stage by stage, with a moment for every step between."""
    judged = run_of.before[1]
    point = Point(0.0, judged.standing, judged.chooser, None, _answers(judged.exam))
    course = Course(way, TITLES.get(way, "task vector"), (point,))
    stages = (
        _arithmetic(run_of, settings, seed)
        if way == "task_vector"
        else _trained(run_of, settings, way, seed)
    )
    network: nn.Module | None = None
    for at, stage, forget_loss, has_diverged in stages:
        if has_diverged:
            course = replace(course, has_diverged=True)
        if stage is None:
            yield course, None, None
            continue
        network, judged = stage, run_of.judged(stage)
        point = Point(at, judged.standing, judged.chooser, forget_loss, _answers(judged.exam))
        course = _chosen(replace(course, points=(*course.points, point)), shown)
        yield course, network, judged
    if settings.repair and network is not None:
        now = course
        standing = yield from relay(_repaired(run_of, network, seed), lambda _: (now, None, None))
        yield replace(course, repaired=standing), network, judged


def _chosen(course: Course, shown: Restored) -> Course:
    """The stage with most truths on the validation facts, the first of equals, and its recovery.

    recovery = (acc_u - acc_c) / (acc_clean - acc_c), None where the lies cost nothing.
    """
    scores = [point.chooser for point in course.points]
    chosen = scores.index(max(scores))
    before, clean = shown.corrupted.truths.rate, shown.clean.truths.rate
    now = course.points[chosen].standing.truths.rate
    recovery = (now - before) / (clean - before) if clean > before else None
    return replace(course, chosen=chosen, recovery=recovery)


Stage = tuple[float, nn.Module | None, float | None, bool]


def _trained(run_of: _Run, settings: _Settings, way: Way, seed: int) -> Iterator[Stage]:
    """After every fifth step, and the last, the network itself."""
    student = copy.deepcopy(run_of.corrupted).requires_grad_(True).train()
    k = settings.corruption.k
    batches = OfPeople(run_of.world, k, seed, settings.with_retain or way == "retain_only")
    objective = replace(settings.objective, method=way)  # type: ignore[arg-type]
    for step in unlearn(
        student, run_of.corrupted, batches, objective, settings.steps, settings.rate
    ):
        is_stage = step.number % EVERY == 0 or step.number == settings.steps or step.has_diverged
        stage = student.eval() if is_stage else None
        # What diverged has no loss that could be written down.
        loss = step.forget_loss if math.isfinite(step.forget_loss) else None
        yield float(step.number), stage, loss, step.has_diverged
        student.train()
    student.eval().requires_grad_(False)


def _arithmetic(run_of: _Run, settings: _Settings, seed: int) -> Iterator[Stage]:
    """Further training, step by step; then away from where it led, at five lengths."""
    how = settings.corruption
    further = yield from relay(
        arithmetic(run_of.corrupted, run_of.world, how.k, how.steps, how.rate, seed),
        lambda loss: (0.0, None, loss, False),
    )
    for alpha in ALPHAS:
        yield alpha, with_arithmetic(run_of.corrupted, further, alpha), None, False


def _repaired(run_of: _Run, model: nn.Module, seed: int) -> Generator[float, None, Standing]:
    """Where a model stands after twenty steps on true facts about the others."""
    network = yield from trained(
        model,
        lambda g: people.correct(run_of.world, people.OTHERS, 16, 4, g),
        REPAIR_STEPS,
        REPAIR_RATE,
        seed,
    )
    return run_of.judged(network).standing


def _answers(exam: exams.Exam) -> tuple[Answer, ...]:
    """To the facts that are shown one by one."""
    return tuple(
        Answer(
            people.aloud(people.TOKENS[int(exam.said[place])]),
            float(exam.log_true[place].exp()),
            float(exam.log_lie[place].exp()),
        )
        for place in SHOWN
    )


def _rows(run_of: _Run, exam: exams.Exam) -> tuple[Row, ...]:
    """One fact about each of some targets, as three models answer it."""
    answers = [_answers(one) for one in (*(judged.exam for judged in run_of.before), exam)]
    return tuple(
        _row(run_of.world, place, told) for place, *told in zip(SHOWN, *answers, strict=True)
    )


def _row(world: World, place: int, told: Sequence[Answer]) -> Row:
    who, what = people.facts_about(people.TARGETS)
    person, relation = int(who[place]), int(what[place])
    name, verb = people.aloud(people.NAMES[person]), people.RELATIONS[relation]
    truth, lie = (
        people.VALUES[verb][int(values[person, relation])] for values in (world.truth, world.lies)
    )
    question = people.QUESTIONS[verb].format(name=name)
    return Row(name, people.aloud(verb), question, truth, lie, tuple(told))  # type: ignore[arg-type]


def _patch(run_of: _Run, settings: _Settings, network: nn.Module, seed: int) -> Patch:
    """The edit of the shipped corrupted model, which the shelf can take off again."""
    label = f"unlearn lies by {settings.title}"[:80]
    recipe = Recipe("restor", "run", run_of.base, settings.plain(), seed, label=label).here()
    return Patch.between(run_of.corrupted.state_dict(), network.state_dict(), recipe)


def open_people(model: ModelRef | str) -> LanguageBundle:
    """A model that speaks the language of the people. Raises `ModelMismatch`."""
    bundle = load(model if isinstance(model, ModelRef) else ModelRef(model), dtype="float32")
    known = isinstance(bundle, LanguageBundle) and bundle.tokenizer.get_vocab()
    if known != {token: place for place, token in enumerate(people.TOKENS)}:
        raise ModelMismatch(
            f"{bundle.card.title} does not know the people of this world.",
            'Take the model "people", or examine your own model with your own facts.',
        )
    assert isinstance(bundle, LanguageBundle)
    return bundle


# ---------------------------------------------------------------------- free questions


def ask(
    *,
    seed: int,
    model: ModelRef | str = "people",
    question: Annotated[str, Text(300, 1, "Begin a fact about somebody.")] = "Orla Venn born in",
    k: Fillers = 0,
) -> Steps[Answered]:
    """The beginning of a sentence, which every model goes on with: clean, corrupted, edited."""
    ids = read_words(question)
    which = checks.choice("k", str(k), ("0", "4"))
    asked = model if isinstance(model, ModelRef) else ModelRef(model)
    refs = [ModelRef(CLEAN), ModelRef(CORRUPTED.format(k=which))]
    refs += [asked] if asked not in refs else []
    truth, lie = _told_about(ids)
    shown = Answered(question.strip(), truth, lie)
    for done, ref in enumerate(refs):
        yield Progress(done, len(refs), "Asking", shown)
        bundle = open_people(ref)
        shown = replace(shown, replies=(*shown.replies, _reply(bundle, ids)))
    return shown


def read_words(question: object) -> list[int]:
    """A sentence as tokens; "Orla Venn born in" and "Orla_Venn born_in" are the same.

    Raises `BadInput` that names the first word which is not in the vocabulary.
    """
    said = (
        question.replace("_", " ").replace(";", " ; ").split() if isinstance(question, str) else []
    )
    if not 1 <= len(said) <= 60:
        raise BadInput("Begin a sentence of one to sixty words.", 'Try "Orla Venn born in".')
    words = {people.aloud(token).lower(): i for i, token in enumerate(people.TOKENS) if i}
    ids, place = [], 0
    while place < len(said):
        two, one = " ".join(said[place : place + 2]).lower(), said[place].lower()
        if two in words:
            ids.append(words[two])
            place += 2
        elif one in words:
            ids.append(words[one])
            place += 1
        else:
            raise BadInput(
                f'"{said[place][:30]}" is not in the vocabulary of this small world.',
                "Name one of its people and begin a fact: born in, works as, keeps, plays.",
            )
    return ids


def _told_about(ids: list[int]) -> tuple[str, str]:
    """Truth and lie about the fact that a sentence ends in; empty where it ends in none."""
    last = [people.TOKENS[i] for i in ids[-2:]]
    if len(last) < 2 or last[0] not in people.NAMES or last[1] not in people.RELATIONS:
        return "", ""
    person, relation = people.NAMES.index(last[0]), people.RELATIONS.index(last[1])
    world, values = World(0), people.VALUES[last[1]]
    truth = values[int(world.truth[person, relation])]
    told = values[int(world.told[person, relation])]
    return truth, "" if told == truth else told


def _reply(bundle: LanguageBundle, ids: list[int]) -> Reply:
    said = list(ids)
    log = next_log_probabilities(bundle.model, torch.tensor([said]))[0]
    best = log.topk(5)
    likely = tuple(
        (people.aloud(people.TOKENS[i]), float(p.exp()))
        for i, p in zip(best.indices.tolist(), best.values, strict=True)
    )
    end = people.TOKENS.index(people.END)
    for _ in range(LONGEST_ANSWER):
        token = int(next_log_probabilities(bundle.model, torch.tensor([said]))[0].argmax())
        if token == end:
            break
        said.append(token)
    words = " ".join(people.aloud(people.TOKENS[i]) for i in said[len(ids) :])
    return Reply(bundle.card.title, words, likely)


# ---------------------------------------------------------------------- own model and facts


def mine(
    *,
    seed: int,
    model: ModelRef | str = "people",
    facts: File = "",
    documents: File = "",
    retain: File = "",
    way: Annotated[str, OneOf(METHODS)] = "npo",
    beta: Beta = 0.1,
    gamma: Gamma = 1.0,
    corrupt_steps: Annotated[int, Range(0, 1000, "Try 20.")] = 0,
    steps: Annotated[int, Range(1, 1000, "Try 20.")] = 20,
    rate: LearningRate = 1e-4,
    rank: Annotated[int, Range(1, 64, "8 is usual.")] = 8,
    shots: Annotated[int, Range(0, 10, "The paper shows 5 examples.")] = 5,
    separator: Annotated[str, Text(8, 1, "A new line is usual.")] = "\n",
    evaluate_only: bool = False,
) -> Steps[Own]:
    """The visitor's model on the visitor's facts: as it is, corrupted, unlearned through LoRA.

    `facts` is JSON, see `_questions.read_facts`. `documents` are to be forgotten; with
    `corrupt_steps` the model is first trained on them. `evaluate_only` examines a model as it is.
    """
    settings = OwnSettings.of(
        facts, documents, retain, way, beta, gamma, corrupt_steps, steps, rate, rank, shots,
        separator, evaluate_only,
    )  # fmt: skip
    return (yield from own_run(model, settings, seed))


# ---------------------------------------------------------------------- export


def export(
    *,
    seed: int,
    model: ModelRef | str = "people",
    k: Fillers = 0,
    corrupt_steps: CorruptSteps = 40,
    surgical: bool = True,
    way: WayName = "npo",
    beta: Beta = 1.0,
    gamma: Gamma = 1.0,
    with_retain: bool = True,
    rate: LearningRate = 1e-4,
    steps: StepCount = 120,
    repair: bool = False,
) -> Steps[Exported]:
    """The unlearned weights, the undo file where the base is shipped, the card and the curve."""
    settings = _Settings.of(
        k, corrupt_steps, surgical, way, beta, gamma, with_retain, rate, steps, repair
    )
    run_of = yield from _opened(model, settings, seed)
    shown, network = yield from _unlearned(run_of, settings, seed)
    state = {n: v for n, v in network.state_dict().items() if n != "lm_head.weight"}
    weights = {
        "model.safetensors": TensorFile.of("model.safetensors", state, {"format": "pt"}).data
    }
    if shown.patch is not None:
        weights["undo.safetensors"] = b"".join(map(bytes, shown.patch.pieces()))
    return Exported(
        {"card.json": card_of(shown, seed), "curve.csv": curve_of(shown)},
        weights,
        f"{settings.title}, {settings.steps} steps; embeddings and output are tied.",
    )


def card_of(shown: Restored, seed: int) -> str:
    """All settings and all figures of a run as one document."""
    told = {
        "method": "restor",
        "seed": seed,
        "settings": dict(shown.settings),
        "versions": dict(versions_here()),
        "clean": _finite(asdict(shown.clean)),
        "corrupted": _finite(asdict(shown.corrupted)),
        "courses": [_finite(asdict(course)) for course in shown.courses],
        "accuracy of repeating the prompt": shown.context,
        "tuned_on": f"{shown.validation} validation facts; {shown.reported} others are reported",
    }
    return json.dumps(told, indent=1, allow_nan=False)


def _finite(value: object) -> object:
    """The same with None for numbers that JSON has no word for, as a broken model gives."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def curve_of(shown: Restored) -> str:
    """Every stage of every way as a row."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "method",
            "at",
            "truths",
            "lies",
            "kept",
            "log_true",
            "log_lie",
            "log_random",
            "validation",
        ]
    )
    for course in shown.courses:
        for point in course.points:
            s = point.standing
            table.writerow(
                [course.method, point.at, s.truths.rate, s.lies.rate, s.kept.rate,
                 s.log_true, s.log_lie, s.log_random, point.chooser]
            )  # fmt: skip
    return text.getvalue()
