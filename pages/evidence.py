"""Evidence: every golden case, every measured claim, and where each method breaks."""

from collections.abc import Iterator, Sequence
from typing import cast

import gradio as gr

from engine.core.catalog import Catalog
from engine.core.job import Done, Job, Progress
from engine.faithfulness import Checked, Claimed, claims
from pages._frame import LANE, Frame, Runner, recipe_path
from pages._handlers import guarded, named
from pages._parts import escape

ROUTE, TITLE = "evidence", "Evidence"


def build(catalog: Catalog, frames: Sequence[Frame], runner: Runner) -> None:
    """Draws the page; `frames` are the panels, which name the settings in which they break."""
    gr.Navbar(main_page_name="Rewind")
    gr.HTML(
        '<header class="route-head"><h1>Evidence</h1><p>What is behind the panels: arrays of '
        "published code compared with what runs here, claims with their figures, and the settings "
        "in which each method fails.</p></header>"
    )
    with gr.Tabs(elem_classes="panels"):
        with gr.Tab("Golden cases", id="golden"):
            _golden(runner)
        with gr.Tab("Claims", id="claims"):
            gr.HTML(claims_table(claims(catalog)))
        with gr.Tab("Where methods break", id="breaks"):
            gr.HTML(gallery(frames))


def _golden(runner: Runner) -> None:
    with gr.Row(elem_classes="actions"):
        button = gr.Button("▶  Run all golden cases", elem_classes="forward", min_width=120)
        stop = gr.Button("Stop", elem_classes="stop", min_width=80)
    table = gr.HTML(
        '<p class="note">Nothing has run yet. The same in a terminal: '
        "<code>python -m engine verify</code></p>"
    )

    def check_all() -> Iterator[str]:
        """Runs the golden cases of every method: error, tolerance, seconds and verdict."""
        for event in guarded(runner(Job("engine.faithfulness:golden_cases"))):
            if isinstance(event, Progress):
                found = cast("tuple[Checked, ...]", event.preview or ())
                yield progress_line(event) + cases_table(found)
            elif isinstance(event, Done):
                yield cases_table(event.result, done=True)

    event = button.click(
        named(check_all, "evidence_golden"),
        None,
        table,
        api_name="evidence_golden",
        show_progress="hidden",
        **LANE,
    )
    stop.click(None, None, None, cancels=[event])


def progress_line(event: Progress) -> str:
    """Which method is being checked."""
    share = 100 * event.done / max(event.total, 1)
    return (
        '<div class="status running forward" role="status">'
        f'<div class="bar" style="--done:{share:.0f}%"><i></i></div>'
        f"<p>{event.done} of {event.total} methods · {escape(event.note)}</p></div>"
    )


def cases_table(cases: Sequence[Checked], *, done: bool = False) -> str:
    """One row a case; at the end the sum above it."""
    rows = "".join(
        f"<tr><td>{_verdict(case.holds)}</td><td>{escape(case.title)}</td>"
        f"<td>{escape(case.case)}</td><td>{case.error:.2g}</td><td>{case.tolerance:.2g}</td>"
        f"<td>{case.seconds:.2f}</td></tr>"
        for case in cases
    )
    said = ""
    if done:
        good = sum(case.holds for case in cases)
        seconds = sum(case.seconds for case in cases)
        said = f"<p><b>{good} of {len(cases)} cases hold</b>, in {seconds:.1f} s.</p>"
    heads = ("", "method", "case", "largest error", "tolerance", "seconds")
    return said + _table(heads, rows)


def claims_table(found: Sequence[Claimed]) -> str:
    """One row a method: its sentence, the two figures, the interval and the verdict."""
    rows = "".join(
        f"<tr><td>{_verdict(claim.holds)}</td><td>{escape(claim.title)}</td>"
        f'<td class="wide">{escape(claim.sentence)}</td><td>{_figures(claim)}</td>'
        f"<td><code>python -m engine bench {escape(claim.method)}</code></td></tr>"
        for claim in found
    )
    return _table(("", "method", "claim", "measured", "measure it again"), rows)


def _figures(claim: Claimed) -> str:
    if claim.measured is None or claim.interval is None:
        return "not measured yet"
    low, high = claim.interval
    return (
        f"{escape(claim.measure)} {claim.measured:.3g} ({low:.3g} to {high:.3g}); "
        f"{escape(claim.versus)} {claim.against:.3g}; {claim.seconds:.0f} s"
    )


def gallery(frames: Sequence[Frame]) -> str:
    """Each method's failure: what goes wrong, why, and a link that sets it up."""
    cards = "".join(
        f'<div class="method"><h3>{escape(frame.entry.card.title)}</h3>'
        f"<p>{escape(why)}</p>"
        f'<p><a class="quiet" href="{escape(recipe_path(recipe, frame.route))}">Set it up</a></p>'
        "</div>"
        for frame in frames
        for recipe, why in [frame.failure]
        if recipe is not None
    )
    words = "A setting for each method in which it fails, and what to use instead."
    return (
        f'<section class="family"><div><h2>Where methods break</h2><p>{words}</p></div>'
        f"<div>{cards}</div></section>"
    )


def _verdict(holds: bool | None) -> str:
    if holds is None:
        return '<span aria-label="not measured">–</span>'
    return (
        '<span aria-label="holds">✓</span>'
        if holds
        else '<span aria-label="does not hold">✗</span>'
    )


def _table(heads: Sequence[str], rows: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f'<div class="scroll" tabindex="0"><table class="plain"><tr>{head}</tr>{rows}</table></div>'
    )
