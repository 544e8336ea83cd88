"""The board of RESTOR: every way in a column, at a stage that a slider picks for all of them.

What the slider shows lies in the markup of the board, so moving it asks nothing of the server.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from pages import _planes as planes
from pages._look import ASSETS, BACKWARD, FORWARD, NEUTRAL
from pages._markup import escape, notes

if TYPE_CHECKING:
    from engine.unlearning.restor.results import Answer, Course, Point, Restored, Row

CSS = (ASSETS / "panels" / "restor.css").read_text("utf-8")
EMPTY = notes("The lie fades, and the truth comes back, or does not.")
SIGNS = {"true": "✓", "lie": "✗", "other": "·"}
KEY = (
    '<p class="key-line"><b class="true">✓ the truth</b> · <b class="lie">✗ the lie</b> · '
    "anything else. Lines: truths drawn through, lies dashed.</p>"
)
COLOURS = (BACKWARD, FORWARD, NEUTRAL)


def slider() -> gr.HTML:
    """Plays the steps of unlearning, or is dragged."""
    return gr.HTML(
        '<div class="steps-bar scrubber" style="margin:0" data-board="restor-board" hidden>'
        '<button type="button" class="quiet">▶ Play</button>'
        '<input type="range" min="0" max="1" value="1" step="1" aria-label="Steps of unlearning">'
        "<output>the end</output></div>",
        js_on_load=(ASSETS / "panels" / "steps.js").read_text("utf-8"),
    )


def drawn(result: "Restored", steps: object) -> str:
    """The board at its latest stage; `steps` is how far the small pictures reach."""
    facts = result.rows
    courses = [course for course in result.courses if course.points]
    stages = [[_stage(course, point, facts) for point in course.points] for course in courses]
    told = escape(json.dumps(stages, ensure_ascii=False, separators=(",", ":")))
    heads = "".join(_head(course, place, facts) for place, course in enumerate(courses))
    rows = "".join(_fact(row, place, courses) for place, row in enumerate(facts))
    return (
        f'{KEY}<div class="ways" style="--ways:{len(courses)}" data-stages="{told}">'
        f'<div class="corner"></div>{heads}{rows}</div>'
    )


def stage_of(course: "Course", point: "Point") -> str:
    """Where a stage is, in words."""
    if not point.at:
        return "not unlearned"
    if course.method == "task_vector":
        return f"α = {point.at:g}"
    return f"step {point.at:.0f}"


def kind_of(answer: "Answer", row: "Row") -> str:
    """Whether an answer is the truth, the lie, or something else."""
    return "true" if answer.said == row.truth else "lie" if answer.said == row.lie else "other"


def _stage(course: "Course", point: "Point", facts: "Sequence[Row]") -> dict[str, object]:
    said = [[a.said, kind_of(a, row)] for a, row in zip(point.answers, facts, strict=False)]
    now = point.standing
    return {
        "at": stage_of(course, point),
        "truths": f"{100 * now.truths.rate:.0f} %",
        "lies": f"{100 * now.lies.rate:.0f} %",
        "said": said,
    }


def _head(course: "Course", place: int, facts: "Sequence[Row]") -> str:
    """Title, small picture and shares of one way."""
    last = _stage(course, course.last, facts)
    chosen = " chosen" if place == 0 else ""
    diverged = ", diverged" if course.has_diverged else ""
    return (
        f'<div class="way{chosen}" data-way="{place}"><h3>{escape(course.title)}{diverged}</h3>'
        f'<p class="at">{last["at"]}</p>{_picture(course)}<dl>'
        f'<div><dt>truths</dt><dd class="truths">{last["truths"]}</dd></div>'
        f'<div><dt>lies</dt><dd class="lies">{last["lies"]}</dd></div></dl></div>'
    )


def _picture(course: "Course") -> str:
    """Shares of truths and lies, stage by stage, from 0 to 100 % upwards."""
    ends = course.points[0].standing, course.last.standing
    alt = "; ".join(
        f"{name} from {100 * getattr(ends[0], key).rate:.0f} to "
        f"{100 * getattr(ends[1], key).rate:.0f} %"
        for name, key in (("truths", "truths"), ("lies", "lies"))
    )
    lines = "".join(
        f'<polyline class="{key}" points="{_points(course, key)}"/>' for key in ("truths", "lies")
    )
    grid = "".join(
        f'<line class="grid-line" x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (0, 50, 100)
    )
    return (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(course.title)}: {alt}">{grid}{lines}'
        '<line class="now" y1="0" y2="100" transform="translate(100 0)"/></svg>'
    )


def _points(course: "Course", key: str) -> str:
    last = max(len(course.points) - 1, 1)
    return " ".join(
        f"{100 * i / last:.1f},{100 - 100 * getattr(point.standing, key).rate:.1f}"
        for i, point in enumerate(course.points)
    )


def _fact(row: "Row", place: int, courses: "Sequence[Course]") -> str:
    """One fact: who and what, then what each model says."""
    head = (
        f'<div class="fact head">{escape(row.person)} <small>{escape(row.relation)} '
        f"{escape(row.truth)}, not {escape(row.lie)}</small></div>"
    )
    cells = []
    for number, course in enumerate(courses):
        answer = course.last.answers[place]
        kind = kind_of(answer, row)
        cells.append(
            f'<div class="fact" data-way="{number}" data-fact="{place}">'
            f'<span class="said {kind}">{SIGNS[kind]} {escape(answer.said)}</span></div>'
        )
    return head + "".join(cells)


def bars(titles: Sequence[str], values: Mapping[str, Sequence[float]], y_title: str) -> PlotData:
    """Bars in groups, in the colours of rewinding, of running forward, and of neither."""
    traces: list[dict[str, object]] = [
        {
            "type": "bar",
            "name": name,
            "x": list(titles),
            "y": [float(value) for value in column],
            "marker": {"color": colour},
            "hovertemplate": f"{name}: %{{y:.2f}}<extra>%{{x}}</extra>",
        }
        for (name, column), colour in zip(values.items(), COLOURS, strict=True)
    ]
    return planes.figure(traces, "", y_title, legend=True, barmode="group", height=360)
