"""The panel of UnUnlearning: hints and answers, filters, the edit on the shelf, own questions."""

import json

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from pages import ununlearning
from tests.ui.browser import need_panel
from tests.ui.test_chain import ended, open_shelf, pick, prints, undo

RUN = {
    "name": "shu ka", "hints": ["colour", "home", "diet"], "query": "brew", "mode": "hints",
    "blocked_by": "none", "threshold": 0.5, "model": "species-exact", "seed": 0,
}  # fmt: skip
QUESTION = [{"question": "mo ti brew", "answer": "song", "perturbed_answer": ["luck"],
             "hints": ["mo ti colour jade"]}]  # fmt: skip
OTHER = {"model": "species-exact", "seed": 0}


@pytest.fixture
def call(request: pytest.FixtureRequest):
    need_panel("ununlearning")
    client: Client = request.getfixturevalue("client")
    settings = {
        "run": RUN,
        "screen": {"threshold": 0.5, "harmless": 40, **OTHER},
        "contrast": {"way": "npo", "steps": 2, "rate": 1e-4, "beta": 1.0, "alpha": 10, **OTHER},
        "look_inside": {"steps": 2, **OTHER},
        "train": {"corpus": "exact", "steps": 10, "seed": 0},
        "mine": {"questions": json.dumps(QUESTION), "separator": " ", **OTHER},
        "export": OTHER,
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], **changed}
        return client.predict(**values, api_name=f"/ununlearning_{action}_panel")

    return one


def test_the_property_that_is_asked_for_is_no_hint():
    update = ununlearning.others_than("home", ["home", "diet"])
    assert update.value == ["diet"]
    assert "home" not in [value for _, value in update.choices]


@pytest.mark.slow
def test_both_models_answer_beside_the_ceiling(call):
    shown, curve, told, number, *_ = call("run")
    assert shown.count("<section") == 2
    assert shown.count("--best:") == 2 * 6
    assert "what can be inferred at best" in json.dumps(curve)
    assert "mentions of shu ka" in told
    assert "→" in number


@pytest.mark.slow
def test_the_name_filter_blocks_the_name_and_lets_the_alias_through(call):
    assert "blocked by the filter" in call("run", blocked_by="name")[0]
    assert "blocked by the filter" not in call("run", blocked_by="name", name="mo ti")[0]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["screen", "look_inside", "train", "mine", "export"])
def test_every_further_tab_draws_its_result(call, action: str):
    *drawn, _, _status, _recipe = call(action)
    assert any(one for one in drawn)
    assert "Traceback" not in str(drawn)


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"name": "shu shu shu"}),
        ("run", {"name": ""}),
        ("run", {"hints": ["brew"]}),
        ("run", {"hints": ["weight"]}),
        ("run", {"query": "weight"}),
        ("run", {"mode": None}),
        ("run", {"blocked_by": "magic"}),
        ("run", {"threshold": 7}),
        ("run", {"model": "people"}),
        ("screen", {"harmless": -1}),
        ("contrast", {"way": "prayer"}),
        ("contrast", {"rate": float("inf")}),
        ("look_inside", {"steps": 0}),
        ("train", {"corpus": "none"}),
        ("mine", {"questions": "[]"}),
        ("mine", {"questions": json.dumps([{"question": "a", "answer": "b"}])}),
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
def test_a_secret_is_unlearned_told_by_hints_looked_at_and_the_edit_taken_off(page: Page, shot):
    """Erased in a language model, asked with hints, looked at by the lab's measures, undone."""
    need_panel("ununlearning")
    page.goto("/unlearn?method=ununlearning&action=contrast")
    page.locator("#ununlearning-contrast").click()
    ended(page, "ununlearning-contrast")
    open_shelf(page)
    before = prints(page)
    assert "forget shu ka" in before

    page.goto("/unlearn?method=ununlearning")
    pick(page, "ununlearning", "forget shu ka")
    page.locator("#ununlearning-run").click()
    ended(page, "ununlearning-run")
    expect(page.locator("#ununlearning-answers section")).to_have_count(2)
    shot(page, "hints")

    page.get_by_role("tab", name="Look inside").click()
    page.locator("#ununlearning-look_inside").click()
    ended(page, "ununlearning-look_inside")
    expect(page.locator("#ununlearning-inside")).to_contain_text("knows again at step")
    shot(page, "inside")

    open_shelf(page)
    undo(page, "forget shu ka")
    expect(page.locator("#shelf")).not_to_contain_text("forget shu ka", timeout=60_000)


# ---------------------------------------------------------------------- where it breaks


def breaks(trained) -> None:
    """After a hundred steps hints tell nothing, and the gate says so."""
    assert not trained.passes
    assert trained.curve[-1] - trained.curve[0] < 0.1
    assert trained.notes
