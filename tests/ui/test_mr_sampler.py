"""The panel of the MR sampler through the client, on a tiny random network."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.harness import axe_findings, sideways_scroll
from pages import mr_sampler
from tests.tiny_restorer import tiny_restorer
from tests.ui.browser import NewVisitor

RUN = {
    "example": "chelsea",
    "task": "noise",
    "strength": 0.5,
    "nfe": 2,
    "methods": ["mrs_ode_d_2", "posterior_released"],
    "spacing": "auto",
    "fit_target": "noise",
    "tables": "ln alpha",
    "curve": False,
    "plane": False,
    "picture": None,
    "seed": 7,
}
RESTORE = {
    "picture": None,
    "damage": False,
    "example": "house",
    "task": "rain",
    "strength": 0.5,
    "solver": "mrs_ode_d_2",
    "nfe": 1,
    "tile": 96,
    "overlap": 16,
    "spacing": "auto",
    "fit_target": "noise",
    "tables": "ln alpha",
    "seed": 7,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_restorer(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def run(client: Client, tiny: str):
    return lambda **changed: client.predict(
        **{**RUN, "model": tiny, **changed}, api_name="/mr_sampler_run_panel"
    )


@pytest.fixture
def restore(client: Client, tiny: str):
    return lambda **changed: client.predict(
        **{**RESTORE, "model": tiny, **changed}, api_name="/mr_sampler_restore_panel"
    )


@pytest.mark.slow
def test_run_shows_both_methods_and_the_cut(run):
    shown, *_, status, told = run()
    assert shown.count("2 NFE ·") == 2
    assert "data-cut" in shown
    assert "What is left" in shown
    assert "seed 7" in status
    assert "python -m engine run mr-sampler" in told


@pytest.mark.slow
def test_equal_settings_give_equal_pixels(run):
    saved = [re.findall(r'href="(data:image/png[^"]+)"', run()[0]) for _ in range(2)]
    assert len(saved[0]) == 2
    assert saved[0] == saved[1]


@pytest.mark.slow
def test_curves_of_three_figures_are_drawn(run):
    _, psnr, ssim, distance, *_ = run(curve=True, methods=["mrs_ode_d_1"])
    for plot in (psnr, ssim, distance):
        line = json.loads(plot["plot"])["data"][0]
        assert line["x"] == mr_sampler.CURVE
        assert len(line["y"]) == len(line["x"])


@pytest.mark.slow
def test_own_picture_is_restored_in_its_size(restore, tmp_path: Path):
    path = tmp_path / "mine.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 77, 3), dtype=np.uint8)).save(
        path
    )
    shown = restore(picture=handle_file(path), task="unknown")[0]
    assert "77 x 50 pixels in 1 tiles" in shown
    assert "Save PNG" in shown


@pytest.mark.parametrize(
    "changed",
    [
        {"nfe": 0},
        {"nfe": None},
        {"nfe": float("nan")},
        {"nfe": 1e9},
        {"methods": []},
        {"methods": None},
        {"methods": ["no such"]},
        {"strength": -1},
        {"strength": float("inf")},
        {"task": "no such"},
        {"example": "../../etc/passwd"},
        {"fit_target": "no such"},
        {"spacing": "no such"},
        {"tables": "no such"},
        {"seed": -1},
        {"model": "world"},
        {"model": "/etc"},
        {"model": "<script>alert(1)</script>"},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_bad_input_is_refused_with_a_sentence(run, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        run(**changed)
    assert "Something failed" not in str(refused.value)


@pytest.mark.browser
def test_a_visitor_restores_moves_the_cut_and_takes_the_link(
    new_visitor: NewVisitor, shot: Callable[[Page, str], Path]
):
    page = new_visitor(width=390).page
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.goto("/sample?method=mr_sampler")
    page.locator("#mr_sampler-run").click()
    page.locator("#mr_sampler-run-status .done").wait_for()
    for title in ("MRS-ODE-d-2", "Posterior, strided", "Posterior, as released"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    cutter = page.get_by_label("Cut between damaged and MRS-ODE-d-2")
    cutter.fill("20")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []
    shot(page, "narrow")
    page.reload()
    expect(page.locator("#mr_sampler-run-status")).to_contain_text("Restored from the link")


# ---------------------------------------------------------------------- where it breaks


def breaks(walks) -> None:
    """What the failure gallery says of it."""
    found = {walk.method: walk.scores.psnr for walk in walks.walks}
    assert found["mrs_sde_n_1"] < walks.damaged_scores.psnr < found["mrs_ode_d_2"]
