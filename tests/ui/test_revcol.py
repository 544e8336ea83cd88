"""The panel of RevCol: through the client, and a visitor who slides the columns."""

import re

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from tests.ui.browser import NewVisitor

RUN = {"index": 3, "picture": None, "precision": "float64", "seed": 0, "model": "revcol-fashion"}
MEMORY = {
    "columns": [2, 4], "policies": ["plain", "released", "whole"], "width": 4, "blocks": 1,
    "side": 32, "batch": 1, "seed": 0,
}  # fmt: skip
PROBE = {"train": 200, "test": 100, "seed": 0, "model": "revcol-fashion"}
ESTIMATE = {"sizes": ["T"], "side": 224, "batch": 1, "policies": ["whole"], "seed": 0}
SETTINGS = {"run": RUN, "memory": MEMORY, "probe": PROBE, "estimate": ESTIMATE}


@pytest.fixture
def call(client: Client):
    """`call("memory", batch=2)`: the outputs of an action with these settings changed."""

    def one(action: str, **changed: object) -> tuple:
        return client.predict(**(SETTINGS[action] | changed), api_name=f"/revcol_{action}_panel")

    return one


@pytest.mark.slow
def test_a_garment_comes_back_from_the_last_column(call):
    drawn, exits, _, number, *_ = call("run")
    assert drawn.count("data-frames") == 2
    assert "every pixel as on the way there" in drawn
    assert "Early exits" in exits
    assert re.search(r"<b>(\d × )?10⁻¹\S</b>", number), number  # below 10⁻⁹


@pytest.mark.slow
def test_ones_own_picture_goes_in(call, tmp_path):
    path = tmp_path / "mine.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
    drawn, *_ = call("run", picture=handle_file(path))
    assert "came back" in drawn


@pytest.mark.slow
def test_one_bar_does_not_move(call):
    drawn, told, number, *_ = call("memory")
    assert drawn.count("data-shares") == 6
    assert "float32" in told
    first, last = re.findall(r"[\d,]+", re.sub(r"<p>.*?</p>|<span.*?</span>", "", number))
    assert first == last


@pytest.mark.slow
def test_probes_and_published_sizes(call):
    *_, table, number, _, _ = call("probe")
    assert table.count("<tr>") == 17
    assert "class read off" in number
    (drawn, *_) = call("estimate")
    assert "computed on shapes" in drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"index": -1}),
        ("run", {"index": 1e9}),
        ("run", {"precision": "float8"}),
        ("run", {"model": "/etc"}),
        ("memory", {"columns": []}),
        ("memory", {"columns": [10**9]}),
        ("memory", {"side": 50}),
        ("memory", {"width": 64, "side": 256, "batch": 32}),
        ("probe", {"train": 10**9}),
        ("estimate", {"sizes": ["Q"]}),
        ("estimate", {"side": None}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


@pytest.mark.browser
def test_a_visitor_slides_the_columns_and_sees_the_garment_come_back(new_visitor: NewVisitor, shot):
    page = new_visitor(width=1280, height=800).page
    page.goto("/reverse?method=revcol")
    page.locator("#revcol-run").click()
    page.locator("#revcol-run-status .status.done").wait_for(timeout=90_000)
    expect(page.locator("#revcol-exits")).to_contain_text("Early exits")
    shot(page, "garment")
    page.get_by_role("tab", name="Slide the columns").click()
    page.locator("#revcol-memory").click()
    page.locator("#revcol-memory-status .status.done").wait_for(timeout=90_000)
    row = page.locator("#revcol-bars section").first.locator("li", has_text="All columns")
    slider = page.locator("#revcol-bars input[data-grow]")
    slider.fill("0")
    before = row.locator("> b").inner_text()
    slider.fill("3")
    assert row.locator("> b").inner_text() == before
    shot(page, "columns")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []


# ---------------------------------------------------------------------- where it breaks


def breaks(shown) -> None:
    """What the failure gallery says of it."""
    bars = {(bar.mode, bar.columns): bar for bar in shown.bars}
    assert bars["whole", 16].kept_bytes == bars["whole", 2].kept_bytes
    assert bars["whole", 16].gradient_error > 1e-2
    assert bars["anchored", 16].gradient_error < 1e-5
