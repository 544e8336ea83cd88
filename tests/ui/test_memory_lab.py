"""The panel of the memory lab: through the client, and a visitor who deepens and walks back."""

import json
import re

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.core.recipe import Recipe
from pages import _grow as bars
from tests.ui.browser import NewVisitor

RUN = {
    "architecture": "revnet", "blocks": "x1 += gelu (x2)", "depths": [2, 4], "width": 16,
    "batch": 4, "precision": "float32", "policies": ["plain", "checkpoint", "reversible"],
    "timed": False, "seed": 0,
}  # fmt: skip
WALK = {
    "photograph": "chelsea", "picture": None, "depth": 4, "width": 4, "precision": "float32",
    "seed": 0,
}  # fmt: skip


@pytest.mark.slow
def test_the_bars_hold_every_depth_and_one_of_them_is_equal_to_the_byte(client: Client):
    drawn, table, curve, number, status, _ = client.predict(**RUN, api_name="/memory_lab_run_panel")
    assert drawn.count("data-shares") == 6
    first, last = re.findall(r"[\d,]+", re.sub(r"<p>.*?</p>|<span.*?</span>", "", number))
    assert first == last
    assert "Checkpoints per block alone" in table
    assert "Reversible" in json.dumps(curve)
    assert "seed 0" in status


@pytest.mark.slow
def test_a_picture_comes_back_with_its_error_beside_it(client: Client):
    drawn, _, number, *_ = client.predict(**WALK, api_name="/memory_lab_walk_panel")
    assert "every pixel equal" in drawn
    assert "grey levels" in number


@pytest.mark.slow
def test_the_endpoint_takes_ones_own_block(client: Client):
    block = "x1 += linear 2 | gelu | linear 1 (x2)\nx2 += linear 1 | tanh (x1)"
    params = {"architecture": "own", "blocks": block, "depths": [2], "width": 8, "batch": 2}
    answer = client.predict(
        Recipe("memory_lab", params=params, seed=1).json(), api_name="/memory_lab_run"
    )
    assert answer["result"]["title"] == "your own blocks"


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"depths": []}),
        ("run", {"depths": [10**9]}),
        ("run", {"depths": None}),
        ("run", {"architecture": "vgg"}),
        ("run", {"architecture": "own", "blocks": "<script>alert(1)</script>"}),
        ("run", {"width": float("nan")}),
        ("run", {"policies": ["magic"]}),
        ("run", {"seed": -1}),
        ("walk", {"depth": 0}),
        ("walk", {"photograph": "../x"}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(client: Client, action: str, changed: dict):
    values = (RUN if action == "run" else WALK) | changed
    with pytest.raises((AppError, ValueError)) as refused:
        client.predict(**values, api_name=f"/memory_lab_{action}_panel")
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert "<script>" not in str(refused.value)


# ---------------------------------------------------------------------- bars


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (262_144, "256 KiB"), (2**31, "2 GiB")],
)
def test_bytes_are_told_as_people_read_them(size: float, told: str):
    assert bars.told_bytes(size) == told


def test_a_bar_of_a_logarithmic_group_grows_by_the_same_length_for_each_factor():
    group = bars.Group("", [bars.Bar("a", [1.0, 10.0, 100.0])], str, log=True, ends=(1.0, 100.0))
    drawn = bars.grow("step", ["a", "b", "c"], [group])
    assert json.loads(re.search(r'data-shares="([^"]+)"', drawn)[1]) == [0.0, 0.5, 1.0]


def test_on_home_one_bar_grows_beside_one_that_does_not():
    rows = [bars.Bar("a", [1.0, 4.0]), bars.Bar("b", [2.0, 2.0], backward=True)]
    first, last = bars.film(bars.Group("", rows, str))
    assert first.shape == last.shape == (bars.SIDE, bars.SIDE, 3)
    upper, lower = slice(None, bars.SIDE // 2), slice(bars.SIDE // 2, None)
    assert (first[upper] != last[upper]).any()
    assert (first[lower] == last[lower]).all()


def test_names_in_bars_are_escaped():
    group = bars.Group("<b>", [bars.Bar("<i>", [1.0, 2.0])], lambda value: "<u>")
    drawn = bars.grow("<s>", ["<a>", "<b>"], [group])
    assert not re.search(r"<(u|s|a)>", drawn)
    assert "&lt;i&gt;" in drawn


# ---------------------------------------------------------------------- a visitor


@pytest.mark.browser
def test_a_visitor_deepens_a_network_sees_one_bar_stand_still_and_walks_back(
    new_visitor: NewVisitor, shot
):
    page = new_visitor(width=1280, height=800).page
    page.goto("/reverse?method=memory-lab")
    page.locator("#memory_lab-run").click()
    page.locator("#memory_lab-run-status .status.done").wait_for(timeout=90_000)
    slider = page.locator("#memory_lab-bars input[data-grow]")
    slider.fill("0")
    before = bars_of(page)
    slider.fill("5")
    after = bars_of(page)
    assert before["◀ Reversible"] == after["◀ Reversible"]
    assert before["Plain autograd"] != after["Plain autograd"]
    expect(page.locator("#memory_lab-run-number")).to_contain_text("→")
    shot(page, "bars")
    page.get_by_role("tab", name="Walk back to the picture").click()
    page.locator("#memory_lab-walk").click()
    page.locator("#memory_lab-walk-status .status.done").wait_for(timeout=90_000)
    expect(page.locator("#memory_lab-walked")).to_contain_text("every pixel equal")
    expect(page.locator("#memory_lab-walk-number")).to_contain_text("grey levels")
    shot(page, "picture")
    assert axe_findings(page) == []


@pytest.mark.browser
def test_it_fits_a_phone(new_visitor: NewVisitor, shot):
    page = new_visitor(width=390, height=844).page
    page.goto("/reverse?method=memory-lab")
    page.locator("#memory_lab-bars").wait_for()
    assert sideways_scroll(page) == 0
    shot(page, "phone")


def bars_of(page: Page) -> dict[str, str]:
    """What stands beside the bars of the first group."""
    rows = page.locator("#memory_lab-bars section").first.locator("li")
    return {
        row.locator("span").first.inner_text(): row.locator("> b").inner_text()
        for row in rows.all()
    }


# ---------------------------------------------------------------------- where it breaks


def breaks(measured) -> None:
    """What the failure gallery says of it."""
    deepest = {p.policy: p for p in measured.points if p.depth == 16}
    shallow = {p.policy: p for p in measured.points if p.depth == 2}
    assert deepest["reversible"].kept_bytes == shallow["reversible"].kept_bytes
    assert deepest["reversible"].gradient_error > 1e-2
    assert deepest["anchored"].gradient_error < 1e-4
