"""Workshop: the lessons with their minutes, a ready course, and what a teacher needs to know."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from engine.core.catalog import Catalog, Entry
from pages import _recordings as recordings
from pages._lessons import Lesson, address, lesson_of
from pages._markup import escape
from pages._serving import Named

ROUTE, TITLE = "workshop", "Workshop"
NAMED = Named("Workshop · Rewind", "Experiments for a class, with a prediction before each answer.")


@dataclass(frozen=True)
class Offered:
    """A lesson of a method that is shown here."""

    entry: Entry
    lesson: Lesson


def build(catalog: Catalog) -> None:
    """Draws the page: course, all lessons, and the teacher's part."""
    gr.Navbar(main_page_name="Rewind")
    offered = [
        Offered(entry, lesson)
        for entry in catalog.values()
        if (lesson := lesson_of(entry)) is not None
    ]
    gr.HTML(
        '<header class="route-head"><h1>Workshop</h1><p>Experiments with a prediction before the '
        "answer. The sheet stands beside the panel; what you write can be saved as a file.</p>"
        "</header>"
    )
    with gr.Tabs(elem_classes="panels", overflow_behavior="wrap"):
        with gr.Tab("A course", id="course"):
            gr.HTML(course(offered))
        with gr.Tab("All lessons", id="lessons"):
            gr.HTML(index(offered))
        with gr.Tab("For teachers", id="teachers"):
            gr.Markdown(TEACHERS, elem_classes="lesson")


def course(offered: Sequence[Offered]) -> str:
    """The stations in the order of the families, each with the minute at which it begins."""
    rows, begins = [], 0
    for one in offered:
        station = one.lesson.station
        if station is None:
            continue
        rows.append(
            f"<tr><td>{picture(one.entry)}</td>"
            f"<td>{begins}–{begins + station.minutes} min</td>"
            f'<td><a href="{escape(address(one.entry, 1))}">{escape(station.title)}</a></td>'
            f"<td>{escape(one.entry.card.title)}</td>"
            f'<td class="wide">{escape(one.lesson.goal)}</td></tr>'
        )
        begins += station.minutes
    return (
        f"<p>{begins} minutes, {len(rows)} stations. Each link opens the panel with its settings "
        "and the sheet beside it.</p>" + _table(("", "when", "station", "panel", "goal"), rows)
    )


def picture(entry: Entry) -> str:
    """What the panel of a station opens with, as far as it is recorded."""
    kept = recordings.find(entry.slug, entry.card.actions[0].name)
    if kept is None:
        return ""
    return f'<div class="living station">{recordings.moving(entry.slug, kept)}</div>'


def index(offered: Sequence[Offered]) -> str:
    """Every lesson with its minutes and what should come before."""
    titles = {one.entry.name: one.entry.card.title for one in offered}
    rows = [
        f"<tr><td>{escape(one.entry.card.family.title)}</td>"
        f'<td><a href="{escape(address(one.entry, 1))}">{escape(one.entry.card.title)}</a></td>'
        f'<td class="wide">{escape(one.lesson.goal)}</td><td>{one.lesson.minutes} min</td>'
        f"<td>{_needs(one.lesson, titles)}</td><td>{len(one.lesson.tasks)}</td></tr>"
        for one in offered
    ]
    return _table(("family", "lesson", "goal", "time", "comes after", "tasks"), rows)


def _needs(lesson: Lesson, titles: dict[str, str]) -> str:
    return escape(", ".join(titles.get(name, name) for name in lesson.needs)) or "–"


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        '<div class="scroll" tabindex="0"><table class="plain stacks">'
        f"<tr>{head}</tr>{''.join(rows)}</table></div>"
    )


TEACHERS = """
### Before the class

One laptop serves the room. On it, once, with internet:

    make run

Later, without internet, in the room's network:

    GRADIO_SERVER_NAME=0.0.0.0 REWIND_FOLDERS= HF_HUB_OFFLINE=1 make run

Every browser then opens `http://ADDRESS-OF-THE-LAPTOP:7860`. `REWIND_FOLDERS=` keeps visitors from
naming folders of the laptop. Nothing is asked of the outside: models, fonts and scripts come from
the laptop.

### How a room of twenty behaves

Jobs that compute wait in one line, one at a time, so that each runs at full speed; a page, a lesson
and a link open at once for everybody. Let groups of two or three share a browser, and let half the
room predict while the other half runs. The line under the button says when a run waits. More than
32 waiting jobs are refused with a sentence, and nothing is lost.

Tried with twenty browsers and a server of two cores: all twenty had the first lesson before them
after a minute, all twenty pressed *Run* at once, none was refused, and all saw equal pixels. The
last of the twenty had waited not quite two minutes for the server, and twice as long where the
browsers themselves ran on the same two cores. `python -m benchmarks.bars class` repeats it.

### During the class

- A lesson's link restores its settings and its seed: everybody sees the same pixels.
- The answer to a task opens only after something was written into the field above it.
- *Save my answers* gives each group a text file with questions and answers.
- *Show all controls* leaves the narrow path; *Link to this run* under a result is how a group shows
  its finding to the room.

### Afterwards

Every number can be asked for its origin: the fold *The code that ran* shows the function, *Recipe*
gives the command line that repeats it, and the page *Evidence* runs the comparisons with published
code in front of the class.
"""
