"""The panel of SGMSE through the client, on a tiny random checkpoint."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.core.recipe import ModelRef, Recipe
from engine.sampling.sgmse import algorithm, enhancing, scene
from engine.sounds import Sound, read
from pages import sgmse
from tests.tiny_speech import tiny_speech
from tests.ui.browser import NewVisitor

RUN = {
    "clip": "it-vm-sorry",
    "noise": "hiss",
    "noise_snr": 5,
    "reverb": 0,
    "recording": None,
    "steps": 2,
    "sampler": "pc",
    "corrector": "ald",
    "snr": 0.4,
    "renew_above": 0.7,
    "noise_share": 0.3,
    "seed": 7,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_speech(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def run(client: Client, tiny: str):
    """`run(steps=3)`: the outputs of the panel's button with these settings changed."""
    return lambda **changed: client.predict(
        **{**RUN, "model": tiny, **changed}, api_name="/sgmse_run_panel"
    )


def test_choices_of_the_page_are_those_of_the_engine():
    assert tuple(sgmse.NOISES.values()) == scene.KINDS
    assert tuple(sgmse.SAMPLERS.values()) == enhancing.SAMPLERS
    assert tuple(sgmse.CORRECTORS.values()) == enhancing.CORRECTORS
    assert list(sgmse.LINES) == list(algorithm.COMPARED)


@pytest.mark.slow
def test_run_shows_marks_and_plays_every_version(run):
    html, _, status, told = run()
    assert "4 network evaluations" in html
    assert "over noisy" in html
    for title in ("Noisy", "Enhanced", "Clean", "asked once", "Predicted mean", "Classical (LSA)"):
        assert title in html
    sounds = re.findall(r'<audio src="data:audio/wav;base64,([^"]+)"', html)
    assert len(sounds) >= 9
    assert "seed 7" in status
    assert "python -m engine run sgmse" in told


@pytest.mark.slow
def test_equal_settings_give_equal_sound(run):
    first, again = (re.findall(r"base64,([^\"]+)", run()[0]) for _ in range(2))
    assert first == again


@pytest.mark.slow
def test_a_visitors_recording_is_enhanced_and_its_recipe_holds_it(run, client, tiny, tmp_path):
    path = tmp_path / "mine.wav"
    wave = 0.3 * np.sin(np.arange(16_000) / 9)
    path.write_bytes(Sound.of(wave, 16_000).file())
    html, *_ = run(recording=handle_file(path))
    assert "nothing can be measured" in html
    params = {"recording": Sound.of(wave, 16_000).text(), "steps": 1}
    answer = client.predict(
        Recipe("sgmse", "run", ModelRef(tiny), params, 7).json(), api_name="/sgmse_run"
    )
    assert answer["recipe"]["params"]["recording"] == params["recording"]
    name = answer["result"]["enhanced"]["sound"]
    head, _, data = answer["files"][name].partition(",")
    assert head == "data:audio/wav;base64"

    assert read(base64.b64decode(data)).rate == 8000


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"no sound", b"", b"RIFF broken", b"\x80\x04pickle"], ids=str)
def test_a_file_that_is_no_recording_is_refused(run, tmp_path: Path, content: bytes):
    path = tmp_path / "mine.wav"
    path.write_bytes(content)
    with pytest.raises(AppError) as refused:
        run(recording=handle_file(path))
    assert "Something failed" not in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 0},
        {"steps": 1e9},
        {"steps": None},
        {"noise_snr": float("nan")},
        {"reverb": -1},
        {"snr": float("inf")},
        {"renew_above": 2},
        {"noise_share": -1},
        {"clip": "no such"},
        {"noise": "no such"},
        {"sampler": "no such"},
        {"corrector": None},
        {"seed": -1},
        {"model": "../../etc/passwd"},
        {"model": "<script>alert(1)</script>"},
        {"model": "x" * 10_000},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_bad_input_is_refused_with_a_sentence(run, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        run(**changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert "<script" not in str(refused.value)


@pytest.mark.slow
def test_curves_have_a_line_for_every_way_and_two_level_ones(client, tiny):
    shared = ("clip", "noise", "noise_snr", "reverb", "snr", "renew_above", "noise_share", "seed")
    settings = {name: RUN[name] for name in shared}
    *plots, _, status, _ = client.predict(**settings, model=tiny, api_name="/sgmse_compare_panel")
    assert len(plots) == len(sgmse.DRAWN)
    for plot in plots[:2]:
        names = [line["name"] for line in json.loads(plot["plot"])["data"]]
        assert names == [*sgmse.LINES.values(), "Noisy", "Classical (LSA)"]
    assert "seed 7" in status


def test_golden_cases_run_in_the_page(client):
    table = client.predict(api_name="/sgmse_golden")
    assert table.count("✓") == 11
    assert "✗" not in table


@pytest.mark.browser
def test_a_visitor_hears_before_and_after_and_takes_the_link_along(
    new_visitor: NewVisitor, shot: Callable[[Page, str], Path]
):
    page = new_visitor(width=390).page
    page.set_default_timeout(120_000)
    page.goto("/sample?method=sgmse")
    page.locator("#sgmse-run").click()
    page.locator("#sgmse-run-status .done").wait_for()
    before, after = (page.get_by_role("button", name=name) for name in ("Noisy", "Enhanced"))
    before.press("Enter")
    expect(before).to_have_attribute("aria-pressed", "true")
    after.click()
    expect(before).to_have_attribute("aria-pressed", "false")
    expect(after).to_have_attribute("aria-pressed", "true")
    assert "method=sgmse" in page.url
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []
    shot(page, "narrow")


# ---------------------------------------------------------------------- where it breaks


def breaks(enhanced) -> None:
    """What the failure gallery says of it."""
    assert enhanced.enhanced.marks.si_sdr < enhanced.noisy.marks.si_sdr
