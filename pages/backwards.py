"""Everything in one view: the figure, a button that measures it again, and the table."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import gradio as gr

from engine.core.catalog import Catalog
from engine.core.job import Done, Job, Progress
from pages._actions import LANE
from pages._backwards import ROUTE, figure, recorded, table
from pages._endpoints import Runner
from pages._handlers import guarded, named
from pages._markup import escape
from pages._serving import Named

if TYPE_CHECKING:
    from engine.networks._backwards import Ways

__all__ = ["NAMED", "ROUTE", "TITLE", "build"]

TITLE = "In one view"
NAMED = Named(
    "Everything runs backwards, in one view · Rewind",
    "What runs backwards how exactly, and what it keeps for that: every point measured live.",
)
TARGET = "engine.networks._backwards:run"
LEAD = (
    "To run something backwards one keeps something. Below, the same question to everything in "
    "this lab: how near does it come back, and how much was kept of what was there on the way?"
)


def build(catalog: Catalog, runner: Runner) -> None:
    """Draws the page: the figure, a button that measures it again, and the table."""
    gr.Navbar(main_page_name="Rewind")
    gr.HTML(f'<header class="route-head"><h1>Everything runs backwards</h1><p>{LEAD}</p></header>')

    def measure() -> Iterator[tuple[str, str]]:
        """Measures every point here and now, and draws them as they come."""
        for event in guarded(runner(Job(TARGET, {}, 0))):
            if isinstance(event, Progress) and event.preview is not None:
                found = cast("Ways", event.preview).ways
                yield figure(found, catalog), line(f"{len(found)} of {event.total} measured")
            elif isinstance(event, Done):
                said = line("All measured here, just now, with seed 0.")
                yield figure(event.result.ways, catalog) + table(event.result.ways, catalog), said

    with gr.Row(elem_classes="actions"):
        button = gr.Button("▶  Measure them here", elem_id="backwards-run", elem_classes="forward")
        stop = gr.Button("Stop", elem_classes="stop", min_width=80)
    said = gr.HTML(
        line("Recorded; the button measures all of them again."), elem_id="backwards-line"
    )
    known = recorded()
    shown = gr.HTML(figure(known, catalog) + table(known, catalog), elem_id="backwards-figure")
    event = button.click(
        named(measure, "backwards_measure"), None, [shown, said], api_name="backwards_measure",
        show_progress="hidden", **LANE,
    )  # fmt: skip
    stop.click(None, None, None, cancels=[event])


def line(text: str) -> str:
    """A calm line below the button."""
    return f'<p class="note" role="status">{escape(text)}</p>'
