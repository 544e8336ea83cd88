"""Evidence: every golden case, every measured claim, and where each method breaks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import gradio as gr

from engine.core.catalog import Catalog, took
from engine.core.job import Done, Job, Progress
from engine.faithfulness import Checked, Claimed, claims
from pages._endpoints import Runner
from pages._frame import Frame, claim_file
from pages._handlers import guarded, named
from pages._lane import LANE
from pages._markup import escape
from pages._serving import Named
from pages._status import recipe_path

ROUTE, TITLE = "evidence", "Evidence"
NAMED = Named(
    "Evidence · Rewind",
    "What is behind the panels: measured claims, comparisons with published code, and failures.",
)


def build(catalog: Catalog, frames: Sequence[Frame], runner: Runner) -> None:
    """Draws the page; `frames` are the panels, which name the settings in which they break."""
    gr.Navbar(main_page_name="Rewind")
    gr.HTML(
        '<header class="route-head"><h1>Evidence</h1><p>What is behind the panels: arrays of '
        "published code compared with what runs here, claims with their figures, and the settings "
        "in which each method fails.</p></header>"
    )
    with gr.Tabs(elem_classes="panels", overflow_behavior="wrap"):
        with gr.Tab("Claims", id="claims"):
            _claims(catalog, frames, runner)
        with gr.Tab("Headlines", id="headlines"):
            gr.HTML(headlines_table(claims(catalog), _routes(frames)))
        with gr.Tab("Golden cases", id="golden"):
            _golden(runner)
        with gr.Tab("Where methods break", id="breaks"):
            gr.HTML(gallery(frames))


def _golden(runner: Runner) -> None:
    def check_all() -> Iterator[str]:
        """Runs the golden cases of every method: error, tolerance, seconds and verdict."""
        for event in guarded(runner(Job("engine.faithfulness:golden_cases"))):
            if isinstance(event, Progress):
                found = cast("tuple[Checked, ...]", event.preview or ())
                yield progress_line(event) + cases_table(found)
            elif isinstance(event, Done):
                yield cases_table(event.result, done=True)

    waiting = (
        '<p class="note">Nothing has run yet. The same in a terminal: '
        "<code>python -m engine verify</code></p>"
    )
    _on_demand("Run all golden cases", named(check_all, "evidence_golden"), None, waiting)


def _on_demand(
    label: str, handler: Callable[..., object], given: gr.Dropdown | None, waiting: str = ""
) -> None:
    """A button, its stop, and below them what the handler says; its name is the endpoint's."""
    with gr.Row(elem_classes="actions"):
        button = gr.Button(f"▶  {label}", elem_classes="forward", min_width=120)
        stop = gr.Button("Stop", elem_classes="stop", min_width=80)
    said = gr.HTML(waiting)
    event = button.click(
        handler, given, said, api_name=handler.__name__, show_progress="hidden", **LANE
    )
    stop.click(None, None, None, cancels=[event])


def _claims(catalog: Catalog, frames: Sequence[Frame], runner: Runner) -> None:
    recorded = claims(catalog)
    gr.HTML(claims_table(recorded, _routes(frames)))
    if is_shared():
        gr.HTML(
            '<p class="note">Measuring takes minutes of a whole machine: do it on your own, with '
            "the commands of the table.</p>"
        )
        return
    by_method = {claim.method: claim for claim in recorded if claim.seconds is not None}
    with gr.Row(elem_classes="controls"):
        method = gr.Dropdown(
            [
                (f"{claim.title}, {claim.seconds:.0f} s when it was recorded", name)
                for name, claim in by_method.items()
            ],
            value=min(by_method, key=lambda name: by_method[name].seconds or 0, default=None),
            label="Measure a claim again",
            info="From the seed of the record, beside it; the record stays as it is",
        )

    def measure(name: str) -> Iterator[str]:
        """Measures the claim of a method again, and shows it beside the recorded one."""
        seed = catalog.find(name).measured().seed
        job = Job("engine.faithfulness:measured_again", {"method": name}, seed)
        for event in guarded(runner(job)):
            if isinstance(event, Progress):
                yield progress_line(event, "parts")
            elif isinstance(event, Done):
                yield compared(by_method[event.result.method], event.result)

    _on_demand("Measure", named(measure, "evidence_claim"), method)


def is_shared() -> bool:
    """Whether others use this server: a Space, or one whose owner lets nobody name folders."""
    return os.environ.get("SYSTEM") == "spaces" or os.environ.get("REWIND_FOLDERS") == ""


def compared(recorded: Claimed, now: Claimed) -> str:
    """The recorded figures of a claim and those just measured, one row each."""
    rows = "".join(
        f"<tr><td>{_verdict(claim.holds)}</td><td>{when}</td><td>{_figures(claim)}</td></tr>"
        for when, claim in (("recorded", recorded), ("measured now", now))
    )
    sentence = f"<p><b>{escape(now.title)}.</b> {escape(now.sentence)}</p>"
    return sentence + _table(("", "", "measured"), rows)


def progress_line(event: Progress, what: str = "methods") -> str:
    """How far a check is, and what it is at."""
    share = 100 * event.done / max(event.total, 1)
    return (
        '<div class="status running forward" role="status">'
        f'<div class="bar" style="--done:{share:.0f}%"><i></i></div>'
        f"<p>{event.done} of {event.total} {what} · {escape(event.note)}</p></div>"
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


def claims_table(found: Sequence[Claimed], routes: Mapping[str, str] | None = None) -> str:
    """One row a method: its sentence, the two figures, the interval and the verdict.

    `routes` gives the route of each method that has a panel.
    """
    rows = "".join(
        f"<tr><td>{_verdict(claim.holds)}</td><td>{_panel(claim, routes or {})}</td>"
        f'<td class="wide">{escape(claim.sentence)}</td><td>{_figures(claim)}</td>'
        f"<td><code>bench {escape(claim.method)}</code>{_file(claim)}</td></tr>"
        for claim in found
    )
    words = (
        "Recorded figures, each with its 95 % interval. The last column measures them again in a "
        "terminal, after <code>python -m engine</code>, and holds all that was measured on the way."
    )
    heads = ("", "method", "claim", "measured", "bench")
    return f'<p class="note">{words}</p>' + _table(heads, rows)


def headlines_table(found: Sequence[Claimed], routes: Mapping[str, str] | None = None) -> str:
    """One row a method: what its paper is known for, what was measured here, and how far it goes.

    `routes` as in `claims_table`.
    """
    rows = "".join(
        f"<tr><td>{_panel(claim, routes or {})}</td>"
        f'<td class="wide">{escape(claim.headline.paper)}</td><td>{_figures(claim)}</td>'
        f'<td class="wide"><b>{escape(claim.headline.verdict.capitalize())}.</b> '
        f"{escape(claim.headline.here)}</td></tr>"
        for claim in found
    )
    words = (
        "What each paper is known for, in our words, beside what was measured here on small "
        "models. “Shown” means the effect of the headline, at this size; “in part” names what is "
        "missing; “not shown” says that it did not appear."
    )
    heads = ("method", "headline of the paper", "here", "verdict")
    return f'<p class="note">{words}</p>' + _table(heads, rows)


def _routes(frames: Sequence[Frame]) -> dict[str, str]:
    return {frame.entry.name: frame.route for frame in frames}


def _panel(claim: Claimed, routes: Mapping[str, str]) -> str:
    title = escape(claim.title)
    if claim.method not in routes:
        return title
    return f'<a href="{escape(routes[claim.method])}?method={escape(claim.method)}">{title}</a>'


def _file(claim: Claimed) -> str:
    if claim.measured is None:
        return ""
    name = claim.method.replace("-", "_")
    return f'<br><a class="quiet" href="{claim_file(name)}" download>All figures</a>'


def _figures(claim: Claimed) -> str:
    if claim.measured is None or claim.interval is None:
        return "not measured yet"
    low, high = claim.interval
    return (
        f"{escape(claim.measure)} {claim.measured:.3g} ({low:.3g} to {high:.3g}); "
        f"{escape(claim.versus)} {claim.against:.3g}; {took(claim.seconds)}"
    )


def gallery(frames: Sequence[Frame]) -> str:
    """Each method's failure: what goes wrong, why, what to use instead, and a link to it."""
    cards = "".join(
        f'<section class="failure"><h3>{escape(frame.entry.card.title)}</h3>'
        f"<p>{escape(frame.failure.why)}</p>"
        f"<p><b>Instead:</b> {escape(frame.failure.instead)}</p>"
        f'<p><a class="quiet" href="{escape(recipe_path(frame.failure.recipe, frame.route))}">'
        "Set it up</a></p></section>"
        for frame in frames
        if frame.failure is not None
    )
    words = "A setting for each method in which it fails, and what to use instead."
    return (
        f'<section class="family"><div><h2>Where methods break</h2><p>{words}</p></div>'
        f'<div class="cards">{cards}</div></section>'
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
        '<div class="scroll" tabindex="0"><table class="plain stacks">'
        f"<tr>{head}</tr>{rows}</table></div>"
    )
