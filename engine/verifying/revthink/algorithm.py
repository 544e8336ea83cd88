"""The jobs: ask the students, turn questions round, train students live, tune a LoRA student."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated

import numpy as np

from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.named_file import TextFile
from engine.core.recipe import ModelRef, Plain
from engine.core.settings import Items, OneOf, Range, Text
from engine.models.language import LanguageBundle
from engine.models.library import load
from engine.verifying.revthink import exams, months, students, teachers, tuning
from engine.verifying.revthink import fleet as fl
from engine.verifying.revthink.arms import ARMS, MAIN
from engine.verifying.revthink.augment import (
    LONGEST_FILE,
    Item,
    Program,
    Record,
    Teacher,
    read_items,
    read_records,
    to_jsonl,
)
from engine.verifying.revthink.augment import (
    augment as turned_round,
)
from engine.verifying.revthink.exams import STANDINGS, Exam
from engine.verifying.revthink.extract import word
from engine.verifying.revthink.fleet import Fleet, Plan, Schedule, Shape
from engine.verifying.revthink.months import Question
from engine.verifying.revthink.results import (
    Asked,
    Augmented,
    Course,
    Probe,
    Reply,
    Student,
    Trained,
    Tuned,
)
from engine.verifying.revthink.tuning import Settings

FRACTIONS = (0.5, 1.0)
WORLDS = {"week": months.WEEK, "year": months.YEAR}
MOST_STEPS, PROBES, RELATIONS_AT_ONCE = 3000, 8, 44
LIVE_SHAPE = Shape(width=64, inner=168)
LIVE_RATE, LORA_RATE, QUESTIONS_A_PASS = 5e-3, 3e-3, 16
SMALL_SAMPLE = 24


def run(
    *,
    seed: int,
    model: ModelRef | str = students.KEY,
    start: Annotated[str, Text(20)] = "nov",
    shift: Annotated[int, Range(-11, 11, "4 is four months later, -4 four earlier.")] = -4,
    fraction: Annotated[float, Range(0, 1, "0.5 and 1 are shipped.")] = 0.5,
    students_of: Annotated[str, OneOf(("nothing", "lora"))] = "nothing",
) -> Steps[Asked]:
    """One question to every student, then all 264 relations, forward and backward.

    On the shipped model the students of SFT, answer augmentation and RevThink are asked; on any
    other the model itself, and of the relations a sample drawn by the seed.
    """
    question = _question_of(start, shift)
    plans = _shipped_plans(fraction, students_of)
    ref = ModelRef.of(model)
    yield Progress(0, 1, "Loading the students")
    result = Asked(
        question.text(),
        question.gold,
        question.backward_question(),
        months.MONTHS[question.start],
        months.standing(question, frozenset(plans[0].questions())),
    )
    if ref.source == students.KEY and not ref.edits:
        shelf = students.shelf()
        result = replace(result, curve=shelf.curve(), efficiency=shelf.efficiency)
        return (yield from _ask_students(result, question, plans, shelf))
    bundle = _language(ref)
    if teachers.knows_only_months(bundle):
        weights, shape = students.state_of(bundle)
        title = f"{bundle.card.title.partition(':')[0]}, edited" if ref.edits else "This model"
        return (yield from _ask_one(result, question, title, weights, shape, plans[0]))
    return (yield from _ask_any(result, question, bundle, seed))


def augment(
    *,
    seed: int,
    model: ModelRef | str = students.KEY,
    teacher: Annotated[str, OneOf(("program", "model"))] = "program",
    questions: Annotated[str, Text(LONGEST_FILE)] = "",
    count: Annotated[int, Range(1, 264, "Try 12.")] = 12,
    corrupt: Annotated[float, Range(0, 1, "0.2 spoils a fifth of the chains.")] = 0.2,
    steps: Annotated[int, Range(1, 2, "One or two shifts.")] = 1,
    temperature: Annotated[float, Range(0, 2, "0.8 is what the paper takes.")] = 0.8,
    most_tokens: Annotated[int, Range(8, 1000, "Try 120.")] = 120,
    done: Annotated[str, Text(LONGEST_FILE)] = "",
) -> Steps[Augmented]:
    """Forward reasoning, backward question, backward reasoning and verdict of every question.

    `questions` are JSON lines with question and answer; without them `count` questions of the
    months are drawn, of one or two `steps`. The teacher is the exact "program", a share of whose
    chains is spoilt on purpose, or the "model". `done` are records of an earlier run; they stay.
    """
    items = read_items(questions)
    if not items:
        items = _drawn_items(count, steps, seed)
    earlier = {record.question: record for record in read_records(done, "the earlier records")}
    who: Teacher = Program(corrupt, seed)
    if teacher == "program":
        _check_readable(items)
    else:
        yield Progress(0, len(items), "Loading the teacher")
        ref = ModelRef.of(model)
        who = teachers.Local(_language(ref), seed, temperature, most_tokens)
    return (yield from _augmented(items, earlier, who, teacher))


def train(
    *,
    seed: int,
    arms: Annotated[Sequence[Annotated[str, OneOf(ARMS)]], Items(4, fewest=1)] = (
        "sft",
        "revthink",
    ),
    world: Annotated[str, OneOf(WORLDS)] = "week",
    fraction: Annotated[float, Range(0.05, 1, "1 asks all questions of the pool.")] = 1.0,
    steps: Annotated[int, Range(1, MOST_STEPS, "600 take about a minute.")] = 600,
    budget: Annotated[str, OneOf(("sequences", "passes"))] = "sequences",
    start: Annotated[str, OneOf(("nothing", "lora"))] = "nothing",
    corrupt: Annotated[float, Range(0, 0.9, "0 is an exact teacher.")] = 0.0,
    filtered: bool = True,
) -> Steps[Trained]:
    """Train students side by side on the same questions and probe them on the way.

    At budget "sequences" every method sees as many sequences; at "passes", the paper's protocol,
    every method passes over the questions as often, and RevThink sees three times as many. A start
    from "lora" trains adapters on the shipped base.
    """
    plans = [
        Plan(arm, fraction, seed, start == "lora", corrupt, filtered, WORLDS[world])
        for arm in dict.fromkeys(arms)
    ]
    yield Progress(0, steps, "Writing the texts")
    fleets = [_fleet(plan, steps, budget) for plan in plans]
    return (yield from _trained(fleets, start, budget))


def tune(
    *,
    seed: int,
    model: ModelRef | str = students.KEY,
    records: Annotated[str, Text(LONGEST_FILE)] = "",
    filtered: bool = True,
    objective: Annotated[str, OneOf(("revthink", "sft"))] = "revthink",
    rank: Annotated[int, Range(1, 128, "16 is the published code's.")] = 16,
    alpha: Annotated[int, Range(1, 512, "Twice the rank is usual.")] = 32,
    targets: Annotated[str, OneOf(tuning.TARGETS)] = "all",
    steps: Annotated[int, Range(1, 2000, "60 show a fall of the loss.")] = 60,
    batch: Annotated[int, Range(1, 32, "4 is the published code's.")] = 4,
    learning_rate: Annotated[float, Range(1e-7, 0.1, "2e-4 suits large models.")] = 1e-3,
    mean: Annotated[str, OneOf(("sequences", "tokens", "official"))] = "sequences",
) -> Steps[Tuned]:
    """A LoRA student of any causal language model, on an augmented set in JSON lines.

    Without `records`, the program's own set of half the months' questions is taken and the test
    relations are asked before and after; with them, the last fifth is held out and asked.
    `objective` "revthink" trains all three losses, "sft" the forward reasoning alone.
    """
    settings = Settings(
        rank=rank,
        alpha=alpha,
        targets=targets,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        mean=mean,  # type: ignore[arg-type]
        tasks=tuning.TASKS if objective == "revthink" else ("FR",),
    )
    uploaded = read_records(records)
    kept = [r for r in uploaded or _months_set(seed) if r.is_kept or (not filtered and r.is_right)]
    tuning.check_records(kept, 2)
    if uploaded:
        cut = max(len(kept) * 4 // 5, 1)
        kept, held_out = kept[:cut], [(r.question, r.gold_answer) for r in kept[cut:]][:12]
    else:
        held_out = [(q.text(), q.gold) for q in _held_out(seed)]
    yield Progress(0, settings.steps, "Loading the model")
    bundle = _language(ModelRef.of(model))
    params: dict[str, Plain] = {
        "records": f"{len(kept)} kept of {len(uploaded)}" if uploaded else "",
        "objective": objective,
        "rank": settings.rank,
        "alpha": settings.alpha,
        "targets": targets,
        "steps": settings.steps,
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
    }
    recipe = tuning.recipe_of(bundle, params, seed, f"{objective} on {len(kept)} records")
    tuned = yield from tuning.tuned(bundle, kept, held_out, settings, seed, recipe)
    return replace(tuned, records=len(uploaded) or len(_months_set(seed)))


# ---------------------------------------------------------------------- asking


def _question_of(start: str, shift: int) -> Question:
    name = start.strip().lower()[:3]
    if name not in months.MONTHS:
        raise BadInput(f'"{start[:20]}" is no month.', "Write jan, feb, ... dec.")
    if shift == 0:
        raise BadInput("A shift of 0 asks nothing.", "Take -11 to 11 without 0.")
    return Question(months.MONTHS.index(name), (shift,))


def _shipped_plans(fraction: float, students_of: str) -> list[Plan]:
    if fraction not in FRACTIONS or (students_of == "lora" and fraction != 0.5):
        raise BadInput(
            f"No students of {fraction:g} of the questions are shipped.",
            "Take 0.5 or 1, and 0.5 with LoRA; others are trained live.",
        )
    return [Plan(arm, float(fraction), 0, students_of == "lora") for arm in MAIN]


def _ask_students(
    result: Asked, question: Question, plans: Sequence[Plan], shelf: students.Shelf
) -> Generator[Progress, None, Asked]:
    weights = shelf.weights(plans)
    total = len(plans) * 2
    for place, plan in enumerate(plans):
        own_weights = {name: w[place : place + 1] for name, w in weights.items()}
        title = plan.method.title
        student = Student(plan.name, title, _reply(own_weights, shelf.shape, question))
        yield Progress(2 * place, total, f"Asking {title}", _with(result, student))
        for part, right in _relation_by_relation(own_weights, shelf.shape, plan):
            student = replace(student, is_right=right)
            yield Progress(2 * place + part, total, f"Asking {title}", _with(result, student))
        result = _with(result, _examined(student, own_weights, shelf.shape, plan))
    return result


def _with(result: Asked, student: Student) -> Asked:
    return replace(result, students=(*result.students, student))


def _reply(weights: fl.State, shape: Shape, question: Question) -> Reply:
    """Both ways of one question, in the surface of the panel."""
    answers = [
        fl.decode(fl.answer(weights, fl.prompts([text])[None], shape)[0, 0].tolist())
        for text in (question.text(), question.backward_question())
    ]
    gold = question.gold, question.cycle.names[question.start]
    right = [word(text) == g for text, g in zip(answers, gold, strict=True)]
    return Reply(answers[0], right[0], answers[1], right[1])


def _relation_by_relation(
    weights: fl.State, shape: Shape, plan: Plan
) -> Iterator[tuple[int, np.ndarray]]:
    """Right answers forward, as the exam goes on; unasked relations count as wrong so far."""
    texts = exams.texts(plan, backward=False)
    gold = [question.gold for question in months.relations(plan.cycle)]
    right = np.zeros(len(gold), dtype=bool)
    for first in range(0, len(texts), RELATIONS_AT_ONCE):
        part = slice(first, first + RELATIONS_AT_ONCE)
        tokens = fl.answer(weights, fl.prompts(texts[part])[None], shape)[0].tolist()
        right = right.copy()
        right[part] = [word(fl.decode(s)) == g for s, g in zip(tokens, gold[part], strict=True)]
        yield int(first + RELATIONS_AT_ONCE >= len(texts)), right


def _examined(student: Student, weights: fl.State, shape: Shape, plan: Plan) -> Student:
    assert student.is_right is not None
    exam = Exam(plan, student.is_right, student.is_right)
    return _graded(student, exam)


def _graded(student: Student, exam: Exam) -> Student:
    """The student with its rates by standing."""
    rates = [("asked", *exam.rate("asked")), ("test", *exam.rate("test"))]
    rates += [(part, *exam.rate(part)) for part in STANDINGS]
    return replace(
        student,
        is_right=exam.forward,
        standings=exam.standings,
        is_test=exam.is_test,
        rates=tuple(rates),
    )


def _ask_one(
    result: Asked,
    question: Question,
    title: str,
    weights: fl.State,
    shape: Shape,
    plan: Plan,
) -> Generator[Progress, None, Asked]:
    """A student of the same make that is not on the list: an edited one from the shelf."""
    student = Student("model", title, _reply(weights, shape, question))
    for part, right in _relation_by_relation(weights, shape, plan):
        student = replace(student, is_right=right)
        yield Progress(part, 2, f"Asking {title}", _with(result, student))
    return _with(result, _examined(student, weights, shape, plan))


def _ask_any(
    result: Asked, question: Question, bundle: LanguageBundle, seed: int
) -> Generator[Progress, None, Asked]:
    """Any language model, as it is: the question both ways, and a sample of the relations."""
    relations = months.relations()
    sample = np.random.default_rng(seed).permutation(len(relations))[:SMALL_SAMPLE]
    right, is_asked = np.zeros(len(relations), bool), np.zeros(len(relations), bool)
    student, total = Student("model", bundle.card.title), SMALL_SAMPLE + 2
    texts = list[str]()
    for text in (english(question), english(question, backward=True)):
        answer = ""
        for answer in teachers.say(bundle, f"{text} Answer with one month.", most=24):
            yield Progress(len(texts), total, answer[:60], _with(result, student))
        texts.append(answer)
    right_both = _names(texts[0], question.answer), _names(texts[1], question.start)
    student = replace(student, reply=Reply(texts[0], right_both[0], texts[1], right_both[1]))
    for number, index in enumerate(sample, start=2):
        answer = ""
        for answer in teachers.say(
            bundle, f"{english(relations[index])} Answer with one month.", most=16
        ):
            yield Progress(number, total, answer[:60], _with(result, student))
        right, is_asked = right.copy(), is_asked.copy()
        is_asked[index] = True
        right[index] = _names(answer, relations[index].answer)
        student = replace(student, is_right=right, is_asked=is_asked)
    rates = (("sample", float(right[sample].mean()), len(sample)),)
    note = f"{SMALL_SAMPLE} of the 264 relations, drawn by the seed, in plain English."
    return replace(_with(result, replace(student, rates=rates)), notes=(note,))


FULL = tuple(
    "January February March April May June July August September October November December".split()
)


def english(question: Question, *, backward: bool = False) -> str:
    """A question of the months as people put it."""
    shift = question.shifts[0]
    months_word = "month" if abs(shift) == 1 else "months"
    interval = f"{abs(shift)} {months_word} {'later' if shift > 0 else 'earlier'}"
    if backward:
        return f"{interval.capitalize()} it is {FULL[question.answer]}. Which month is it now?"
    return f"It is {FULL[question.start]}. Which month is it {interval}?"


def _names(text: str, month: int) -> bool:
    """Whether the last month that is named is the right one."""
    months_named = [place for w in text.lower().replace(".", " ").split() for place in _places(w)]
    return bool(months_named) and months_named[-1] == month


def _places(text: str) -> list[int]:
    return [
        place for place, name in enumerate(months.MONTHS) if text.strip(",.*!?").startswith(name)
    ]


# ---------------------------------------------------------------------- augmenting


def _drawn_items(count: int, steps: int, seed: int) -> tuple[Item, ...]:
    pool = months.split(seed).pool
    chosen = [pool[i % len(pool)] for i in range(count)]
    if steps == 2:
        other = [*pool[1:], pool[0]]
        chosen = [
            Question(q.start, (q.shifts[0], other[i % len(pool)].shifts[0]))
            for i, q in enumerate(chosen)
        ]
    return tuple(Item(q.text(i % months.SURFACES), q.gold) for i, q in enumerate(chosen))


def _check_readable(items: Sequence[Item]) -> None:
    """Every question is one that the program can read, with the right answer to it."""
    for number, item in enumerate(items, start=1):
        question = months.read_question(item.question)
        if question is None:
            raise BadInput(
                f"Question {number} is not about months, days or colours: the program cannot "
                "answer it.",
                "Choose the model as the teacher, or leave the questions empty.",
            )
        if item.answer.lower() != question.gold:
            raise BadInput(
                f"The answer of question {number} is {question.gold}, not {item.answer[:20]}.",
                "Mend the answer.",
            )


def _augmented(
    items: Sequence[Item], earlier: dict[str, Record], who: Teacher, teacher: str
) -> Generator[Progress, None, Augmented]:
    result = Augmented(
        tuple(earlier[item.question] for item in items if item.question in earlier),
        len(items),
        teacher=teacher,
    )
    remaining = [item for item in items if item.question not in earlier]
    yield Progress(len(result.records), len(items), "Turning questions round", result)
    for record, is_whole in turned_round(remaining, who):
        if is_whole:
            records = (*result.records, record)
            file = TextFile.of("augmented.jsonl", to_jsonl(records))
            result = replace(result, records=records, draft=None, file=file)
        else:
            result = replace(result, draft=record)
        note = f"Question {min(len(result.records) + 1, len(items))}"
        yield Progress(len(result.records), len(items), note, result)
    return replace(result, file=TextFile.of("augmented.jsonl", to_jsonl(result.records)))


# ---------------------------------------------------------------------- training


def _fleet(plan: Plan, steps: int, budget: str) -> Fleet:
    """One student with its own batches; too few kept questions are refused."""
    questions = None if budget == "sequences" else QUESTIONS_A_PASS
    if plan.lora:
        shelf = students.shelf()
        schedule = Schedule(steps, LORA_RATE, 0.0, questions_a_step=questions)
        return Fleet([plan], schedule, shelf.shape, shelf.base)
    return Fleet([plan], Schedule(steps, LIVE_RATE, questions_a_step=questions), LIVE_SHAPE)


def _trained(
    fleets: Sequence[Fleet], start: str, budget: str
) -> Generator[Progress, None, Trained]:
    steps = fleets[0].schedule.steps
    courses = [_course(fleet) for fleet in fleets]
    probed = {round(steps * (n + 1) / PROBES) for n in range(PROBES)} | {steps}
    result = Trained(tuple(courses), start=start, budget=budget)
    for step in range(1, steps + 1):
        for place, fleet in enumerate(fleets):
            loss = float(fleet.advance()[0])
            if step % 5 == 0 or step in (1, steps):
                courses[place] = replace(
                    courses[place], losses=(*courses[place].losses, (step, loss))
                )
            yield Progress(step - 1, steps, f"{courses[place].title}: loss {loss:.3f}", result)
            if step in probed:
                exam = yield from _examined_live(fleet, step, steps, result)
                probe = _probe(exam, step, fleet)
                courses[place] = replace(courses[place], probes=(*courses[place].probes, probe))
                result = _with_exam(result, place, exam)
            result = replace(result, courses=tuple(courses))
    return result


def _examined_live(
    fleet: Fleet, step: int, steps: int, result: Trained
) -> Generator[Progress, None, Exam]:
    """The exam of a student as it stands, forward alone."""
    plan, right = fleet.plans[0], np.zeros(0, bool)
    weights = {name: w.detach() for name, w in fleet.weights().items()}
    for _, so_far in _relation_by_relation(weights, fleet.shape, plan):
        right = so_far
        yield Progress(step - 1, steps, f"Asking {plan.method.title}", result)
    return Exam(plan, right, right)


def _course(fleet: Fleet) -> Course:
    plan = fleet.plans[0]
    data = fl.data_of(plan, fleet.schedule.steps, fleet.schedule.questions_a_step)
    targets = (data.length - data.prompt_len)[data.order]
    per_question = len(plan.method.tasks) * months.VARIANTS
    return Course(
        plan.arm,
        plan.method.title,
        len(plan.questions()),
        len(data.ids) // per_question,
        int(data.order.numel()),
        int(targets.sum()),
    )


def _probe(exam: Exam, step: int, fleet: Fleet) -> Probe:
    plan = fleet.plans[0]
    presented = step * fleet.sequences_a_step / len(plan.method.tasks)
    return Probe(
        step,
        presented / max(len(plan.questions()), 1),
        *(exam.rate(part)[0] for part in ("asked", "test", "inverse", "new")),
    )


def _with_exam(result: Trained, place: int, exam: Exam) -> Trained:
    done = list(result.exams)
    graded = _graded(Student(exam.plan.name, exam.plan.method.title), exam)
    done[place : place + 1] = [graded]
    return replace(result, exams=tuple(done))


# ---------------------------------------------------------------------- tuning


def _months_set(seed: int) -> tuple[Record, ...]:
    """The exact program's augmented set of half the pool."""
    pool = months.split(seed).asked(0.5)
    items = [Item(q.text(i % months.SURFACES), q.gold) for i, q in enumerate(pool)]
    return tuple(r for r, is_whole in turned_round(items, Program(0.0, seed)) if is_whole)


def _held_out(seed: int) -> tuple[Question, ...]:
    """Twelve test relations: those whose inverse was asked first, then others."""
    split = months.split(seed)
    pool = frozenset(split.asked(0.5))
    by = {
        standing: list(group)
        for standing, group in groupby(
            sorted(split.test, key=lambda q: months.standing(q, pool)),
            key=lambda q: months.standing(q, pool),
        )
    }
    return (*by.get("inverse", [])[:8], *by.get("new", [])[:4])


# ---------------------------------------------------------------------- checks


def _language(ref: ModelRef) -> LanguageBundle:
    bundle = load(ref, "auto", "float32")
    if not isinstance(bundle, LanguageBundle):
        raise ModelMismatch(
            f"{bundle.card.title} is no language model.", "Pick one that continues a text."
        )
    return bundle
