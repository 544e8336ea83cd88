"""The panel of the NFE lab through the client, on the tiny random checkpoint."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from engine.core.recipe import ModelRef, Recipe
from engine.diffusion.adapters import MODULES
from engine.diffusion.solvers import SOLVERS
from engine.pictures import as_text
from pages import nfe_lab
from tests.tiny import tiny_checkpoint

# Five divides the thousand timesteps, so ours and those of diffusers fall on the same ones.
RUN = {
    "prompt": "a cat",
    "nfe": 5,
    "guidance_scale": 2,
    "solvers": ["ddim", "diffusers:DDIM"],
    "negative": "",
    "grid": "trailing",
    "eta": 0,
    "curve": False,
    "seed": 7,
}
REWIND = {
    "prompt": "a cat",
    "edit": "a dog",
    "guidance_scale": 2,
    "negative": "",
    "steps": 3,
    "depth": 0.8,
    "picture": None,
    "seed": 7,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def run(client: Client, tiny: str):
    """`run(nfe=4)`: the outputs of the panel's Run with these settings changed."""
    return lambda **changed: client.predict(
        **{**RUN, "model": tiny, **changed}, api_name="/nfe_lab_run_panel"
    )


@pytest.fixture
def rewind(client: Client, tiny: str):
    return lambda **changed: client.predict(
        **{**REWIND, "model": tiny, **changed}, api_name="/nfe_lab_rewind_panel"
    )


def test_solvers_of_the_page_are_those_of_the_engine():
    for name, title in nfe_lab.SOLVERS.items():
        theirs = name.removeprefix("diffusers:")
        if theirs != name:
            assert theirs in MODULES
        else:
            assert SOLVERS[name].title == title


def test_settings_lead_back_to_the_controls():
    values = {**RUN, "curve": True}
    params = nfe_lab.run_params({k: v for k, v in values.items() if k != "seed"})
    assert nfe_lab.run_values(params) == {k: v for k, v in values.items() if k != "seed"}


@pytest.mark.slow
def test_run_shows_each_solver_its_cost_and_what_is_equal(run):
    pictures, _, _, _, status, told = run()
    assert pictures.count("5 NFE ·") == 2
    assert "draw the same picture" in pictures
    assert "seed 7" in status
    assert "python -m engine run nfe-lab" in told


@pytest.mark.slow
def test_equal_settings_give_equal_pixels(run):
    saved = [re.findall(r'href="(data:image/png[^"]+)"', run()[0]) for _ in range(2)]
    assert len(saved[0]) == 2
    assert saved[0] == saved[1]


@pytest.mark.slow
def test_curve_and_plane_are_drawn(run):
    _, errors, plane, *_ = run(curve=True, solvers=["ddim"], nfe=2)
    curve = json.loads(errors["plot"])["data"][0]
    assert curve["x"] == nfe_lab.CURVE
    assert all(error > 0 for error in curve["y"])
    assert [line["name"] for line in json.loads(plane["plot"])["data"]] == ["DDIM", "Reference"]


@pytest.mark.parametrize(
    "changed",
    [
        {"nfe": 0},
        {"nfe": 1e9},
        {"nfe": float("nan")},
        {"nfe": None},
        {"guidance_scale": float("inf")},
        {"guidance_scale": -1},
        {"solvers": []},
        {"solvers": None},
        {"solvers": ["ddim", "heun", "dpmpp_2m", "unipc2", "ancestral"]},
        {"solvers": ["no such"]},
        {"grid": "no such"},
        {"eta": 2},
        {"prompt": "x" * 10_000},
        {"seed": -1},
        {"seed": None},
        {"model": ""},
        {"model": "/etc"},
        {"model": "../../etc/passwd"},
        {"model": "<script>alert(1)</script>"},
        {"model": "x" * 10_000},
        {"model": "world+deadbeef"},
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
def test_empty_prompt_draws_without_guidance_of_words(run):
    assert run(prompt="")[3]
    assert run(prompt=None)[3]


@pytest.mark.slow
def test_rewind_draws_both_ways_and_the_edit(rewind):
    html, _, status, _ = rewind()
    for words in ("DDIM inversion", "Reversible Heun", "Back as", "a dog", "Original, edited"):
        assert words in html
    assert "seed 7" in status


@pytest.mark.slow
def test_rewind_takes_a_picture_and_its_recipe_holds_it(rewind, client, tiny, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    html, *_ = rewind(picture=handle_file(tmp_path / "mine.png"), edit="")
    assert "Original" in html
    params = {"prompt": "a cat", "steps": 2, "picture": as_text(pixels)}
    recipe = Recipe("nfe_lab", "rewind", ModelRef(tiny), params, 7)
    answer = client.predict(recipe.json(), api_name="/nfe_lab_rewind")
    assert answer["recipe"]["params"]["picture"] == as_text(pixels)
    assert {way["name"] for way in answer["result"]["ways"]} == {"ddim", "reversible_heun"}


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n broken", b""], ids=str)
def test_a_file_that_is_no_picture_is_refused(rewind, tmp_path: Path, content: bytes):
    path = tmp_path / "mine.png"
    path.write_bytes(content)
    with pytest.raises(AppError, match="picture"):
        rewind(picture=handle_file(path))


@pytest.mark.slow
def test_a_picture_of_169_megapixels_is_refused(rewind, tmp_path: Path):
    path = tmp_path / "bomb.png"
    Image.new("1", (13_000, 13_000)).save(path)
    with pytest.raises(AppError, match="pixels"):
        rewind(picture=handle_file(path))


@pytest.mark.parametrize(
    "changed",
    [{"steps": 0}, {"steps": 1e9}, {"depth": 0}, {"depth": float("nan")}, {"edit": "x" * 10_000}],
    ids=lambda changed: str(changed)[:40],
)
def test_rewind_refuses_bad_input_with_a_sentence(rewind, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        rewind(**changed)
    assert "Something failed" not in str(refused.value)


@pytest.mark.slow
def test_golden_cases_run_in_the_page(client):
    table = client.predict(api_name="/nfe_lab_golden")
    assert table.count("✓") == 24
    assert "✗" not in table


# ---------------------------------------------------------------------- where it breaks


def breaks(lab) -> None:
    """What the failure gallery says of it."""
    found = {film.solver: film.error for film in lab.films}
    assert found["unipc2"] > found["ddim"] > found["dpmpp_2m"]
    assert found["heun"] > 1
