"""The panel of REVERSE through the client, on a tiny random checkpoint, and its tray builder."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

from engine.core.recipe import ModelRef, Recipe
from engine.metrics.hallucination import Rates
from engine.verifying.retrospective_resampling import seeing
from engine.verifying.retrospective_resampling.algorithm import ENGINES
from engine.verifying.retrospective_resampling.results import (
    Cost,
    Judged,
    Piece,
    Plain,
    Point,
    Telling,
)
from engine.world.tray import ARTISTS, MOST_THINGS, Tray
from pages import _retrospective_story as story
from pages import _retrospective_tau as tau
from pages import _retrospective_tradeoff as tradeoff
from pages import _retrospective_tray as tray
from pages import retrospective_resampling as page_module
from tests.tiny_eyes import tiny_llava

RUN = {
    "tray": "on blue; cat 5 noto; rose 10 noto",
    "question": "describe the picture.",
    "tau": -2,
    "noise": 0.2,
    "picture": None,
    "engine": next(iter(page_module.ENGINES)),
    "hints": True,
    "temperature": 0,
    "step": 0.05,
    "local": 3,
    "total": 4,
    "max_new_tokens": 12,
    "open_ended": False,
    "seed": 3,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_llava(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def run(client: Client, tiny: str):
    """`run(tau=-1)`: the outputs of the panel's button with these settings changed."""
    api = "/retrospective_resampling_run_panel"
    return lambda **changed: client.predict(**{**RUN, "model": tiny, **changed}, api_name=api)


@pytest.fixture
def told() -> Telling:
    """ "there is a dog" said, doubted, taken back; then "a cat" kept."""
    pieces = [
        Piece("there", -1, 1, -1),
        Piece("is", -1, 2, -1),
        Piece("a", 0, 4, 7),
        Piece("<dog>", 0, 5, 7),
        Piece("a", 1, 9, -1),
        Piece("cat", 1, 10, -1),
    ]
    phrases = (
        Judged("a <dog>", 0.6, False, False, 0, 0.0),
        Judged("a cat", 0.001, True, True, 1, 0.05),
    )
    picture = np.zeros((64, 64, 3), np.uint8)
    return Telling(
        picture, picture, ("cat",), "describe the picture.", 0.01, tuple(pieces), phrases,
        (0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6), Cost(10, 34, 80, 2, 1, 24),
        Plain("there is a dog", Rates(1.0, 1.0, 0.0)), "there is a cat",
        "there is <SPAN> a cat </CN>", True, Rates(0.0, 0.0, 1.0), ("a dog",),
    )  # fmt: skip


# ---------------------------------------------------------------------- the page's own functions


def test_names_of_the_page_are_those_of_the_engine():
    assert set(page_module.ENGINES.values()) == set(ENGINES)
    assert set(tradeoff.ARTISTS.values()) == set(seeing.ARTISTS)
    assert tray.SEEN == ARTISTS
    assert tray.MOST_THINGS == MOST_THINGS
    assert Tray.parse(tray.TRAY).names


def test_settings_lead_back_to_the_controls():
    values = {k: v for k, v in RUN.items() if k != "seed"}
    params = page_module.run_params(values)
    assert params["tau"] == 0.01
    assert page_module.run_values(params) == {k: v for k, v in values.items() if k != "picture"}


@pytest.mark.parametrize("power", [-4, -2.75, -1, 0])
def test_tau_and_its_power_of_ten_lead_to_each_other(power):
    assert tau.power_of(tau.tau_of(power)) == power


def test_what_was_taken_back_is_struck_and_not_by_colour_alone(told):
    html = story.story_html(told, True)
    assert re.search(r'<del data-born="4" data-struck="7" data-closed="5">.*&lt;dog&gt;', html)
    assert re.search(r'<span class="kept"[^>]*>.*cat', html)
    assert "<dog>" not in html
    assert 'data-steps="11"' in html


def test_doubts_have_bars_a_line_and_words(told):
    html = story.doubts_html(told)
    assert "↩ a &lt;dog&gt;" in html
    assert "taken back · not there" in html
    assert "stands · true" in html
    assert story.place(1.0) == 100
    assert story.place(1e-9) == 0


def test_confidence_is_exported_for_every_phrase(told):
    html = story.exports(told, Recipe(tray.SLUG))
    found = re.search(r'href="data:application/json,([^"]+)"', html)
    from urllib.parse import unquote

    document = json.loads(unquote(found[1]))
    assert [one["p_un"] for one in document["phrases"]] == [0.6, 0.001]
    assert document["answer"] == "there is a cat"


def test_a_long_row_of_failures_is_folded(told):
    pieces = [Piece("a", k, 2 * k + 1, 2 * k + 2) for k in range(30)]
    phrases = tuple(Judged("a", 0.5, False, None, k, 0.0) for k in range(30))
    long = replace(told, pieces=tuple(pieces), phrases=phrases)
    html = story.story_html(long, True)
    assert html.count("<del data-born") == 8
    assert "22 more pieces taken back" in html


def test_the_ring_marks_the_measured_tau_nearest_to_the_chosen_one():
    names = {field.name for field in fields(Point)}
    point = Point(**dict.fromkeys(names, 0.5) | {"name": "REVERSE", "trays": 9})
    points = [replace(point, tau=level) for level in (1.0, 0.1, 0.01)]
    last = json.loads(tradeoff.tradeoff_plot(points, 0.02).plot)["data"][-1]
    assert last["name"] == "tau 0.01"
    assert last["marker"]["symbol"] == "circle-open"


# ---------------------------------------------------------------------- over the wire


@pytest.mark.slow
def test_a_run_shows_pictures_words_doubts_and_its_cost(run):
    pictures, story, _, _, _, status, recipe = run()
    assert pictures.count("<img") == 2
    assert "cat, rose" in pictures
    assert "never going back" in story
    assert "tokens through the network" in story
    assert "seed 3" in status
    assert "python -m engine run retrospective-resampling" in recipe


@pytest.mark.slow
def test_equal_settings_give_an_equal_story(run):
    first, again = (run()[1] for _ in range(2))
    assert first == again


@pytest.mark.slow
def test_an_own_picture_takes_the_place_of_the_tray(run, tmp_path):
    file = tmp_path / "mine.png"
    Image.new("RGB", (90, 70), (200, 30, 30)).save(file)
    pictures, story, *_ = run(picture=handle_file(str(file)), noise=0)
    assert pictures.count("<img") == 1
    assert "CHAIR" not in story


@pytest.mark.parametrize(
    "changed",
    [
        {"tau": 1},
        {"tau": None},
        {"noise": 7},
        {"noise": None},
        {"total": 0},
        {"total": 1e9},
        {"local": 2.5},
        {"tray": "unicorn 3"},
        {"tray": "<b>cat</b> 3"},
        {"question": ""},
        {"question": "x" * 10_000},
        {"engine": "warp"},
        {"max_new_tokens": -1},
        {"seed": None},
        {"model": "../../etc"},
    ],
)
def test_bad_input_gets_one_sentence(run, changed):
    with pytest.raises(AppError) as caught:
        run(**changed)
    assert "Something failed" not in str(caught.value), changed
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_the_trade_off_is_measured_on_new_trays(client, tiny):
    plot, _, table, *_ = client.predict(
        trays=4,
        artists=next(iter(tradeoff.ARTISTS)),
        noise=0.2,
        hints=False,
        model=tiny,
        seed=1,
        api_name="/retrospective_resampling_curve_panel",
    )
    names = {line["name"] for line in json.loads(plot["plot"])["data"]}
    assert {"REVERSE", "refuse", "truncate", "greedy", "contrast"} <= names
    assert "4 trays" in table


def test_labels_give_a_tau(client, tiny):
    labels = "phrase,p_un,grounded\na cat,0.002,yes\na dog,0.41,no\na rose,0.01,yes\n"
    said, plot, *_ = client.predict(
        labels=labels,
        precision=0.9,
        noise=0.2,
        model=tiny,
        seed=1,
        api_name="/retrospective_resampling_calibrate_panel",
    )
    assert "tau = 0.01" in said
    assert "1.000" in said
    assert plot is not None


def test_the_recipe_runs_over_the_api(client, tiny):
    recipe = Recipe(
        tray.SLUG, model=ModelRef(tiny), seed=2,
        params={"tray": "cat 3", "noise": 0.1, "total": 2, "max_new_tokens": 8},
    )  # fmt: skip
    result = client.predict(recipe=recipe.json(), api_name=recipe.endpoint)
    assert result["result"]["question"] == "describe the picture."
    assert result["files"]["picture.png"].startswith("data:image/png")


# ---------------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_a_tray_is_laid_by_clicks_keys_and_dragging(new_visitor):
    page = new_visitor().page
    page.goto("/verify")
    field = page.locator("#retrospective_resampling-tray textarea")
    field.wait_for()
    page.get_by_role("button", name="Background white").click()
    page.get_by_role("button", name="Empty it").click()
    assert field.input_value() == "on white"
    page.get_by_role("button", name="Take a dog").click()
    page.get_by_role("button", name="Cell 0: empty").click()
    assert field.input_value() == "on white; dog 0 noto"
    page.get_by_role("button", name="Take an octopus").drag_to(
        page.get_by_role("button", name="Cell 9: empty")
    )
    assert "octopus 9 noto" in field.input_value()
    page.get_by_role("button", name="Cell 0: a dog").press("Enter")
    page.get_by_role("button", name="Background pink").press("Enter")
    page.wait_for_function(
        "document.querySelector('#retrospective_resampling-tray textarea').value.includes('pink')"
    )
    page.get_by_role("button", name="Random tray").click()
    assert Tray.parse(field.input_value()).things


@pytest.mark.browser
@pytest.mark.slow
def test_a_visitor_watches_a_phrase_being_taken_back(new_visitor, shot):
    """With the shipped model: within a few trays something is said, doubted and struck."""
    page = new_visitor().page
    page.goto("/verify")
    ask = page.get_by_role("button", name="Ask the model")
    ask.wait_for()
    struck = page.locator(".story del")
    for seed in range(3):
        page.locator("#retrospective_resampling-seed input").fill(str(seed))
        ask.click()
        line = page.locator("#retrospective_resampling-run-status .status")
        expect(line).to_contain_text(f"seed {seed}", timeout=90_000)
        if struck.count():
            break
    shot(page, "taken-back")
    assert struck.count()
    page.locator(".story-bar").wait_for()


# ---------------------------------------------------------------------- where it breaks


def breaks(answer) -> None:
    """What the failure gallery says of it."""
    assert answer.text == ""
    assert any(phrase.is_true and not phrase.stands for phrase in answer.phrases)
