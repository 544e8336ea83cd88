"""The panel of SSD through the client, and in a browser: alpha along the histogram, and back."""

import json
import re
from types import SimpleNamespace

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from engine.unlearning.ssd.results import Forgotten
from pages import _forgetting as forgetting
from pages import ssd
from tests.ui.browser import need_panel
from tests.ui.test_chain import ended

QUESTION = {
    "what": "bag",
    "forget": "class",
    "cluster": 0,
    "count": 100,
    "index_table": "",
    "pictures": "",
    "retain": "",
    "test": "",
}
GRADIENTS = {"unit": "sample", "batch": 64, "label_free": False, "protect": "", "importances": ""}
OPTIONS = {"exponent": 1, "cap": 1}
EDIT = QUESTION | GRADIENTS | OPTIONS
EDIT |= {"choice": ssd.AUTOMATIC, "alpha": 0.3, "lam": 1, "seed": 0}
MODEL = {"model": "fashion"}
SWEEP = {"alphas": "2, 5", "lams": "1", "seed": 0}


def breaks(found: Forgotten) -> None:
    """Most of the other garments go down with the T-shirts."""
    original, edited = found.cards[:2]
    assert edited.retain_test.rate < original.retain_test.rate - 0.2


@pytest.fixture
def call(request: pytest.FixtureRequest):
    """`call("run", alpha=1)`: the outputs of an action with these controls changed."""
    need_panel("ssd")
    client: Client = request.getfixturevalue("client")
    controls = {
        "run": EDIT | {"compare": []},
        "sweep": QUESTION | GRADIENTS | SWEEP,
        "bake": EDIT,
        "export": EDIT | {"form": "patch"},
        "importances": {"unit": "sample", "batch": 64, "label_free": False, "retain": ""}
        | {"most": 64, "folder": "", "seed": 0},
    }

    def one(action: str, **changed: object) -> tuple:
        values = controls[action] | MODEL | changed
        return client.predict(**values, api_name=f"/ssd_{action}_panel")

    return one


def test_settings_of_the_controls_are_those_of_the_job():
    by_hand = ssd.settings(EDIT | {"choice": ssd.BY_HAND, "alpha": 1.0, "protect": "a, ,b"})
    assert (by_hand["alpha"], by_hand["protect"]) == (10.0, ["a", "b"])
    assert ssd.settings(dict(EDIT))["alpha"] == 0
    assert "index_table" not in by_hand
    back = ssd.controls({"alpha": 10.0, "protect": ["a", "b"], "indices": [3, 4]})
    assert back == {
        "choice": ssd.BY_HAND,
        "alpha": 1.0,
        "protect": "a, b",
        "index_table": "3\n4",
    }
    assert ssd.controls({"alpha": 0.0})["choice"] == ssd.AUTOMATIC


def test_thumbnails_are_those_of_the_class_and_a_click_picks_one():
    found = forgetting.thumbnails("bag")
    assert len(found) == forgetting.THUMBNAILS
    labels = json.loads((forgetting.DATA / "labels.json").read_text())["train"]
    assert {labels[int(number)] for _, number in found} == {"8"}
    assert found[0][0].size == (28, 28)
    assert forgetting.thumbnails("unicorn") == []
    click = SimpleNamespace(value={"caption": "23"})
    assert forgetting.picked("", click) == ("picked", "23")
    assert forgetting.picked("5, 23", click) == ("picked", "5")


@pytest.mark.slow
def test_a_run_shows_pictures_histogram_and_the_undo(call):
    pictures, histogram, table, number, *_ = call("run")
    before, after, undone = re.findall(r"<code>([0-9a-f]{12})</code>", pictures)
    assert before == undone != after
    assert "every bit is back" in pictures
    assert json.loads(histogram["value"]["plot"])["data"][0]["name"] == "weights"
    assert "retrained" in table
    assert "accuracy on bag" in number


@pytest.mark.slow
def test_an_alpha_above_the_bound_is_told(call):
    _, _, table, *_ = call("run", choice=ssd.BY_HAND, alpha=2.0)
    assert "above the bound" in table


@pytest.mark.slow
def test_a_sweep_and_a_bake(call):
    plane, told, *_ = call("sweep")
    assert "not beaten" in json.dumps(plane)
    assert "tuning on the test" in told
    assert "every bit as before" in call("bake")[0]


@pytest.mark.slow
@pytest.mark.parametrize("form", forgetting.FORMS.values())
def test_files_are_written_and_read_back(call, form):
    assert "equal bit for bit" in call("export", form=form)[0]


@pytest.mark.slow
def test_importances_are_taken_along(call):
    assert "64 of 64" in call("importances")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"what": "unicorn"}),
        ("run", {"what": None}),
        ("run", {"forget": "picked", "index_table": "one\ntwo"}),
        ("run", {"forget": "picked", "index_table": "20000"}),
        ("run", {"forget": "uploaded", "pictures": "pictures:../x"}),
        ("run", {"choice": ssd.BY_HAND, "alpha": float("nan")}),
        ("run", {"lam": 0}),
        ("run", {"cap": 2}),
        ("run", {"exponent": None}),
        ("run", {"batch": 0}),
        ("run", {"importances": "/etc/passwd"}),
        ("run", {"model": "score-ve"}),
        ("sweep", {"alphas": "1, two"}),
        ("export", {"form": "pickle"}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action, changed):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)


@pytest.mark.browser
def test_alpha_is_dragged_until_the_class_goes_and_the_undo_is_exact(
    request: pytest.FixtureRequest,
):
    need_panel("ssd")
    page: Page = request.getfixturevalue("page")
    page.goto("/unlearn?method=ssd&what=bag&unit=sample&alpha=50")
    expect(page.locator("#ssd-run-status")).to_contain_text("Restored", timeout=60_000)
    page.locator("#ssd-run").click()
    ended(page, "ssd-run")
    number = page.locator("#ssd-run-number")
    expect(number).to_contain_text(re.compile(r"9\d %"))
    before = number.inner_text()
    slider = page.locator("#ssd-alpha input[type=range]")
    slider.focus()
    slider.press("Home")
    expect(number).not_to_have_text(before, timeout=120_000)
    ended(page, "ssd-run")
    expect(page.locator("#ssd-pictures")).to_contain_text("every bit is back")


@pytest.mark.browser
def test_who_moves_alpha_chooses_by_hand_and_who_passes_it_does_not(
    request: pytest.FixtureRequest,
):
    need_panel("ssd")
    page: Page = request.getfixturevalue("page")
    page.goto("/unlearn?method=ssd")
    by_hand = page.locator("#ssd-by").get_by_label(ssd.BY_HAND)
    slider = page.locator("#ssd-alpha input[type=range]")
    expect(slider).to_be_visible(timeout=60_000)
    slider.focus()
    slider.press("Tab")
    expect(by_hand).not_to_be_checked()
    slider.focus()
    slider.press("End")
    expect(by_hand).to_be_checked()
    ended(page, "ssd-run")
    expect(page.locator("#ssd-table")).to_contain_text("bound")
