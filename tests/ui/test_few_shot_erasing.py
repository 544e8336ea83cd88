"""The panel of few-shot erasing through the client, on the tiny random checkpoint."""

import json
import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from engine.core.errors import BadInput
from engine.core.recipe import ModelRef, Recipe
from engine.pictures import from_text
from pages import _fields as fields
from pages import few_shot_erasing as page
from tests.tiny import tiny_checkpoint

EDIT = {
    "concept": "cat",
    "source": "drawn",
    "pictures": [],
    "epochs": 2,
    "learning_rate": -3,
    "parameters": "mlp-final-attn",
    "count": 2,
    "batch": 2,
    "kind": "object",
    "direction": "ascent",
    "fit": "stretch",
    "flip": True,
    "seed": 3,
}
VIEW = {"prompts": "a cat; a dog", "looks": 2, "steps": 4, "guidance_scale": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def call(client: Client, tiny: str):
    """`call("bake", epoch=1)`: the outputs of an action with these settings changed."""
    settings = {
        "run": EDIT | VIEW,
        "curve": EDIT | {"compared": [], "pictures_each": 2, "points": 1},
        "bake": EDIT | {"epoch": -1},
        "export": EDIT | {"epoch": -1, "form": "encoder", "rank": 4},
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], "model": tiny, **changed}
        return client.predict(**values, api_name=f"/few_shot_erasing_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_shows_every_epoch_and_proves_the_undo(call):
    epochs, numbers, errors, _, status, told = call("run")
    before, after, undone, first, again = re.findall(r"<code>([0-9a-f]{12})</code>", epochs)
    assert before == undone != after
    assert first == again
    assert epochs.count('data-frames="3"') == 2
    assert "Learnt from" in numbers
    assert "layer 2" in numbers
    assert numbers.count("<h4>") == 1 + 4
    assert "mean of an epoch" in json.dumps(errors)
    assert "seed 3" in status
    assert "--learning-rate 0.001" in told


@pytest.mark.slow
def test_the_curve_has_a_point_before_and_after(call):
    erased, kept, became, *_ = call("curve", compared=["descent"])
    for figure in (erased, kept):
        assert "descent" in json.dumps(figure)
    assert "what prompts with the word show" in became


@pytest.mark.slow
def test_a_baked_edit_returns_and_names_its_size(call):
    told = call("bake")[0]
    before, after, undone = re.findall(r"<code>([0-9a-f]{12})</code>", told)
    assert before == undone != after
    assert "forget cat" in told


@pytest.mark.slow
@pytest.mark.parametrize("form", page.FORMS.values())
def test_every_file_is_written_and_read_back(call, form: str):
    told, file, *_ = call("export", form=form)
    if form == "lora":
        assert 0 < float(re.findall(r"([\d.]+)% of the edit is missing", told)[0]) < 50  # rank 4
    else:
        assert "the whole edit, to 0.0e+00 of its size" in told
    path = Path(file["value"] if isinstance(file, dict) else file)
    assert path.suffix == ".safetensors"


@pytest.mark.slow
def test_pictures_of_ones_own_are_learnt_from(call, tmp_path: Path):
    path = tmp_path / "mine.png"
    Image.new("RGB", (80, 50), (250, 10, 10)).save(path)
    own = [{"image": handle_file(str(path)), "caption": None}]
    _, numbers, *_ = call("run", pictures=own, concept="my thing")
    assert numbers.count("Learnt from, state 1 of 1") == 1


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"concept": ""}),
        ("run", {"concept": "x" * 10_000}),
        ("run", {"concept": "zebra"}),
        ("run", {"epochs": -1}),
        ("run", {"epochs": 1e9}),
        ("run", {"learning_rate": float("nan")}),
        ("run", {"learning_rate": 5}),
        ("run", {"learning_rate": None}),
        ("run", {"beta1": 2}),
        ("run", {"weight_decay": None}),
        ("run", {"parameters": "everything"}),
        ("run", {"source": "uploaded"}),
        ("run", {"prompts": "a;" * 100}),
        ("run", {"prompts": ""}),
        ("run", {"model": "/etc"}),
        ("run", {"seed": -1}),
        ("curve", {"pictures_each": 0}),
        ("curve", {"compared": ["magic"]}),
        ("bake", {"epoch": 9}),
        ("export", {"form": "pickle"}),
        ("export", {"rank": -3}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert "Cannot find a function" not in str(refused.value)


def test_a_file_that_is_no_picture_is_refused(call, tmp_path: Path):
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    own = [{"image": handle_file(str(path)), "caption": None}]
    with pytest.raises(AppError, match="picture"):
        call("run", pictures=own)


@pytest.mark.slow
def test_markup_in_texts_is_escaped(call):
    epochs = call("run", prompts="<img src=x onerror=alert(1)>")[0]
    assert "<img src=x" not in epochs


@pytest.mark.slow
def test_the_endpoint_takes_a_recipe(client: Client, tiny: str):
    params = {"concept": "cat", "count": 2, "epochs": 1, "prompts": ["a cat"], "steps": 2}
    recipe = Recipe("few_shot_erasing", params=params, seed=3, model=ModelRef(tiny)).json()
    answer = client.predict(recipe, api_name="/few_shot_erasing_run")
    assert answer["result"]["undo"]["equal_bits"] == 1
    assert answer["result"]["same_pixels"] is True


# ---------------------------------------------------------------------- fields


def test_settings_and_controls_lead_to_one_another():
    given = page.params(EDIT | {"learning_rate": -2.5})
    assert given["learning_rate"] == pytest.approx(10**-2.5, rel=1e-3)
    again = page.values(given | {"prompts": ["a", "b"]})["learning_rate"]
    assert again == pytest.approx(-2.5, abs=1e-4)
    assert page.params(EDIT | {"learning_rate": again}) == given
    assert page.values({"prompts": ["a", "b"]})["prompts"] == "a; b"


def test_the_prompts_follow_the_concept_until_they_are_ones_own():
    assert page.prompts_for("cactus", page._prompts("penguin")) == page._prompts("cactus")
    assert page.prompts_for("cactus", "my own; prompts") == gr.skip()


def test_pictures_travel_as_texts_turned_as_the_camera_says(tmp_path: Path):
    upright = np.zeros((20, 10, 3), np.uint8)
    upright[:5] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif)
    (text,) = fields.pictures_in([(str(path), None)], 8)
    assert np.array_equal(from_text(text), upright)


@pytest.mark.slow
def test_many_large_pictures_are_shrunk_until_a_recipe_holds_them(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    texts = fields.pictures_in([(str(path), None)] * 8, 8)
    assert sum(map(len, texts)) < fields.LARGEST_UPLOADS
    with pytest.raises(BadInput, match="8 are allowed"):
        fields.pictures_in([(str(path), None)] * 9, 8)


# ---------------------------------------------------------------------- where it breaks


def breaks(unlearning) -> None:
    """What the failure gallery says of it."""
    first, last = unlearning.looks[0].verdicts, unlearning.looks[-1].verdicts
    for number, thing in ((0, "penguin"), (2, "frog"), (3, "house")):
        assert thing in first[number]
        assert thing not in last[number]
