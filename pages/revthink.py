"""RevThink: students that were also asked backward, beside those that were not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from engine.core.recipe import Recipe
from engine.models.library import MODELS
from pages import _markup as markup
from pages import _plots as plots
from pages._frame import Frame
from pages._markup import escape
from pages._recordings import Number
from pages._revthink_efficiency import efficiency_note, efficiency_plot, efficiency_table
from pages._revthink_students import (
    CSS,
    HEADS,
    MONTHS,
    SHOWN_ARMS,
    STANDINGS,
    first_look,
    interval,
    legend,
    matrix,
    rates_table,
)
from pages._revthink_teacher import build_teacher
from pages._revthink_training import build_training, build_tuning
from pages._revthink_words import aloud, in_full

if TYPE_CHECKING:
    from engine.verifying.revthink.results import (
        Asked,
        Point,
        Student,
    )

SLUG = "revthink"
HEADS |= {"around": "way around asked", "new": "new"}
SMOLLM2 = "package:smollm2"


def build(frame: Frame) -> None:
    """The students and their matrix; then the teacher, a live training, and a real student."""
    ask = frame.stage("run", "Ask the students", tab="Ask")
    with ask.ask:
        months = [(in_full(name), name) for name in MONTHS]
        start = gr.Dropdown(months, value="nov", label="It is", elem_id="revthink-start")
        shift = gr.Slider(
            -11,
            11,
            value=-4,
            step=1,
            label="Months later",
            info="Below 0 is earlier; where do we end?",
            elem_id="revthink-shift",
        )
    with ask.settings:
        shares, starts = shipped_choices()
        fraction = gr.Radio(
            shares,
            value=0.5,
            label="Share of the 176 questions they were asked",
            info="The other 88 relations are the test. No student was ever asked about them.",
            visible=len(shares) > 1,
        )
        students_of = gr.Radio(
            starts,
            value="nothing",
            label="Trained",
            info="The base is the SFT student of the same questions; adapters of rank 16",
            visible=len(starts) > 1,
        )
        frame.seed(0)
        frame.model({SMOLLM2: "SmolLM2-135M-Instruct, once fetched"})
    with ask.shown:
        shown = gr.HTML(first_look(), elem_id="revthink-shown", css_template=CSS)
    with ask.below:
        numbers = gr.HTML("", elem_id="revthink-numbers", css_template=CSS)
        told = gr.HTML("", elem_id="revthink-efficiency", css_template=CSS)
        with gr.Row(elem_classes="curves"):
            with gr.Column():
                curve = plots.place("Test relations by share of the questions", visible=False)
            with gr.Column():
                mirror = plots.place("Those whose inverse was asked", visible=False)
        table = gr.HTML("", elem_id="revthink-curves", css_template=CSS)
    ask.wire(
        {"start": start, "shift": shift, "fraction": fraction, "students_of": students_of},
        draw_run,
        [shown, numbers, told, curve, mirror, table],
        number=rightly,
        film=lambda result: (
            f"{aloud(result.question)} {in_full(result.gold)}",
            f"{aloud(result.backward_question)} {in_full(result.backward_gold)}",
        ),
    )
    build_teacher(frame)
    build_training(frame)
    build_tuning(frame)
    frame.breaks(
        "With half of the chains wrong and no filter, the student learns the teacher's "
        "mistakes in both directions.",
        "the filter, which drops every pair whose backward answer does not fit the question.",
        {"arms": ["sft", "revthink"], "corrupt": 0.5, "filtered": False},
        action="train",
    )


def shipped_choices() -> tuple[list[tuple[str, float]], list[tuple[str, str]]]:
    """The shares of the questions and the starts of which students ship, by the model's card."""
    card = MODELS.get(SLUG)
    names = card.notes.get("shipped", []) if card else []
    shipped = {str(name) for name in names} if isinstance(names, list) else set()
    shares = [("half", 0.5), ("all", 1.0)]
    shares = [pair for pair in shares if f"revthink-{pair[1]:g}-0" in shipped] or shares[:1]
    starts = [("from nothing", "nothing"), ("with LoRA on the base", "lora")]
    return shares, starts if "revthink-lora-0.5-0" in shipped else starts[:1]


# ---------------------------------------------------------------------- the students


def draw_run(result: "Asked", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The question both ways, each student's answers and matrix; at the end rates and curves."""
    cards = "".join(_pupil(student) for student in result.students)
    notes = markup.notes(*result.notes)
    shown = f'{_family(result)}<div class="pupils">{cards}</div>{legend()}{notes}'
    if not ended:
        return (shown,)
    table = rates_table([(s.title, s.rates) for s in result.students])
    table += seeds_table(result.curve, recipe)
    plots = [efficiency_plot(result.efficiency, part) for part in ("test", "inverse")]
    curves = [gr.Plot(value=plot, visible=plot is not None) for plot in plots]
    told, numbers = efficiency_note(result.efficiency), efficiency_table(result.efficiency)
    return shown, _verdict(result) + table, told, *curves, numbers


def rightly(result: "Asked", recipe: Recipe) -> Number | None:
    """The share of right answers to relations that nobody was asked, by SFT and by RevThink."""
    rates = {s.title: {part: share for part, share, _ in s.rates} for s in result.students}
    if not all("test" in rates.get(name, {}) for name in ("SFT", "RevThink")):
        return None  # they are still being asked
    shares = [f"{100 * rates[name]['test']:.0f} %" for name in ("SFT", "RevThink")]
    return Number("right on relations that nobody was asked: SFT → RevThink", shares[1], shares[0])


def _family(result: "Asked") -> str:
    """Q and Qb with their gold answers, side by side."""
    standing = STANDINGS.get(result.standing, "")
    return (
        '<div class="both-ways">'
        f"<div>{_question(result.question, result.gold)}"
        f'<p class="note">{escape(standing)}</p></div>'
        f'<div class="back">{_question(result.backward_question, result.backward_gold)}'
        '<p class="note">the same, asked backward</p></div></div>'
    )


def _question(text: str, gold: str) -> str:
    """A question with its answer, as one says them, and below as the students read them."""
    return (
        f"<p>{escape(aloud(text))} <b>{escape(in_full(gold))}</b></p>"
        f'<p class="note as-read"><code>{escape(text)} {escape(gold)}</code></p>'
    )


def _pupil(student: "Student") -> str:
    said = ""
    if student.reply is not None:
        reply = student.reply
        for way, text, right in (
            ("▶", reply.forward, reply.forward_is_right),
            ("◀", reply.backward, reply.backward_is_right),
        ):
            tone, name = ("forward", "forward") if way == "▶" else ("backward", "backward")
            said += (
                f'<p><span class="mark {tone}" role="img" aria-label="{name}">{way}</span> '
                f"<code>{escape(text[:90]) or '(nothing)'}</code> {'✓' if right else '✗'}</p>"
            )
    return (
        f"<section><h3>{escape(student.title)}</h3>{said}"
        f"{matrix(student.is_right, student.standings, student.title, student.is_asked)}</section>"
    )


def seeds_table(points: "Sequence[Point]", recipe: Recipe) -> str:
    """Means over all seeds that were trained, with their intervals; nothing for a single seed."""
    chosen = recipe.params.get("fraction", 0.5), _is_lora(recipe)
    own = [p for p in points if (p.fraction, p.lora) == chosen and p.seeds > 1]
    shown = [part for part in HEADS if any(p.part == part for p in own)]
    if not own:
        return ""
    rows = []
    for arm in SHOWN_ARMS:
        by = {p.part: p for p in own if p.arm == arm}
        if by:
            rows.append([next(iter(by.values())).title, *(interval(by[part]) for part in shown)])
    note = markup.notes(
        f"The same over {max(p.seeds for p in own)} seeds, each with other test relations: mean, "
        "and its 95 % interval."
    )
    return note + markup.table(["student", *(HEADS[part] for part in shown)], rows)


def _is_lora(recipe: Recipe) -> bool:
    return recipe.params.get("students_of") == "lora"


def _verdict(result: "Asked") -> str:
    """What was seen, in one sentence of numbers."""
    rates = {s.title: {p: (share, n) for p, share, n in s.rates} for s in result.students}
    if not {"SFT", "RevThink"} <= set(rates):
        return ""
    rev, sft = rates["RevThink"], rates["SFT"]
    return (
        f"<p class='verdict'>Of {rev['test'][1]} relations that nobody was asked, RevThink answers "
        f"{100 * rev['test'][0]:.0f} %, SFT {100 * sft['test'][0]:.0f} %. Where the inverse was "
        f"asked: {100 * rev['inverse'][0]:.0f} % against {100 * sft['inverse'][0]:.0f} %; where no "
        f"relative was: {100 * rev['new'][0]:.0f} % against {100 * sft['new'][0]:.0f} %. "
        "These are students of one seed.</p>"
    )
