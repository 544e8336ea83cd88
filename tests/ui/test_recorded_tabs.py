"""Every tab of a panel as it opens, with its recording: seen whole, by readers of screens too."""

import pytest
from playwright.sync_api import Page

from benchmarks.harness import axe_findings, sideways_scroll
from benchmarks.seen import Panel, panels
from pages import _recordings as recordings
from tests.ui.browser import NewVisitor

pytestmark = pytest.mark.browser

PANELS = [pytest.param(one, id=one.entry.slug) for one in panels()]
LOOKS = [
    pytest.param({"width": 1280, "height": 800, "scheme": "light"}, id="desk-light"),
    pytest.param({"width": 390, "height": 844, "scheme": "dark"}, id="phone-dark"),
]


def open_recorded(page: Page, panel: Panel, action: str) -> None:
    """Go to the tab of an action and wait until its recording stands there, figures drawn."""
    page.goto(f"{panel.route}&action={action}", wait_until="domcontentloaded")
    bench = page.locator(f".bench:has(#{panel.entry.slug}-{action})")
    bench.wait_for(state="visible")
    place = recordings.path_of(panel.entry.slug, action).name
    page.wait_for_function(
        "(name) => performance.getEntriesByType('resource').some((one) => one.name.includes(name))",
        arg=place,
    )
    page.wait_for_function(
        "(bench) => [...bench.querySelectorAll(':scope > .shown .empty')].every((one) => "
        "!one.offsetParent)",
        arg=bench.element_handle(),
        timeout=60_000,
    )
    page.wait_for_timeout(500)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("panel", PANELS)
def test_every_tab_opens_whole(panel: Panel, look: dict, new_visitor: NewVisitor, shot):
    page = new_visitor(**look).page
    recorded = [
        a.name for a in panel.entry.card.actions if recordings.find(panel.entry.slug, a.name)
    ]
    assert recorded
    for action in recorded:
        open_recorded(page, panel, action)
        shot(page, action)
        assert sideways_scroll(page) == 0, action
        assert axe_findings(page) == [], action
        ours = page.locator(f"[id^={panel.entry.slug}-]").evaluate_all("all => all.map(e => e.id)")
        assert len(ours) == len(set(ours)), action
