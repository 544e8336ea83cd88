"""The panel of the exact world: through the client, and a visitor who draws and runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.core.recipe import Recipe
from tests.ui.browser import NewVisitor

pytestmark = pytest.mark.browser

WORLD = "1 -1 0 0.1 A\n1 1 0 0.1 B"
RUN = {"world": WORLD, "nfe": 8, "spacing": "uniform_lam", "solvers": ["ddim", "unipc2"], "seed": 3}
VIEWS = {"world": WORLD, "process": "flow", "reading": "u", "t": 0.4, "x": 0.5, "y": 0, "seed": 3}
GUIDE = {"world": WORLD, "of_class": "B", "guidance_scale": 2, "seed": 3}


def figure(answer: dict) -> dict:
    return json.loads(answer["plot"])


def test_a_run_draws_curves_errors_and_a_table(client: Client):
    curves, errors, table, _, status, told = client.predict(**RUN, api_name="/principles_run_panel")
    assert len(figure(curves)["layout"]["meta"]["times"]) == 21
    assert [trace["name"] for trace in figure(errors)["data"]] == ["DDIM", "UniPC 2"]
    assert "One curve" in table
    assert "errors.csv" in table
    assert "seed 3" in status
    assert "python -m engine run principles" in told


def test_views_and_guidance_draw_their_numbers(client: Client):
    field, numbers, *_ = client.predict(**VIEWS, api_name="/principles_views_panel")
    assert figure(field)["data"][0]["type"] == "heatmap"
    assert "Five losses, one loss" in numbers
    cloud, bars, numbers, *_ = client.predict(**GUIDE, api_name="/principles_guide_panel")
    assert len(figure(cloud)["data"]) == len(figure(bars)["data"]) == 2
    assert "nats" in numbers


def test_the_endpoint_gives_the_errors_as_a_table(client: Client):
    params = {"world": WORLD, "solvers": ["ddim"], "most": 16, "particles": 4}
    answer = client.predict(
        Recipe("principles", params=params, seed=1).json(), api_name="/principles_run"
    )
    assert [point["nfe"] for point in answer["result"]["points"]] == [4, 8, 16]
    assert answer["files"]["points.csv"].startswith("data:text/csv")


@pytest.mark.parametrize(
    "changed",
    [
        {"world": ""},
        {"world": None},
        {"world": "1 0 0 <b>x</b>"},
        {"world": "x" * 10_000},
        {"solvers": []},
        {"solvers": ["magic"]},
        {"nfe": -1},
        {"nfe": float("nan")},
        {"spacing": "none"},
        {"seed": -1},
    ],
    ids=lambda changed: str(changed)[:30],
)
def test_bad_input_is_refused_with_a_sentence(client: Client, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        client.predict(**(RUN | changed), api_name="/principles_run_panel")
    assert "Traceback" not in str(refused.value)
    assert "<b>" not in str(refused.value)
    assert "Something failed" not in str(refused.value)


def test_a_visitor_draws_a_world_runs_it_and_shares_it(
    new_visitor: NewVisitor, shot: Callable[[Page, str], Path]
):
    page = new_visitor(width=390).page
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.goto("/sample?method=principles")
    page.get_by_role("button", name="two classes").click()
    field = page.locator("#principles-world textarea")
    expect(field).to_have_value("1 -1 0 0.25 A\n1 1 0 0.25 B")
    page.locator("#principles-run-status .done").wait_for()
    mode = page.locator(".world-box [data-mode='0']")
    mode.focus()
    mode.press("ArrowUp")
    expect(field).to_have_value("1 -1 0.1 0.25 A\n1 1 0 0.25 B")
    page.wait_for_timeout(800)
    page.locator("#principles-run-status .done").wait_for()
    expect(page.get_by_text("One curve:")).to_be_visible()
    assert "0.1+0.25" in page.url
    scrub = page.get_by_label("Noise level behind the curves")
    scrub.fill("3")
    expect(page.locator(".times output")).not_to_have_text("t = 0.001")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []
    shot(page, "narrow")
    page.reload()
    expect(field).to_have_value("1 -1 0.1 0.25 A\n1 1 0 0.25 B")


# ---------------------------------------------------------------------- where it breaks


def breaks(orders) -> None:
    """What the failure gallery says of it."""
    at_8, at_32 = (
        {point.solver: point.error for point in orders.points if point.nfe == nfe}
        for nfe in (8, 32)
    )
    assert at_8["heun"] > 2 * at_8["ddim"] > 2 * at_8["dpmpp_2m"]
    assert at_32["heun"] < at_32["ddim"]
