"""Students of RevThink: every method, share of the questions and seed, trained side by side.

    python -m engine.zoo build revthink --seconds 200
    python -m engine.zoo build revthink --threads 1          what a CPU can do in ten minutes
    python -m engine.zoo build revthink-lora                 three LoRA students on the shipped base
    python -m engine.zoo build revthink-curve                the sample-efficiency curve

On a GPU first the base, which knows days, colours and the order of the months; then the students
from nothing in two fleets (those that write backward questions need longer sequences); then the
LoRA students on the base. Figures of all go to results.json, a few students to
students.safetensors. What there is so far is written every 25 seconds.

A CPU trains three students of each main method on half of the questions, one a seed; the first of
each ships, and that of SFT is the base for adapters. The other two builds are short enough for a
CPU: `revthink-lora` adds LoRA students to those that are there; `revthink-curve` trains the
students that the panel trains live, of days of the week, at every share of the questions, and
writes efficiency.json. Its products are in bfloat16: that halves the minutes.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.core.recipe import versions_here
from engine.verifying.revthink import fleet as fl
from engine.verifying.revthink import months, students
from engine.verifying.revthink.arms import END, MAIN, PAD, START, UNKNOWN
from engine.verifying.revthink.exams import Exam, examine
from engine.verifying.revthink.extract import word
from engine.verifying.revthink.fleet import BASE, Fleet, Plan, Schedule, Shape
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options

KEY = "revthink"
LORA_KEY, CURVE_KEY = "revthink-lora", "revthink-curve"
SEEDS, SMALL_SEEDS = 5, 3
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
SWEPT = ("sft", "ansaug", "rephrase", "revthink", "revthink+ansaug")
ABLATED = ("fb", "fq", "b", "separate", "noisy", "filtered")
LORA_FRACTIONS = (0.25, 0.5, 1.0)
SHIPPED = (*(Plan(arm, p, 0) for p in (0.5, 1.0) for arm in MAIN),)
SHIPPED_LORA = tuple(Plan(arm, 0.5, 0, lora=True) for arm in MAIN)
BASE_STEPS, SCRATCH_STEPS, LORA_STEPS, SMALL_STEPS = 2500, 2000, 1200, 1000
SMALL_LORA_STEPS, LORA_RATE = 500, 3e-3
# As the panel trains them live.
CURVE_SHAPE, CURVE_STEPS, CURVE_RATE, CURVE_SEEDS = Shape(width=64, inner=168), 600, 5e-3, 3
SHARES = {"small": 1.0, "small lora": 1.0, "curve": 1.0}
SHARES |= {"base": 0.12, "scratch": 0.5, "lora": 0.16, "live": 0.22}
# Short trainings, to know what a visitor's machine can show in a minute: steps and rate.
LIVE_LORA = ((200, 5e-3), (400, 3e-3), (100, 1e-2), (400, 1e-2), (200, 2e-2))
LIVE_SCRATCH = ((600, 3e-3), (300, 5e-3), (600, 6e-3), (300, 1e-2), (1000, 3e-3))
SAVE_EVERY, RECORD_EVERY = 25.0, 20

log = logging.getLogger(__name__)


def scratch_plans(seeds: int = SEEDS) -> list[Plan]:
    """All students from nothing: a sweep over the questions, and ablations at half of them."""
    swept = [Plan(arm, p, seed) for seed in range(seeds) for p in FRACTIONS for arm in SWEPT]
    return swept + [Plan(arm, 0.5, seed) for seed in range(seeds) for arm in ABLATED]


def lora_plans(seeds: int = SEEDS) -> list[Plan]:
    return [
        Plan(arm, p, seed, lora=True)
        for seed in range(seeds)
        for p in LORA_FRACTIONS
        for arm in MAIN
    ]


@dataclass
class Record:
    """What is known so far, and how it is written down; `earlier` are figures of other builds."""

    shape: Shape
    base: fl.State = field(default_factory=dict)
    students: dict[str, fl.State] = field(default_factory=dict)
    exams: dict[str, Exam] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    training: dict[str, dict[str, float]] = field(default_factory=dict)
    live: list[dict[str, object]] = field(default_factory=list)
    earlier: Sequence[Mapping[str, object]] = ()

    def look(self, fleet: Fleet, *, everyone: bool) -> None:
        """Take over the students that ship, and examine them or everyone."""
        shipped = {*SHIPPED, *SHIPPED_LORA}
        chosen = [i for i, plan in enumerate(fleet.plans) if everyone or plan in shipped]
        if not chosen:
            return
        with torch.no_grad():
            weights = {name: w[chosen].detach() for name, w in fleet.weights().items()}
        plans = [fleet.plans[i] for i in chosen]
        for exam in examine(weights, plans, self.shape):
            self.exams[exam.plan.name] = exam
        for index, plan in enumerate(fleet.plans):
            if plan in shipped:
                kept = fleet.parameters if plan.lora else fleet.weights()
                self.students[plan.name] = {
                    name: w[index].detach().cpu().clone() for name, w in kept.items()
                }

    def publish(self, folder: Path = MODELS / KEY) -> None:
        """Base, students, figures and card, as they stand."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        export_llama(self.base, self.shape, folder)
        tensors = {
            f"{name}/{key}": tensor.half().contiguous()
            for name, state in self.students.items()
            for key, tensor in state.items()
        }
        part = folder / "students.part"
        save_file(tensors, part)
        os.replace(part, folder / "students.safetensors")
        (folder / "results.json").write_text(json.dumps(self.results(), indent=1) + "\n")
        write_card(
            folder,
            key=KEY,
            title="Students of months: RevThink and its baselines",
            kind="language",
            licence="Apache-2.0",
            source="Trained from nothing by engine/zoo on texts that a program writes.",
            shipped=sorted(self.students),
            measured=self.measured(),
        )
        (folder / "README.md").write_text(README)

    def results(self) -> dict[str, object]:
        """The figures of every student, the loss curves of those that ship, and the training."""
        return {
            "students": [*self.earlier, *map(row_of, self.exams.values())],
            "curves": self.curves,
            "training": self.training,
            "live": self.live,
        }

    def measured(self) -> dict[str, float]:
        """The bars: test accuracy of the shipped students."""
        rates = {plan_of_row(row): row["test"] for row in self.results()["students"]}
        return {
            f"{plan.name}: test relations": round(float(str(rates[plan])), 3)
            for plan in (*SHIPPED, *SHIPPED_LORA)
            if plan in rates
        }


def row_of(exam: Exam) -> dict[str, object]:
    """The figures of one student, as they are written down."""
    plan = exam.plan
    row = {"arm": plan.arm, "fraction": plan.fraction, "seed": plan.seed, "lora": plan.lora}
    return {**row, **exam.figures()}


def plan_of_row(row: Mapping[str, object]) -> Plan:
    """The plan of a student by its written figures."""
    fraction, seed = float(str(row["fraction"])), int(str(row["seed"]))
    return Plan(str(row["arm"]), fraction, seed, bool(row["lora"]))


README = """---
license: apache-2.0
tags: [rewind, language]
---
# Students of months: RevThink and its baselines

Llama networks of 0.23 million parameters that go forward and back on a cycle of twelve months.
The root is the base for adapters: a student of SFT on half of the questions, or, where a GPU
trained it, one that knows days, colours and the order of the months. students.safetensors holds
the others, "<method>-<share of the questions>-<seed>/<tensor>", and of LoRA students A and B.
results.json has the figures of all that were trained; efficiency.json those of smaller ones, of
days of the week, at five shares of the questions, which do not ship.

Made again by `python -m engine.zoo build revthink`, then `revthink-lora` and `revthink-curve`.
"""


def build(folder: Path, options: Options) -> None:
    """All stages; figures and students are published as they come."""
    shape, device = Shape(), options.device
    if device == "cpu":
        return build_small(options, shape)
    torch.set_float32_matmul_precision("high")
    record, begun = Record(shape), time.monotonic()
    base = Fleet([Plan(BASE, 1.0, 0)], _schedule(options, BASE_STEPS, 3e-3), shape, device=device)
    _train("base", [base], options, record, lambda: None)
    record.base = base.state(0)
    record.training["base"] |= known(record.base, shape)
    log.info("base: %s", record.training["base"])
    fleets = _fleets(scratch_plans(), _schedule(options, SCRATCH_STEPS, 2e-3), shape, device)
    _train("scratch", fleets, options, record, lambda: _save(record, fleets))
    _save(record, fleets, everyone=True)
    del fleets
    schedule = _schedule(options, LORA_STEPS, 3e-3, weight_decay=0.0)
    lora = _fleets(lora_plans(), schedule, shape, device, record.base)
    _train("lora", lora, options, record, lambda: _save(record, lora))
    _save(record, lora, everyone=True)
    del lora
    _live(record, options, shape)
    record.publish()
    log.info("done in %.0f s", time.monotonic() - begun)
    for name, exam in record.exams.items():
        if exam.plan.seed == 0:
            log.info("%s %s", name, exam.figures())


def _live(record: Record, options: Options, shape: Shape) -> None:
    """Means over three seeds of what short trainings reach, as many as the seconds allow."""
    begun, seconds = time.monotonic(), SHARES["live"] * options.seconds
    runs = [(True, *run) for run in LIVE_LORA] + [(False, *run) for run in LIVE_SCRATCH]
    for lora, steps, rate in runs:
        if time.monotonic() - begun > seconds:
            break
        worlds = [(months.YEAR, 0.25), (months.YEAR, 0.5), (months.YEAR, 1.0)]
        worlds += [] if lora else [(months.WEEK, 0.75), (months.WEEK, 1.0)]
        plans = [
            Plan(arm, share, seed, lora, cycle=cycle)
            for cycle, share in worlds
            for arm in ("sft", "revthink")
            for seed in range(3)
        ]
        schedule = Schedule(options.steps or steps, rate, 0.0 if lora else 0.1)
        fleets = _fleets(plans, schedule, shape, options.device, record.base if lora else None)
        for step in range(schedule.steps):
            for fleet in fleets:
                fleet.advance(step / schedule.steps)
        exams = [exam for fleet in fleets for exam in _by_cycle(fleet, shape)]
        for cycle, share in worlds:
            for arm in ("sft", "revthink"):
                own = [
                    exam.figures()
                    for exam in exams
                    if (exam.plan.cycle, exam.plan.fraction, exam.plan.arm) == (cycle, share, arm)
                ]
                means = {
                    part: round(sum(f[part] for f in own) / len(own), 3)
                    for part in ("asked", "test", "inverse", "new", "backward, asked")
                    if all(part in f for f in own)
                }
                row = {"world": cycle.word, "share": share, "arm": arm, "lora": lora}
                row |= {"steps": schedule.steps, "rate": rate, **means}
                record.live.append(row)
                log.info("live: %s", row)


def _by_cycle(fleet: Fleet, shape: Shape) -> Iterator[Exam]:
    """Exams of a fleet whose students live in several worlds."""
    for cycle in (months.YEAR, months.WEEK):
        chosen = [i for i, plan in enumerate(fleet.plans) if plan.cycle == cycle]
        if chosen:
            weights = {name: w[chosen].detach() for name, w in fleet.weights().items()}
            yield from examine(weights, [fleet.plans[i] for i in chosen], shape)


def build_small(options: Options, shape: Shape) -> None:
    """What a CPU can do in ten minutes: the three main methods on half of the questions."""
    record = Record(shape)
    plans = [[Plan(arm, 0.5, seed) for seed in range(SMALL_SEEDS)] for arm in MAIN]
    fleets = [Fleet(group, _schedule(options, SMALL_STEPS, 2e-3), shape) for group in plans]
    _train("small", fleets, options, record, lambda: None)
    record.base = fleets[MAIN.index("sft")].state(0)
    _save(record, fleets, everyone=True)
    for name, exam in record.exams.items():
        log.info("%s %s", name, exam.figures())


def build_lora(folder: Path, options: Options) -> None:
    """LoRA students of the main methods on the shipped base, added to the students that are there.

    For those who have no GPU; with one, `build` trains them too, and over more seeds.
    """
    shelf = students.shelf()
    record = Record(
        shelf.shape,
        dict(shelf.base),
        {plan.name: dict(state) for plan, state in shelf.students.items() if not plan.lora},
        training={stage: dict(details) for stage, details in shelf.training.items()},
        earlier=[row for row in shelf.figures if not row["lora"]],
    )
    schedule = _schedule(options, SMALL_LORA_STEPS, LORA_RATE, weight_decay=0.0)
    device = options.device
    fleets = [
        Fleet([plan], schedule, shelf.shape, shelf.base, device=device, half=True)
        for plan in SHIPPED_LORA
    ]
    _train("small lora", fleets, options, record, lambda: None)
    _save(record, fleets, everyone=True)
    for name, exam in record.exams.items():
        log.info("%s %s", name, exam.figures())


def build_curve(folder: Path, options: Options) -> None:
    """The panel's live students at every share of the questions, a few seeds, equal budget.

    All take their steps in turns, so that all have seen as many sequences when the clock ends it.
    """
    shape, cycle, begun = CURVE_SHAPE, months.WEEK, time.monotonic()
    record, schedule = Record(shape), _schedule(options, CURVE_STEPS, CURVE_RATE)
    fleets = []
    for arm in MAIN:
        plans = [Plan(arm, p, seed, cycle=cycle) for p in FRACTIONS for seed in range(CURVE_SEEDS)]
        fleets.append(Fleet(plans, schedule, shape, device=options.device, half=True))
    _train("curve", fleets, options, record, lambda: None)
    exams = [e for fleet in fleets for e in examine(fleet.weights(), fleet.plans, shape)]
    details = {
        **record.training["curve"],
        "weights of a student": sum(w[0].numel() for w in fleets[0].weights().values()),
        "seeds": CURVE_SEEDS,
        "world": cycle.word,
        "questions in the pool": len(months.split(0, cycle).pool),
        "test relations": len(months.split(0, cycle).test),
        "seconds": round(time.monotonic() - begun, 1),
        "versions": versions_here(),
        "machine": f"{platform.machine()} {options.device}, {os.cpu_count()} cores, in bfloat16",
    }
    publish_curve({**details, "students": [row_of(exam) for exam in exams]})


def publish_curve(figures: Mapping[str, object], folder: Path = MODELS / KEY) -> None:
    """The curve beside the students, and its checksum into their card."""
    (folder / "efficiency.json").write_text(json.dumps(figures, indent=1) + "\n")
    card = json.loads((folder / "card.json").read_text("utf-8"))
    card.pop("sha256")
    write_card(folder, **card)
    (folder / "README.md").write_text(README)


def _schedule(options: Options, steps: int, rate: float, **more: Any) -> Schedule:
    return Schedule(options.steps or steps, rate, **more)


def _fleets(
    plans: Sequence[Plan],
    schedule: Schedule,
    shape: Shape,
    device: str,
    base: Mapping[str, torch.Tensor] | None = None,
) -> list[Fleet]:
    """Two fleets by the length of the sequences, so that short ones are not padded to long ones."""
    groups = {True: [], False: []}
    for plan in plans:
        groups["BQ" in plan.method.tasks].append(plan)
    return [
        Fleet(group, schedule, shape, base, device=device) for group in groups.values() if group
    ]


def _train(
    stage: str,
    fleets: Sequence[Fleet],
    options: Options,
    record: Record,
    save: Callable[[], None],
) -> None:
    """Step all fleets until the steps or this stage's seconds are over."""
    seconds, begun = SHARES[stage] * options.seconds, time.monotonic()
    saved, steps = begun, fleets[0].schedule.steps
    step, spent = 0, 0.0
    for step, spent in _clock(steps, seconds, begun):
        losses = [fleet.advance(max(step / steps, spent / seconds)) for fleet in fleets]
        if step % RECORD_EVERY == 0:
            _note(record, fleets, losses, step)
        if step % 200 == 0:
            means = [round(float(loss.mean()), 4) for loss in losses]
            log.info("%s: step %d of %d, %.0f s, losses %s", stage, step, steps, spent, means)
        if time.monotonic() - saved > SAVE_EVERY:
            save()
            saved = time.monotonic()
    record.training[stage] = {
        "steps": step + 1,
        "planned steps": steps,
        "sequences a step": fl.SEQUENCES_A_STEP,
        "students": sum(len(fleet.plans) for fleet in fleets),
        "seconds": round(time.monotonic() - begun, 1),
        "learning rate": fleets[0].schedule.learning_rate,
    }


def _clock(steps: int, seconds: float, begun: float) -> Iterator[tuple[int, float]]:
    for step in range(steps):
        spent = time.monotonic() - begun
        if spent >= seconds:
            return
        yield step, spent


def _note(
    record: Record, fleets: Sequence[Fleet], losses: Sequence[torch.Tensor], step: int
) -> None:
    shipped = {*SHIPPED, *SHIPPED_LORA}
    for fleet, loss in zip(fleets, losses, strict=True):
        values = loss.tolist()
        for plan, value in zip(fleet.plans, values, strict=True):
            if plan in shipped:
                record.curves.setdefault(plan.name, []).append((step, round(value, 4)))


def _save(record: Record, fleets: Sequence[Fleet], *, everyone: bool = False) -> None:
    for fleet in fleets:
        record.look(fleet, everyone=everyone)
    record.publish()


def known(base: Mapping[str, torch.Tensor], shape: Shape) -> dict[str, float]:
    """Share of the relations of days and colours that the base answers, both ways."""
    shares, weights = {}, {name: w[None] for name, w in base.items()}
    for cycle in (months.WEEK, months.RAINBOW):
        relations = months.relations(cycle)
        for direction in ("forward", "backward"):
            texts = [
                q.text() if direction == "forward" else q.backward_question() for q in relations
            ]
            gold = [q.gold if direction == "forward" else cycle.names[q.start] for q in relations]
            tokens = fl.answer(weights, fl.prompts(texts)[None], shape)[0].tolist()
            right = [word(fl.decode(row)) == g for row, g in zip(tokens, gold, strict=True)]
            shares[f"{cycle.word}s, {direction}"] = round(sum(right) / len(right), 3)
    return shares


# ---------------------------------------------------------------------- transformers layout


def export_llama(state: Mapping[str, torch.Tensor], shape: Shape, folder: Path) -> None:
    """A student as a LlamaForCausalLM folder in half precision, with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=128,
        rms_norm_eps=shape.eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        bos_token_id=fl.INDEX[START],
        eos_token_id=fl.INDEX[END],
        pad_token_id=fl.INDEX[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    loaded = model.load_state_dict(dict(state), strict=False)
    assert not loaded.unexpected_keys
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer().save_pretrained(folder, save_jinja_files=False)


def tokenizer():
    """One token a word; a turn of conversation is the text itself after the start."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(fl.INDEX, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, fl.INDEX[START])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=128,
    )
    fast.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    return fast


BUILDS = {KEY: build, LORA_KEY: build_lora, CURVE_KEY: build_curve}
