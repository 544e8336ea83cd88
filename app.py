"""Rewind: one route a family, its panels as tabs, and a home page; `python app.py` serves it.

SUITE_PANELS names the panels to show (slugs with commas between; all by default), SUITE_PROFILE is
cpu or gpu, RUNNER says where jobs run. Nothing here or in `pages` imports torch: the page is served
first, the heavy imports follow in a thread.
"""

import os
import threading

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from engine.core import budgets
from engine.core.catalog import Catalog, Family, announced
from engine.core.lane import Lane
from engine.runners import Runner, runner
from pages import _family, _look, _warm, backwards, evidence, home, workshop
from pages._lane import queued
from pages._serving import MIDDLEWARE, Suite
from pages._shelf import Shelf


def build(catalog: Catalog, run: Runner, panels: str = "pages") -> gr.Blocks:
    """The whole app over a catalogue; `panels` is the package with one module a method."""
    shown = only(catalog, os.environ.get("SUITE_PANELS", "all"))
    run = queued(run, Lane())
    with Suite(title="Rewind", fill_width=True, delete_cache=(600, 3600)) as demo:
        gr.Navbar(main_page_name="Rewind")
        home.build(shown)
        Shelf().stand_by(demo, "home")
    frames = []
    for family in Family:
        entries, broken = _family.of(shown, family)
        if entries or broken:
            with demo.route(family.title, family.route.strip("/")):
                frames += _family.build(demo, family, entries, broken, run, panels)
    with demo.route(backwards.TITLE, backwards.ROUTE):
        backwards.build(shown, run)
        Shelf().stand_by(demo, "backwards")
    with demo.route(workshop.TITLE, workshop.ROUTE):
        workshop.build(shown)
        Shelf().stand_by(demo, "workshop")
    with demo.route(evidence.TITLE, evidence.ROUTE):
        evidence.build(shown, frames, run)
        Shelf().stand_by(demo, "evidence")
    demo.names("", lambda _: home.NAMED)
    demo.names(backwards.ROUTE, lambda _: backwards.NAMED)
    demo.names(workshop.ROUTE, lambda _: workshop.NAMED)
    demo.names(evidence.ROUTE, lambda _: evidence.NAMED)
    demo.whole = True
    return demo.queue(max_size=budgets.WAITING_RUNS, default_concurrency_limit=8)


def only(catalog: Catalog, panels: str) -> Catalog:
    """The catalogue without the methods that SUITE_PANELS leaves out."""
    if panels.strip() in ("", "all"):
        return catalog
    wanted = {slug.strip().replace("-", "_") for slug in panels.split(",")}
    return Catalog(
        {slug: entry for slug, entry in catalog.entries.items() if slug in wanted},
        {slug: broken for slug, broken in catalog.broken.items() if slug in wanted},
    )


LAUNCH = {
    "theme": _look.theme(),
    "head": _look.head(),
    "max_file_size": budgets.UPLOAD,
    "show_error": False,
    "enable_monitoring": False,
    "footer_links": ["api", "settings"],
    "state_session_capacity": budgets.KEPT_SESSIONS,
    "max_threads": 128,  # a run that waits holds one, and the rest is light
    "strict_cors": True,
    "pwa": False,
    "app_kwargs": {"middleware": MIDDLEWARE},
}

STATIC = ("claims", "fonts", "living", "recordings", "data/sprites", "theme.css", "rewind.js")
gr.set_static_paths([_look.ASSETS / name for name in STATIC])

if __name__ == "__main__":
    os.chdir(_look.ASSETS.parent)  # pages name style sheet, script and fonts from here
    run = runner()
    demo = build(announced(), run)
    demo.launch(**LAUNCH, prevent_thread_lock=True)
    threading.Thread(target=_warm.warm_up, args=[run], name="warm-up", daemon=True).start()
    demo.block_thread()
