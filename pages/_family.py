"""One route: the panels of a family as tabs, and the visitor's shelf below them."""

import importlib
import logging
import traceback
from collections.abc import Sequence

import gradio as gr

from engine.core.catalog import Broken, Catalog, Entry, Family
from pages import _shelf
from pages._endpoints import Runner
from pages._frame import Frame
from pages._markup import escape
from pages._serving import Named, Query, Suite

log = logging.getLogger(__name__)


def of(catalog: Catalog, family: Family) -> tuple[list[Entry], list[Broken]]:
    """The methods of a family, and those that did not import."""
    return list(catalog.of(family)), [b for b in catalog.broken.values() if b.family is family]


def build(
    demo: Suite,
    family: Family,
    entries: Sequence[Entry],
    broken: Sequence[Broken],
    runner: Runner,
    panels: str,
) -> list[Frame]:
    """Draws the route and gives its panels; called inside `with demo.route(...)`."""
    gr.Navbar(main_page_name="Rewind")
    shelf = _shelf.Shelf()
    gr.HTML(
        f'<header class="route-head"><h1>{escape(family.title)}</h1>'
        f"<p>{escape(family.sentence)}</p></header>"
    )
    frames = []
    with gr.Tabs(elem_classes="panels", overflow_behavior="wrap") as tabs:
        for entry in entries:
            with gr.Tab(entry.card.title, id=entry.slug):
                frames.append(Frame(entry, shelf, runner, demo))
                build_panel(frames[-1], f"{panels}.{entry.slug}")
        for method in broken:
            with gr.Tab(method.slug, id=method.slug):
                gr.HTML(broken_panel(method.slug, method.traceback))
    shelf.draw(demo, family.package, runner)

    known = {entry.slug for entry in entries} | {method.slug for method in broken}

    def wanted(query: Query) -> str | None:
        slug = query.get("method", "").replace("-", "_")
        return slug if slug in known else None

    demo.opens(tabs, wanted)
    titled = {entry.slug: entry.card for entry in entries}

    def name(query: Query) -> Named:
        card = titled.get(wanted(query) or "")
        if card is None:
            return Named(f"{family.title} · Rewind", family.sentence)
        return Named(f"{card.title} · Rewind", card.undoes)

    demo.names(family.route, name)
    return frames


def build_panel(frame: Frame, module: str) -> None:
    """Draws a panel; one that fails shows why, and the others go on."""
    try:
        importlib.import_module(module).build(frame)
        frame.close()
    except Exception:
        log.exception("the panel %s failed to build", module)
        gr.HTML(broken_panel(frame.entry.slug, traceback.format_exc()))


def broken_panel(slug: str, trace: str) -> str:
    """What stands in the place of a panel that did not load."""
    return (
        f'<div class="status failed"><h2>{escape(slug)} did not load</h2>'
        f'<pre tabindex="0">{escape(trace)}</pre></div>'
    )
