"""The panel of SmoothInv, and the chain: the trigger that it finds closes the backdoor."""

import json
import re

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from engine.unlearning.smoothinv.results import Inversion
from pages import smoothinv
from tests.ui.browser import need_panel
from tests.ui.test_chain import ended

BEGIN = {"start": 8, "picture": None, "test": ""}
INPUTS = BEGIN | {
    "target": "T-shirt",
    "denoiser": "",
    "eps": 3,
    "steps": 12,
    "samples": 4,
    "common_noise": False,
    "sigmas": [0.25],
    "seed": 0,
    "model": "fashion-poisoned",
}


def breaks(found: Inversion) -> None:
    """The perturbation from this start works on few other pictures."""
    assert found.found[0].name.startswith("smoothed")
    assert found.found[0].success.rate < 0.5


@pytest.fixture
def call(request: pytest.FixtureRequest):
    """`call("run", eps=1)`: the outputs of an action with these controls changed."""
    need_panel("smoothinv")
    client: Client = request.getfixturevalue("client")
    own = {
        "run": INPUTS | {"cleanse": False},
        "scan": BEGIN | {"eps": 3, "seed": 0, "model": "fashion-poisoned"},
        "export": INPUTS,
    }

    def one(action: str, **changed: object) -> tuple:
        values = own[action] | changed
        return client.predict(**values, api_name=f"/smoothinv_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_shows_smoothed_plain_and_true_and_the_way_onward(call):
    films, table, curve, number, *_ = call("run")
    for name in ("smoothed, sigma 0.25", "plain descent", "the true trigger"):
        assert name in films
        assert name in table
    assert "Close this backdoor" in films
    assert "method=corrective" in films
    assert "probability" in json.dumps(curve)
    assert "of other pictures hijacked" in number


@pytest.mark.slow
def test_files_are_written(call):
    told, files, *_ = call("export")
    assert "concentration" in told
    assert len(files["value"] if isinstance(files, dict) else files) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"target": "unicorn"}),
        ("run", {"target": "sandal"}),
        ("run", {"target": None}),
        ("run", {"sigmas": []}),
        ("run", {"eps": 0}),
        ("run", {"start": 99999}),
        ("run", {"denoiser": "/etc"}),
        ("run", {"test": "pictures:../x"}),
        ("scan", {"eps": float("nan")}),
        ("export", {"samples": -1}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action, changed):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)


def test_a_trigger_that_no_link_can_carry_is_said():
    import numpy as np

    from engine.core.recipe import Recipe

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    text = smoothinv.close_it(noise, "T-shirt", Recipe("smoothinv"))
    assert "too large for a link" in text


@pytest.mark.browser
def test_bags_go_and_come_back_and_a_backdoor_is_found_and_closed(
    request: pytest.FixtureRequest,
):
    """Forget the bags, get them back bit for bit, find a backdoor from one picture, close it."""
    for slug in ("ssd", "smoothinv", "corrective"):
        need_panel(slug)
    page: Page = request.getfixturevalue("page")
    page.goto("/unlearn?method=ssd")
    page.locator("#ssd-run").click()
    ended(page, "ssd-run")
    expect(page.locator("#ssd-pictures")).to_contain_text("every bit is back")

    page.goto("/unlearn?method=smoothinv")
    page.locator("#smoothinv-run").click()
    ended(page, "smoothinv-run")
    page.get_by_role("link", name="Close this backdoor").click()

    expect(page.locator("#corrective-run-status")).to_contain_text("Restored", timeout=60_000)
    page.locator("#corrective-run").click()
    ended(page, "corrective-run")
    number = page.locator("#corrective-run-number").inner_text()
    before, after = (int(share) for share in re.findall(r"(\d+) %", number))
    assert before > 90
    assert after < 30
    expect(page.locator("#corrective-pictures")).to_contain_text("every bit is back")
