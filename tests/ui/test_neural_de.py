"""The panel of neural differential equations: its failure, and a visitor who draws."""

import pytest
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.networks.neural_de.results import Held
from tests.ui.browser import NewVisitor


def breaks(found: Held) -> None:
    """Reversible Heun leaves all bounds before t = 4, where Heun and c = 0.5 stay."""
    by = {way.method: way for way in found.ways}
    assert by["heun"].left_at is None
    assert by["reversible_heun"].left_at is not None
    assert by["reversible_heun"].left_at < 4
    assert by["mccallum_foster"].left_at is None


@pytest.mark.browser
def test_a_visitor_draws_a_curve_and_time_runs_back(new_visitor: NewVisitor, shot):
    found = new_visitor(width=1280, height=800)
    page = found.page
    page.goto("/reverse?method=neural-de")
    canvas = page.locator("[data-drawing] canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + 0.2 * side, y + 0.5 * side)
    page.mouse.down()
    for k in range(1, 20):
        page.mouse.move(x + (0.2 + 0.03 * k) * side, y + (0.5 - 0.012 * (k % 7)) * side)
    page.mouse.up()
    page.locator("#neural_de-run-status .status.done").wait_for(timeout=120_000)
    expect(page.locator("#neural_de-run-number")).to_contain_text("start missed by")
    expect(page.get_by_role("region", name="Ways back")).to_contain_text("bit for bit")
    shot(page, "drawn")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []
