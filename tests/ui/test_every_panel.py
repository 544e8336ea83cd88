"""Every panel in a narrow window: it opens, begins on the first click, stops, and fits."""

import re

import pytest
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from benchmarks.seen import Panel, panels

pytestmark = pytest.mark.browser

# Press Run in the very frame in which the result stands there: Gradio still counts the run then.
PRESS_AT_THE_END = """([button, line]) => new Promise((resolve) => {
    const look = () => {
        if (!document.querySelector(`${line} .status.done`)) return requestAnimationFrame(look);
        document.querySelector(button).click();
        resolve();
    };
    look();
})"""

CUT_OFF = "tabs => tabs.filter(t => t.scrollWidth > t.clientWidth + 1).map(t => t.innerText)"


@pytest.mark.parametrize("panel", [pytest.param(one, id=one.entry.slug) for one in panels()])
def test_the_first_click_begins_and_stop_ends_it(panel: Panel, new_visitor):
    page = new_visitor(width=390, height=844).page
    panel.open(page)
    page.locator(panel.button).click()
    begun = page.locator(f"{panel.line} .status:is(.running:not([data-waiting]), .done)")
    expect(begun).to_be_visible(timeout=60_000)
    page.locator(f"{panel.button}-stop").click()
    over = page.locator(f"{panel.line} .status:not(.running, .failed)")
    expect(over).to_contain_text(re.compile("Stopped|seed"), timeout=60_000)
    page.locator(panel.button).click()
    expect(begun).to_be_visible(timeout=60_000)
    page.locator(f"{panel.button}-stop").click()
    assert sideways_scroll(page) == 0
    assert page.locator("[role=tab]:visible").evaluate_all(CUT_OFF) == []
    assert axe_findings(page) == []


@pytest.mark.parametrize("slug", ["revthink", "nfe_lab"])
def test_a_click_at_the_end_of_a_run_runs_again_and_a_double_click_runs_once(slug, new_visitor):
    panel = next(one for one in panels() if one.entry.slug == slug)
    page = new_visitor().page
    asked = []
    panel.open(page)
    page.on("request", lambda request: asked.append(request) if "/join" in request.url else None)
    page.locator(panel.button).dblclick()
    page.locator(f"{panel.line} .status.running").wait_for()
    page.evaluate(PRESS_AT_THE_END, [panel.button, panel.line])
    with page.expect_request("**/queue/join*", timeout=10_000):
        pass
    page.locator(f"{panel.line} .status.running").wait_for()
    page.locator(f"{panel.line} .status.done").wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    assert len(asked) == 2
