"""One screen: button, picture and number of every panel stand together, before a run and after it.

And a panel opens with what was recorded, which a run replaces without a jump.
"""

import pytest
from playwright.sync_api import Page, expect

from benchmarks.harness import axe_findings, sideways_scroll
from benchmarks.seen import LONGEST_RUN, Panel, panels
from pages import _recordings as recordings

pytestmark = pytest.mark.browser

PANELS = [pytest.param(one, id=one.entry.slug) for one in panels()]
WINDOWS = [pytest.param((1280, 800), id="desk"), pytest.param((390, 844), id="phone")]

# Where button, number and the first picture (or figure, or text) of the open stage stand, and how
# much of the picture is in the window, at the scroll that a visitor has who has touched nothing.
BOXES = """(button) => {
    const bench = document.querySelector(button).closest(".bench");
    const box = (element) => {
        const { left, top, right, bottom } = element.getBoundingClientRect();
        return [left, top, right, bottom].map(Math.round);
    };
    const shown = bench.querySelector(":scope > .shown");
    const kinds = ".shot .frame, .sheet img, .js-plotly-plot, .pupils svg, .board svg, .story,"
        + " .grow section, .volume canvas, table.matrix";
    const pictures = [...shown.querySelectorAll(kinds)]
        .filter((one) => one.offsetParent || one.getClientRects().length);
    return {
        button: box(document.querySelector(button)),
        number: box(bench.querySelector(".go > .number")),
        place: box(shown),
        pictures: pictures.slice(0, 3).map(box),
        said: bench.querySelector(".go > .number").innerText,
        empty: shown.querySelectorAll(".empty").length,
    };
}"""


def seen(page: Page, panel: Panel) -> dict:
    """The boxes once figures are drawn and nothing moves any more."""
    expect(page.locator(f".bench:has({panel.button}) > .shown .empty")).to_have_count(
        0, timeout=30_000
    )
    page.wait_for_timeout(800)
    return page.evaluate(BOXES, panel.button)


def inside(box: list[int], window: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    return left >= 0 and top >= 0 and right <= window[0] and bottom <= window[1]


def holds(found: dict, window: tuple[int, int]) -> None:
    assert inside(found["button"], window), f"the button stands at {found['button']}"
    assert inside(found["number"], window), f"the number stands at {found['number']}"
    assert found["said"].strip(), "there is no number"
    assert found["pictures"], "there is no picture"
    assert found["empty"] == 0, "a place is empty"
    first = found["pictures"][0]
    together = [one for one in found["pictures"] if one[1] < first[3]]  # in one row with the first
    for box in together:
        assert inside(box, window), f"a picture stands at {box}"


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("panel", PANELS)
def test_button_picture_and_number_are_in_one_screen(panel: Panel, window, new_visitor, shot):
    page = new_visitor(width=window[0], height=window[1]).page
    panel.open(page)
    page.wait_for_function(
        "(button) => document.querySelector(button).closest('.bench')"
        ".querySelector('.go > .number').innerText.trim()",
        arg=panel.button,
    )
    before = seen(page, panel)
    shot(page, "before")
    holds(before, window)
    assert "Recorded on" in page.locator(panel.line).inner_text()
    page.locator(panel.button).click()
    page.locator(f"{panel.line} .status.running").wait_for()
    page.locator(f"{panel.line} .status.done").wait_for(timeout=LONGEST_RUN)
    after = seen(page, panel)
    shot(page, "after")
    holds(after, window)
    for name in ("button", "number", "pictures"):
        assert moved(before[name], after[name]) <= 1, f"{name}: {before[name]} to {after[name]}"
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []


def moved(before: object, after: object) -> int:
    """The largest distance of an edge before and after, left and top of a box, or of several."""
    if isinstance(before, list) and before and isinstance(before[0], list):
        assert isinstance(after, list)
        assert len(before) == len(after)
        return max(moved(one, other) for one, other in zip(before, after, strict=True))
    assert isinstance(before, list)
    assert isinstance(after, list)
    return max(abs(a - b) for a, b in zip(before[:2], after[:2], strict=True))


@pytest.mark.parametrize("panel", PANELS)
def test_a_recording_comes_with_its_tab_alone(panel: Panel, new_visitor):
    page = new_visitor().page
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    panel.open(page)
    page.wait_for_function(
        "(button) => document.querySelector(button).closest('.bench')"
        ".querySelector('.go > .number').innerText.trim()",
        arg=panel.button,
    )
    name = recordings.path_of(panel.entry.slug, panel.action).name
    asked = [url for url in fetched if "/recordings/" in url]
    assert [name in url for url in asked] == [True]
    assert not [url for url in fetched if "/queue/" in url]  # no run, nor anything that waits
