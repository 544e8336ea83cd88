"""The teacher of RevThink turns each question round: its controls, its records and their file."""

import base64
from typing import TYPE_CHECKING

import gradio as gr

from engine.core.recipe import Recipe
from pages import _markup as markup
from pages._files import read_upload
from pages._frame import Frame
from pages._markup import escape
from pages._recordings import Number
from pages._revthink_students import CSS
from pages._revthink_words import aloud, in_full

if TYPE_CHECKING:
    from engine.verifying.revthink.augment import Record
    from engine.verifying.revthink.results import (
        Augmented,
    )


EXAMPLE = '{"question": "Ann has 3 boxes of 4 pens. How many pens has she?", "answer": "12"}'


def build_teacher(frame: Frame) -> None:
    """Forward reasoning, backward question, backward reasoning, and the filter."""
    turn = frame.stage("augment", "Turn questions round", tab="The teacher")
    with turn.ask:
        gr.HTML(
            markup.notes(
                "The teacher turns each question round: forward reasoning, backward question, "
                "backward reasoning. What does not lead back to the question is crossed out."
            )
        )
        corrupt = gr.Slider(
            0,
            1,
            value=0.2,
            step=0.05,
            label="Wrong chains of the program",
            info="Spoils its answers on purpose; watch what the filter catches",
        )
    with turn.settings:
        teacher = gr.Radio(
            [("the exact program", "program"), ("the model of the first tab", "model")],
            value="program",
            label="Teacher",
            info="A language model answers any question; the program only the months",
        )
        count = gr.Slider(1, 88, value=12, step=1, label="Questions about months")
        steps = gr.Radio([("one", 1), ("two", 2)], value=1, label="Shifts in a question")
        with gr.Accordion("My own questions", open=False):
            questions, done = _own_questions(frame)
            temperature = gr.Slider(0, 2, value=0.8, step=0.1, label="Temperature")
            most = gr.Slider(8, 400, value=120, step=8, label="Longest chain, in tokens")
    with turn.shown:
        records = gr.HTML("", elem_id="revthink-records", css_template=CSS)
    turn.wire(
        {
            "teacher": teacher,
            "corrupt": corrupt,
            "count": count,
            "steps": steps,
            "questions": questions,
            "done": done,
            "temperature": temperature,
            "most_tokens": most,
        },
        draw_augment,
        [records, done],
        number=consistent,
    )


def _own_questions(frame: Frame) -> tuple[gr.Textbox, gr.Textbox]:
    """Questions as JSON lines, and the records of a run that was cut off."""
    questions = gr.Textbox(
        "",
        label="Questions (JSON lines)",
        placeholder=EXAMPLE,
        info='One object a line with "question" and "answer"; empty draws months',
        lines=3,
        max_lines=8,
        max_length=1_000_000,
        elem_classes="mono",
    )
    opened = gr.UploadButton("Open a JSONL file", file_types=[".jsonl", ".json"], size="sm")
    frame.on(opened.upload, read_upload, opened, questions, name="open_questions")
    done = gr.Textbox(
        "",
        label="Go on from (JSON lines)",
        info="Holds what a stopped run has written, so that Run goes on; clear it to start over",
        lines=2,
        max_lines=4,
        max_length=1_900_000,
        elem_classes="mono",
    )
    return questions, done


def draw_augment(result: "Augmented", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Records with their stamps, the keep rate, and the file; a cut-off run can go on."""
    rows = [_record(record) for record in result.records]
    if result.draft is not None:
        rows.append(_record(result.draft, waiting=True))
    done, kept = len(result.records), result.kept
    share = 100 * kept / done if done else 0
    head = (
        f"<p><b>{kept} of {done} kept</b> <span class='note'>({share:.0f} %) of "
        f"{result.total} questions; teacher: {escape(result.teacher)}{_cut_off(result)}</span></p>"
        f'<div class="keep" role="img" aria-label="{share:.0f} % kept">'
        f'<i style="width:{share:.1f}%"></i></div>'
    )
    save, text = "", result.file.text if result.file is not None else ""
    if ended and text and result.file is not None:
        url = base64.b64encode(text.encode()).decode("ascii")
        save = (
            f'<p><a class="quiet" download="{escape(result.file.name)}" '
            f'href="data:application/jsonl;base64,{url}">Save the augmented set (JSONL)</a></p>'
        )
    shown = f'{head}{save}<ol class="records">{"".join(rows[-60:])}</ol>'
    return shown, "" if ended else text


def consistent(result: "Augmented", recipe: Recipe) -> Number | None:
    """How many records lead back to their question."""
    if not result.records:
        return None
    kept = f"{result.kept} of {len(result.records)}"
    return Number("records that lead back to their question", kept)


def _cut_off(result: "Augmented") -> str:
    """How many chains ended at the longest length and not by themselves."""
    chains = [t for r in result.records for t in (r.forward_reasoning, r.backward_reasoning)]
    count = sum(text.endswith("…") for text in chains)
    return f"; {count} of {len(chains)} chains were cut off" if count else ""


def _record(record: "Record", waiting: bool = False) -> str:
    if waiting:
        stamp = '<span class="stamp wait">writing</span>'
    elif record.is_kept:
        stamp = '<span class="stamp">✓ kept</span>'
    else:
        why = "wrong answer" if not record.is_right else "not consistent"
        stamp = f'<span class="stamp no">✗ {why}</span>'
    lines = [
        ("", "Q", f"{aloud(record.question)} ({in_full(record.gold_answer)})"),
        ("", "Rf", record.forward_reasoning),
        ("back", "Qb", aloud(record.backward_question)),
        ("back", "Rb", record.backward_reasoning),
    ]
    told = "".join(
        f'<p><b class="way {tone}">{name}</b> {escape(text[:600])}</p>'
        for tone, name, text in lines
        if text
    )
    return f"<li>{stamp}<div>{told}</div></li>"
