"""The panel of RESTOR: the board and its slider, the shelf, free questions, one's own model."""

import json
import re
from html import unescape

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from engine.metrics.intervals import Rate
from engine.unlearning._questions import read_facts, read_texts
from engine.unlearning.restor.results import Answer, Course, Point, Restored, Row, Standing
from pages import _restor_board as board
from pages import _restor_own as own
from pages import restor
from tests.ui.browser import need_panel

RUN = {
    "way": "npo", "beside": [], "k": 0, "steps": 10, "with_retain": True, "beta": 1.0,
    "gamma": 1.0, "rate": 1e-4, "corrupt_steps": 40, "surgical": True, "repair": False,
    "model": "people", "seed": 0,
}  # fmt: skip
MINE = {
    "facts": json.dumps(
        [{"subject": "a", "relation": "plays", "question": "Ida_Korsk plays", "answers": ["lute"]}]
    ),
    "evaluate_only": True, "documents": "Ida_Korsk plays gong ;", "retain": "", "way": "npo",
    "corrupt_steps": 0, "steps": 1, "rate": 1e-4, "rank": 2, "beta": 0.1, "gamma": 1.0, "shots": 5,
    "separator": " ; ", "model": "people", "seed": 0,
}  # fmt: skip


def standing(truths: int, lies: int) -> Standing:
    rates = Rate.counted(truths, 10), Rate.counted(lies, 10), Rate.counted(9, 10)
    return Standing(*rates, -1.0, -2.0, -5.0)


def result(**changed: object) -> Restored:
    """A run of two stages that is written down by hand."""
    row = Row("Orla Venn", "born in", "Where?", "Tarsk", "Olmen",
              tuple(Answer(said, 0.5, 0.2) for said in ("Tarsk", "Olmen", "Quill")))  # fmt: skip
    points = tuple(
        Point(at, standing(truths, lies), 0.5, None, (Answer(said, 0.5, 0.2),))
        for at, truths, lies, said in ((0.0, 2, 5, "Olmen"), (5.0, 6, 1, "<b>Tarsk"))
    )
    courses = tuple(
        Course(method, title, points, 1)
        for method, title in (("npo", "NPO"), ("retain_only", "retain only"))
    )
    told = {"courses": courses, "rows": (row,), "reported": 58, "validation": 6} | changed
    return Restored(standing(10, 0), standing(2, 5), 0, **told)


# ---------------------------------------------------------------------- the board


def test_every_stage_lies_in_the_board_for_the_slider():
    drawn = board.drawn(result(), 120)
    stages = json.loads(unescape(re.search(r'data-stages="([^"]*)"', drawn)[1]))
    assert [len(course) for course in stages] == [2, 2]
    assert stages[0][0] == {
        "at": "not unlearned", "truths": "20 %", "lies": "50 %", "said": [["Olmen", "lie"]],
    }  # fmt: skip
    assert stages[0][1]["at"] == "step 5"


def test_texts_of_a_model_are_escaped_and_kinds_have_signs():
    drawn = board.drawn(result(), 120)
    assert "<b>Tarsk" not in drawn
    assert "· &lt;b&gt;Tarsk" in drawn


def test_the_pictures_say_their_ends_in_words():
    assert "NPO: truths from 20 to 60 %; lies from 50 to 10 %" in board.drawn(result(), 120)


def test_the_number_is_of_the_control_and_of_the_way():
    recipe = _recipe(way="npo")
    assert str(restor.lies_left(result(), recipe)).endswith("10 % → 10 %")
    assert restor.lies_left(result(courses=result().courses[:1]), recipe) is None


def test_every_example_is_what_the_engine_reads():
    for name in own.EXAMPLES:
        facts, documents, retain, separator = own.example_of(name)
        assert read_facts(facts)
        assert len(read_texts(documents)) > 1
        assert read_texts(retain)
        assert 1 <= len(separator) <= 8


def _recipe(**params: object):
    from engine.core.recipe import Recipe

    return Recipe("restor", "run", params=params)


# ---------------------------------------------------------------------- through the client


@pytest.fixture
def call(request: pytest.FixtureRequest):
    need_panel("restor")
    client: Client = request.getfixturevalue("client")
    settings = {
        "run": RUN,
        "ask": {"question": "Orla Venn born in", "k": 0, "model": "people", "seed": 0},
        "mine": MINE,
        "export": {"way": "npo", "steps": 5, "beta": 1.0, "model": "people", "seed": 0},
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], **changed}
        return client.predict(**values, api_name=f"/restor_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_draws_both_ways_and_puts_the_edit_on_the_shelf(call):
    shown, told, plane, logs, table, number, _status, recipe = call("run", beside=["ga"])
    for title in ("NPO, of the batch", "gradient ascent", "retain only"):
        assert title in shown
    assert "facts the clean model knows" in told
    assert "truths restored, %" in json.dumps(plane)
    assert "mean log-probability" in json.dumps(logs)
    assert "corrupted" in table
    assert "lies on your shelf" in told
    assert "→" in number
    assert "--way npo" in recipe


@pytest.mark.slow
def test_a_free_question_is_answered_by_the_clean_and_the_corrupted_model(call):
    answers, number, *_ = call("ask")
    assert answers.count("<section>") == 2
    assert "The truth:" in answers
    assert "probability of the truth" in number


@pytest.mark.slow
def test_an_own_model_is_evaluated_and_its_card_written(call):
    shown, _, files, number, *_ = call("mine")
    assert "as it is" in shown
    names = [str(path) for path in (files["value"] if isinstance(files, dict) else files)]
    assert any(name.endswith("card.json") for name in names)
    assert "true answers" in number


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"way": "prayer"}),
        ("run", {"beside": ["prayer"]}),
        ("run", {"beta": 0}),
        ("run", {"steps": -1}),
        ("run", {"rate": float("nan")}),
        ("run", {"k": None}),
        ("run", {"model": "fashion"}),
        ("ask", {"question": "why is the sky"}),
        ("ask", {"question": ""}),
        ("mine", {"facts": "[]"}),
        ("mine", {"facts": "no json"}),
        ("mine", {"evaluate_only": False, "documents": ""}),
        ("mine", {"separator": ""}),
        ("export", {"way": None}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


# ---------------------------------------------------------------------- in a browser


@pytest.mark.browser
@pytest.mark.slow
def test_the_slider_moves_through_the_steps(new_visitor, shot):
    need_panel("restor")
    page = new_visitor().page
    page.goto("/unlearn?method=restor")
    page.locator("#restor-run").click()
    expect(page.locator("#restor-run-status .status.done")).to_be_visible(timeout=180_000)
    bar = page.locator(".steps-bar[data-board=restor-board] input")
    expect(bar).to_be_visible()
    ends = page.locator("#restor-board dd.lies").first.inner_text()
    bar.focus()
    page.keyboard.press("Home")
    expect(page.locator("#restor-board .at").first).to_have_text("not unlearned")
    assert page.locator("#restor-board dd.lies").first.inner_text() != ends
    shot(page, "board")


# ---------------------------------------------------------------------- where it breaks


def breaks(run) -> None:
    """Lies and truths are gone alike, those about the kept people too."""
    way = run.courses[0].last.standing
    assert way.lies.rate < 0.15
    assert way.truths.rate < 0.2
    assert way.kept.rate < 0.5
