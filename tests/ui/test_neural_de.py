"""The panel of neural differential equations: its failure, its words, a visitor who draws."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.core.job import Job, finish
from engine.core.recipe import Recipe
from engine.networks.neural_de import DRAWINGS
from engine.networks.neural_de.drawing import points_of
from engine.networks.neural_de.results import Drawn, Gradients, Held, Point
from pages import _flow as flow
from pages import _markup as markup
from pages import neural_de
from tests.ui.browser import NewVisitor, need_panel


def breaks(found: Held) -> None:
    """Reversible Heun leaves all bounds before t = 4, where Heun and c = 0.5 stay."""
    by = {way.method: way for way in found.ways}
    assert by["heun"].left_at is None
    assert by["reversible_heun"].left_at is not None
    assert by["reversible_heun"].left_at < 4
    assert by["mccallum_foster"].left_at is None


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """A short run of the spiral."""
    settings = {"rounds": 20, "steps": 16, "width": 8}
    return finish(Job("engine.networks.neural_de.algorithm:run", settings, 7).start())


# ---------------------------------------------------------------------- what is drawn


def test_every_state_of_the_ways_back_is_in_the_page(drawn: Drawn):
    markup = flow.flow(drawn, DRAWINGS["spiral"], "field", "run")
    tracks = re.findall(r'data-back="([^"]+)"', markup)
    assert {len(track.split()) for track in tracks} == {17}
    assert len(tracks) in (2, 4)  # two ways on the plane, and under the lens where it is needed
    positions = json.loads(re.search(r"data-grow='([^']+)'", markup)[1].replace("&quot;", '"'))
    assert positions[0] == "0.00"
    assert positions[-1] == "1.00"
    assert len(positions) == 17


def test_the_number_is_by_how_much_the_start_is_missed(drawn: Drawn):
    number = neural_de.miss_of_start(drawn, None)
    heun = drawn.ways[0]
    missed = np.linalg.norm(heun.back[-1] - heun.trajectory[0])
    assert number.before == markup.figure(missed)
    assert number.value == "0" or "10⁻¹" in number.value
    assert neural_de.miss_of_start(replace(drawn, ways=()), None) is None


def test_ready_curves_are_drawings_that_can_be_learnt():
    for text in DRAWINGS.values():
        assert np.array_equal(neural_de.curve_of(text), points_of(text))


def test_a_way_that_left_all_bounds_starts_its_way_back_later(drawn: Drawn):
    cut = replace(drawn.ways[0], back=drawn.ways[0].back[:5], misses=drawn.ways[0].misses[:5])
    markup = flow.flow(replace(drawn, ways=(cut, *drawn.ways[1:])), "0 0; 1 1", "field", "run")
    assert "null, null" in markup
    tracks = re.findall(r'data-back="([^"]+)"', markup)
    assert {len(track.split()) for track in tracks} == {5, 17}


def test_a_drawing_is_shown_as_text_and_does_nothing_else(drawn: Drawn):
    markup = flow.flow(drawn, '"><script>alert(1)</script>', "field", "run")
    assert "<script" not in markup


@pytest.mark.slow
def test_the_film_goes_there_and_back(drawn: Drawn):
    frames = neural_de.film(drawn)
    assert len(frames) == 12
    assert {frame.shape for frame in frames} == {(96, 96, 3)}
    inked = [int((frame[..., 2] > frame[..., 0]).sum()) for frame in frames]  # blue is the way back
    assert inked[:6] == [0] * 6
    assert inked[-1] > inked[6] > 0


def test_gradients_that_left_all_bounds_have_no_bar_and_a_word():
    lost = Point("adjoint", "continuous adjoint", 16, 1.0, 4096, 64, float("inf"), float("inf"))
    held = replace(lost, method="reversible", title="reversible Heun", error=1e-15)
    shown = Gradients("steps", (lost, held))
    bars, table = neural_de.draw_gradients(shown, None, True)
    assert "left all bounds" in table
    assert "4.00 KiB" in bars or "4 KiB" in bars
    assert neural_de.gradient_error(shown, None).before == "left all bounds"


# ---------------------------------------------------------------------- headless


@pytest.mark.slow
def test_the_named_endpoint_answers_with_one_sentence_to_bad_input(client: Client):
    need_panel("neural_de")
    recipe = Recipe("neural_de", params={"drawing": "0 0"}, seed=7)
    with pytest.raises(AppError, match="One observation is no curve"):
        client.predict(recipe.json(), api_name="/neural_de_run")


# ---------------------------------------------------------------------- a visitor


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor_draws_a_curve_and_time_runs_back(new_visitor: NewVisitor, shot, scheme: str):
    need_panel("neural_de")
    page = new_visitor(width=1280, height=800, scheme=scheme).page
    page.goto("/reverse?method=neural-de")
    board = page.locator("#neural_de-plane .board svg")
    slider = page.locator("#neural_de-plane [data-grow]")
    slider.wait_for()  # it opens with its recording
    shot(page, "opened")
    box = board.bounding_box()
    assert box is not None
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + 0.2 * side, y + 0.5 * side)
    page.mouse.down()
    for k in range(1, 20):
        page.mouse.move(x + (0.2 + 0.03 * k) * side, y + (0.5 - 0.012 * (k % 7)) * side)
    page.mouse.up()
    page.locator("#neural_de-run-status .status.done").wait_for(timeout=120_000)
    assert page.locator("#neural_de-drawing textarea").input_value().count(";") > 8
    expect(page.locator("#neural_de-run-number")).to_contain_text("start missed by")
    expect(page.get_by_role("region", name="Ways back")).to_contain_text("bit for bit")
    assert page.locator("#neural_de-plane .changed").count() == 0
    slider.focus()
    page.keyboard.press("End")  # the end of time, from where it runs back
    way = page.locator("#neural_de-plane .board .way.heun polyline")
    assert len(way.get_attribute("points").split()) == 1
    page.keyboard.press("Home")
    assert len(way.get_attribute("points").split()) == 25
    shot(page, "drawn")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []


@pytest.mark.browser
def test_a_curve_is_drawn_and_run_with_the_keyboard_alone(new_visitor: NewVisitor):
    need_panel("neural_de")
    page = new_visitor().page
    page.goto("/reverse?method=neural-de")
    board = page.locator("#neural_de-plane .board svg")
    page.locator("#neural_de-plane [data-grow]").wait_for()
    board.focus()
    for key in ["ArrowRight"] * 6 + ["ArrowUp"] * 3:
        page.keyboard.press(key)
    expect(page.locator("#neural_de-drawing textarea")).to_have_value(re.compile("^0 0; 0.1 0;"))
    page.keyboard.press("Enter")
    page.locator("#neural_de-run-status .status.done").wait_for(timeout=120_000)
    expect(page.locator("#neural_de-run-number")).to_contain_text("start missed by")
