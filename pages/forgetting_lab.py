"""Forgetting lab: all ways on one sheet, held to the same questions, each taken back exactly."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.unlearning.forgetting_lab import METHODS, ORIGINAL, RETRAINED
from pages import _fields as fields
from pages import _files
from pages import _forgetting as forgetting
from pages import _grow as grow
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._markup import Html, escape
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    import numpy as np

    from engine.metrics.intervals import Rate
    from engine.unlearning.forgetting_lab.results import Laboratory, OfClass, Order, Pair, Row

CHOSEN = ("SSD", "fine-tuning", "bad teacher")


def build(frame: Frame) -> None:
    """What is forgotten by which ways; the sheet, the plane, relearning; then two at a time."""
    run = frame.stage("run", "Compare")
    with run.ask:
        question = forgetting.asks(frame)
        methods = gr.CheckboxGroup(
            list(METHODS),
            value=list(CHOSEN),
            label="Ways",
            info="All but SSD train for one epoch; the original and the retrained are always there",
        )
    with run.settings:
        question |= forgetting.more(frame, question)
        how = _how()
        relearn = _relearn()
        frame.seed(0)
        frame.model()
    with run.shown:
        plane = plots.place("Forgotten against kept")
    with run.below:
        sheet = gr.HTML("", elem_id="forgetting_lab-sheet")
        back = plots.place("How soon it is learnt again", visible=False)
        layers = plots.place("How alike the layers are to the retrained network's", visible=False)
        files = gr.File(label="Sheet and cards", visible=False, interactive=False,
                        file_count="multiple")  # fmt: skip
    run.wire(
        {**question, "methods": methods, **how, **relearn},
        draw_run,
        [plane, sheet, back, layers, files],
        number=back_again,
        film=film,
        params=settings,
        back=forgetting.controls,
    )
    _pair(frame, {**question, **how})
    _take_along(frame, {**question, **how})
    frame.breaks(
        "Hardly any method forgets random pictures: the network knows them because it "
        "knows others like them, and so does the retrained network. All points lie in "
        "one heap.",
        "forget a class, or pictures that were learnt by heart, and look at "
        "membership, not at accuracy.",
        {"forget": "random", "count": 100, "methods": ["SSD"], "relearn_steps": 0},
        seed=0,
    )


def _how() -> Controls:
    return {
        "unit": gr.Dropdown(
            fields.options(forgetting.UNITS), value="sample", label="Gradients of SSD of"
        ),
        "alpha": gr.Number(
            0,
            label="α of SSD",
            info="0 chooses for you: 2 % of the weights",
            minimum=0,
            maximum=1e7,
        ),
    }


def _relearn() -> Controls:
    return {
        "relearn_samples": gr.Number(
            32, label="Pictures to relearn from", precision=0, minimum=1, maximum=1000
        ),
        "relearn_steps": gr.Slider(0, 200, value=40, step=1, label="Steps of relearning"),
    }


def _pair(frame: Frame, inputs: Controls) -> None:
    pair = frame.stage("pair", "Compare the two", tab="Two at a time")
    every = [ORIGINAL, RETRAINED, *METHODS]
    with pair.ask:
        first = gr.Dropdown(every, value="SSD", label="One")
        second = gr.Dropdown(every, value=RETRAINED, label="The other")
    with pair.settings:
        stack = gr.Checkbox(
            False,
            label="Make the second on top of the first, and take both off",
            info="An edit under another one cannot come off first",
        )
        count = gr.Slider(0, 24, value=6, step=1, label="Pictures on which they differ most")
    with pair.shown:
        pictures = gr.HTML("", elem_id="forgetting_lab-pictures")
    with pair.below:
        told = gr.HTML("", elem_id="forgetting_lab-pair-told")
    pair.wire(
        {**inputs, "first": first, "second": second, "stack": stack, "pictures_shown": count},
        draw_pair,
        [pictures, told],
        number=alike,
        params=settings,
        back=forgetting.controls,
    )


def _take_along(frame: Frame, inputs: Controls) -> None:
    with frame.tab("Take it along"):
        way = gr.Dropdown(list(METHODS), value="SSD", label="Way")
        forgetting.takes_along(
            frame,
            "The edited network",
            {**inputs, "way": way},
            params=settings,
            back=forgetting.controls,
        )


def settings(values: Settings) -> Settings:
    """Settings of a job, of what the controls hold."""
    return forgetting.asked(values)


# ---------------------------------------------------------------------- the sheet


def back_again(result: "Laboratory", recipe: Recipe) -> Number | None:
    """Steps until the class is known again: after SSD, against the network that never knew it."""
    told = {row.name: row.relearning for row in result.rows if row.relearning}
    ours = next((name for name in told if name != RETRAINED), None)
    if ours is None:
        return None
    rival = told.get(RETRAINED)
    steps = [_steps(found.back_at, found.steps) for found in (rival, told[ours]) if found]
    what = f"steps until {result.name} is known again: retrained → {ours}"
    return Number(what, steps[-1], steps[0] if rival else "")


def film(result: "Laboratory") -> "list[np.ndarray]":
    """Accuracy on the forgotten while it is learnt again; blue where it was unlearnt."""
    told = [row for row in result.rows if row.relearning is not None]
    rows = [
        Bar("", [float(one) for one in row.relearning.accuracy], row.name != RETRAINED)
        for row in told
        if row.relearning is not None
    ]
    return grow.film(Group("", rows, grow.told_share, ends=(0.0, 1.0)))


def _steps(back_at: int | None, tried: Sequence[int]) -> str:
    return f"over {tried[-1]}" if back_at is None else str(back_at)


def draw_run(result: "Laboratory", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The plane and the sheet as they grow; curves; at the end the files."""
    shown = (
        plots.shown(plane(result)),
        sheet(result),
        plots.shown(relearning(result)),
        plots.shown(layers(result)),
    )
    if not ended:
        return shown
    cards = {f"card-{row.name.replace(' ', '-')}.json": row.card.json() for row in result.rows}
    made = _files.written(
        {name: text.encode() for name, text in {"sheet.csv": table(result), **cards}.items()}
    )
    return *shown, gr.File(value=[str(path) for path in made], visible=True)


def plane(result: "Laboratory") -> PlotData:
    """Kept against forgotten, each way a cross of its intervals; the best are ringed."""
    lines = []
    for place, point in enumerate(result.points):
        told = f"{point.name}: {_told(point.forget)} forgotten class, {_told(point.retain)} kept"
        x, y = _cross(point.retain, point.forget)
        neutral = point.name in (ORIGINAL, RETRAINED)
        name = f"{point.name}, not beaten" if point.is_best else point.name
        lines.append(Line(name, x, y, place, neutral=neutral, hover=[told] * len(x)))
    return plots.curves(
        lines,
        "accuracy on the rest, unseen, %",
        f"accuracy on {result.name}, unseen, %",
        percent=True,
    )


def _cross(across: "Rate", along: "Rate") -> tuple[list[float], list[float]]:
    """Both intervals as one line through the point."""
    x, y = 100 * across.rate, 100 * along.rate
    return (
        [100 * across.low, 100 * across.high, x, x, x],
        [y, y, y, 100 * along.low, 100 * along.high],
    )


def _told(rate: "Rate") -> str:
    return f"{100 * rate.rate:.1f} % ({100 * rate.low:.0f} – {100 * rate.high:.0f})"


HEAD = (
    "way", "forgotten, unseen", "kept, unseen", "forgotten, trained on", "kept, trained on",
    "membership", "worst attack", "answers as retrained", "relearnt in", "attack succeeds",
    "weights changed", "undone",
)  # fmt: skip


def sheet(result: "Laboratory") -> str:
    """One row a way, all questions in it."""
    if not result.rows:
        return markup.notes(*result.notes)
    title = markup.titled(
        "The sheet",
        "Rates with their 95 % intervals. Membership is the share of the forgotten "
        "pictures that an attack takes for training data; compare it with that of the "
        "retrained network.",
    )
    rows = [_row(row) for row in result.rows]
    return title + markup.table(HEAD, rows, "all ways") + markup.notes(*result.notes)


def _row(row: "Row") -> list[object]:
    card, found = row.card, row.relearning
    undone = "–" if row.undo is None else markup.came_back(row.undo)
    return [
        Html(f"<b>{escape(row.name)}</b>"),
        *(forgetting.rate_cell(getattr(card, name)) for name in forgetting.COLUMNS),
        "–" if card.mia is None else f"{100 * card.mia:.1f} %",
        "–" if card.worst_case is None else f"{100 * card.worst_case.accuracy:.0f} %",
        "–" if row.agreement is None else f"{100 * row.agreement.same:.0f} %",
        "–" if found is None else f"{_steps(found.back_at, found.steps)} steps",
        forgetting.rate_cell(row.attack_success),
        "–" if card.changed_share is None else f"{100 * card.changed_share:.1f} %",
        undone,
    ]


def table(result: "Laboratory") -> str:
    """The same rates as a CSV."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    names = [*forgetting.COLUMNS, "attack_success"]
    writer.writerow(
        ["way", *(f"{name} {end}" for name in names for end in ("rate", "low", "high"))]
    )
    for row in result.rows:
        rates = [row.attack_success if n == "attack_success" else getattr(row.card, n)
                 for n in names]  # fmt: skip
        cells = [cell for rate in rates for cell in _numbers(rate)]
        writer.writerow([row.name, *cells])
    return text.getvalue()


def _numbers(rate: "Rate | None") -> tuple[object, object, object]:
    return ("", "", "") if rate is None else (rate.rate, rate.low, rate.high)


def relearning(result: "Laboratory") -> PlotData:
    """Accuracy on the forgotten while a few of its pictures are learnt again."""
    told = [row for row in result.rows if row.relearning is not None]
    lines = [
        Line(
            row.name,
            row.relearning.steps,
            [100 * one for one in row.relearning.accuracy],
            place,
            neutral=row.name == RETRAINED,
        )
        for place, row in enumerate(told)
        if row.relearning is not None
    ]
    return plots.curves(lines, "steps of relearning", "accuracy on the forgotten, %", height=300)


def layers(result: "Laboratory") -> PlotData:
    """CKA of each layer with the retrained network's."""
    told = [row for row in result.rows if row.similarity and row.name != RETRAINED]
    lines = [
        Line(
            row.name,
            range(1, len(row.similarity) + 1),
            list(row.similarity.values()),
            place,
            neutral=row.name == ORIGINAL,
            hover=[f"{name}: {value:.3f}" for name, value in row.similarity.items()],
        )
        for place, row in enumerate(told)
    ]
    return plots.curves(lines, "layer", "CKA with the retrained network", height=300)


# ---------------------------------------------------------------------- two at a time


def alike(result: "Pair", recipe: Recipe) -> Number | None:
    """How often both answer alike."""
    if result.agreement is None:
        return None
    what = f"equal answers of {result.first} and {result.second}, unseen pictures"
    return Number(what, f"{100 * result.agreement.same:.0f} %")


def draw_pair(result: "Pair", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Pictures on which they differ, classes, layers, and the orders of both edits."""
    below = [_classes(result), _layers(result), _orders(result.orders)]
    return differing(result) or gr.skip(), "".join(below)


def differing(result: "Pair") -> str:
    """One column a picture; a row tells what a network says and how sure it is of the truth."""
    if not result.pictures:
        return ""
    columns = [f"{one.truth}{', forgotten' * one.is_forgotten}" for one in result.pictures]
    shown = [one.picture for one in result.pictures]
    first = [f"{one.first} ({one.first_probability:.2f})" for one in result.pictures]
    second = [f"{one.second} ({one.second_probability:.2f})" for one in result.pictures]
    rows = {f"{result.first} says": (shown, first), f"{result.second} says": (shown, second)}
    note = markup.notes("In brackets the probability of the truth.")
    return parts.sheet(columns, rows) + note


def _classes(result: "Pair") -> str:
    if not result.classes:
        return ""
    rows = [_class_row(one) for one in result.classes]
    head = ["class", result.first, result.second]
    return markup.titled("By class", "Accuracy on unseen pictures.") + markup.table(
        head, rows, "by class"
    )


def _class_row(one: "OfClass") -> list[object]:
    name = f"<b>{escape(one.name)}</b>{', forgotten' * one.is_forgotten}"
    return [Html(name), forgetting.rate_cell(one.first), forgetting.rate_cell(one.second)]


def _layers(result: "Pair") -> str:
    if not result.layers:
        return ""
    rows = [
        [one.name, f"{one.similarity:.3f}", f"{100 * one.weight_distance:.1f} %"]
        for one in result.layers
    ]
    told = "CKA tells how alike the outputs are; the distance tells how far the weights moved."
    head = ["layer", "CKA", "weights apart"]
    return markup.titled("By layer", told) + markup.table(head, rows, "by layer")


def _orders(orders: Sequence["Order"]) -> str:
    if not orders:
        return ""
    ticks = [
        markup.tick(one.is_exact, one.outcome, escape(", then ".join(one.steps))) for one in orders
    ]
    title = markup.titled("On and off, in every order", "A refusal names the edit in the way.")
    return f'{title}<div class="ticks">{"".join(ticks)}</div>'
