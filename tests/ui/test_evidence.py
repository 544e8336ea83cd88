"""The page of evidence in a browser: golden cases, a claim measured again, and its figures."""

import json

import pytest
from playwright.sync_api import expect

from benchmarks.harness import Seen, axe_findings, sideways_scroll
from engine.core.catalog import announced
from tests.ui.browser import NewVisitor

pytestmark = pytest.mark.browser
MINUTE = 60_000


def test_golden_cases_run_on_demand(visitor: Seen):
    page = visitor.page
    page.goto("/evidence")
    page.get_by_role("tab", name="Golden cases").click()
    page.get_by_role("button", name="Run all golden cases").click()
    said = page.get_by_text("cases hold")
    expect(said).to_be_visible(timeout=MINUTE)
    good, _, every = said.inner_text().split(" cases")[0].partition(" of ")
    assert good == every
    assert int(every) > 100
    assert axe_findings(page) == []


def test_the_page_opens_with_its_table_filled(visitor: Seen):
    page = visitor.page
    page.goto("/evidence")
    rows = page.locator("[role=tabpanel]:visible table.plain tr:has(td)")
    expect(rows).to_have_count(len(announced()), timeout=MINUTE)


def test_headlines_stand_beside_what_is_seen_here(visitor: Seen):
    page = visitor.page
    page.goto("/evidence")
    page.get_by_role("tab", name="Headlines").click()
    rows = page.locator("[role=tabpanel]:visible table.plain tr:has(td)")
    expect(rows).to_have_count(len(announced()), timeout=MINUTE)
    assert axe_findings(page) == []


def test_a_claim_is_measured_again_beside_its_record(visitor: Seen):
    page = visitor.page
    page.goto("/evidence")
    page.get_by_role("tab", name="Claims").click()
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_text("measured now")).to_be_visible(timeout=3 * MINUTE)
    expect(page.get_by_role("row", name="recorded")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="All figures").first.click()
    figures = json.loads(download.value.path().read_text())
    assert {"measured", "versus", "interval", "seed", "versions", "machine"} <= set(figures)


def test_every_failure_opens_from_the_gallery_on_a_phone(new_visitor: NewVisitor):
    page = new_visitor(width=390, height=844).page
    page.goto("/evidence")
    page.get_by_role("tab", name="Where methods break").click()
    links = page.get_by_role("link", name="Set it up")
    expect(links).to_have_count(len(announced()))
    assert sideways_scroll(page) == 0
    links.first.click()
    expect(page.get_by_text("Restored from the link.").first).to_be_visible()
