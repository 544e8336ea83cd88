"""Every panel in a narrow window: it opens, begins on the first click, stops, and fits."""

import re

import pytest
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from benchmarks.seen import Panel, panels

pytestmark = pytest.mark.browser

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
    assert sideways_scroll(page) == 0
    assert page.locator("[role=tab]:visible").evaluate_all(CUT_OFF) == []
    assert axe_findings(page) == []
