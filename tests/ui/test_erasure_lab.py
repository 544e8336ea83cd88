"""The panel of the erasure lab through the client, on the tiny random checkpoint."""

import csv
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from engine.core.recipe import ModelRef, Recipe
from engine.erasing.erasure_lab.algorithm import SHEET
from pages import erasure_lab
from tests.tiny import tiny_checkpoint

RUN = {
    "concept": "cat",
    "methods": ["word filter", "UCE"],
    "each": 2,
    "attacks": ["paraphrase", "closed form"],
    "anchor": "",
    "sweep": 0,
    "steps": 3,
    "guidance_scale": 2,
    "seed": 3,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.mark.slow
def test_a_comparison_shows_sheet_table_and_files(client: Client, tiny: str):
    sheet, table, _, files, _, status, told = client.predict(
        **RUN, model=tiny, api_name="/erasure_lab_run_panel"
    )
    assert sheet.count("<img") == 3 + 3 * len(SHEET)
    assert "nothing can be said" in table
    assert "word filter" in table
    listed = files["value"] if isinstance(files, dict) else files
    paths = {Path(path).name: Path(path) for path in listed}
    assert set(paths) == {"scores.csv", "pictures.csv", "comparison.json"}
    rows = list(csv.DictReader(paths["pictures.csv"].open()))
    assert {row["model"] for row in rows} == {"original", "word filter", "UCE"}
    assert "seed 3" in status
    assert "--concept cat" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"concept": "zebra"},
        {"concept": ""},
        {"methods": []},
        {"methods": None},
        {"each": 0},
        {"steps": 1e9},
        {"model": "/etc"},
        {"seed": -1},
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(client: Client, tiny: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        client.predict(**{**RUN, "model": tiny, **changed}, api_name="/erasure_lab_run_panel")
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


@pytest.mark.slow
def test_the_endpoint_takes_a_recipe(client: Client, tiny: str):
    params = {"concept": "cat", "methods": ["UCE"], "each": 1, "sweep": 0, "steps": 2}
    recipe = Recipe("erasure_lab", params=params, seed=3, model=ModelRef(tiny)).json()
    answer = client.predict(recipe, api_name="/erasure_lab_run")
    assert [one["name"] for one in answer["result"]["scores"]] == ["original", "UCE"]


def test_default_choices_exist():
    assert set(erasure_lab.CHOSEN) <= set(erasure_lab.methods())


# ---------------------------------------------------------------------- where it breaks


def breaks(comparison) -> None:
    """What the failure gallery says of it."""
    assert all(s.target.high - s.target.low > 0.75 for s in comparison.scores)
