"""The panel of ReVersion through the client, on the tiny random checkpoint."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from engine.core.recipe import ModelRef, Recipe
from engine.erasing.reversion.steering import importance
from engine.erasing.reversion.words import Word, write_file
from pages import _taking as taking
from pages import reversion as page
from tests.tiny import TEXT_WIDTH, tiny_checkpoint

LEARN = {
    "relation": "on top of",
    "pictures": [],
    "descriptions": "",
    "alpha": 0.5,
    "steps": 20,
    "steer_weight": 0.01,
    "count": 2,
    "batch": 1,
    "learning_rate": 0.01,
    "tau": 0.07,
    "positives": 2,
    "initialiser": "and",
    "placeholder": "<R>",
    "fit": "stretch",
    "prompts": "a cat {} a dog",
    "looks": 1,
    "sampler_steps": 4,
    "guidance_scale": 2,
    "seed": 3,
}
WORD = Word("<R>", torch.linspace(-1, 1, TEXT_WIDTH)).text()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def call(client: Client, tiny: str):
    """`call("use", word=...)`: the outputs of an action with these settings changed."""
    settings = {
        "run": LEARN,
        "use": {"word": WORD, "prompts": "a cat {} a dog", "relation": "on", "seed": 3},
        "measure": {"word": WORD, "relation": "inside", "count": 4, "seed": 3},
        "bake": {"word": WORD, "seed": 3},
        "export": {"word": WORD, "seed": 3},
        "read": {"file": None, "seed": 3},
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], "model": tiny, **changed}
        return client.predict(**values, api_name=f"/reversion_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_shows_losses_and_words_and_hands_the_word_on(call):
    looks, exemplars, losses, near, word, _, status, told = call("run")
    assert looks.count('data-frames="2"') == 1
    assert "a cat &lt;R&gt; a dog" in looks
    assert exemplars.count("<img") == 2
    assert "steering" in json.dumps(losses)
    assert near.count("<tr>") >= 3
    assert Word.parse(word).token == "<R>"
    assert "seed 3" in status
    assert "--relation" in told


@pytest.mark.slow
def test_pictures_of_ones_own_need_a_line_each(call, tmp_path: Path):
    path = tmp_path / "mine.png"
    Image.new("RGB", (80, 50), (250, 10, 10)).save(path)
    own = [{"image": handle_file(str(path)), "caption": None}] * 2
    _, exemplars, *_ = call("run", pictures=own, descriptions="cat {} dog\ncat {} car")
    assert "cat &lt;R&gt; car" in exemplars
    with pytest.raises(AppError, match="2 pictures and 1 descriptions"):
        call("run", pictures=own, descriptions="cat {} dog")


@pytest.mark.slow
def test_the_word_is_used_on_new_objects(call):
    drawn, *_ = call("use")
    assert drawn.count("<img") == 3
    assert "in words: “on”" in drawn


@pytest.mark.slow
def test_the_bars_stand_beside_initialiser_and_words(call):
    bars, *_ = call("measure")
    assert bars.count("<meter") == 9
    assert "0 of 4" in bars or "of 4" in bars


@pytest.mark.slow
def test_a_baked_word_returns_and_names_its_size(call):
    told = call("bake")[0]
    before, after, undone = re.findall(r"<code>([0-9a-f]{12})</code>", told)
    assert before == undone != after
    assert "1 row added" in told


@pytest.mark.slow
def test_a_file_goes_out_and_comes_back(call, tmp_path: Path):
    told, file, *_ = call("export")
    assert "100% of the numbers" in told
    path = Path(file["value"] if isinstance(file, dict) else file)
    said, word, *_ = call("read", file=handle_file(str(path)))
    assert word == WORD
    assert "&lt;R&gt; stands in the field" in said


def test_a_pickled_file_is_refused(call, tmp_path: Path):
    path = tmp_path / "learned_embeds.safetensors"
    torch.save({"<cat-on>": torch.ones(TEXT_WIDTH)}, path)
    with pytest.raises(AppError, match="pickled file"):
        call("read", file=handle_file(str(path)))


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"relation": "beside"}),
        ("run", {"steps": -1}),
        ("run", {"alpha": 3}),
        ("run", {"learning_rate": None}),
        ("run", {"learning_rate": float("nan")}),
        ("run", {"tau": 0}),
        ("run", {"initialiser": "wonderful"}),
        ("run", {"placeholder": "two words"}),
        ("run", {"positives": 8}),
        ("run", {"model": "/etc"}),
        ("run", {"prompts": ""}),
        ("use", {"word": ""}),
        ("use", {"word": "nowhere"}),
        ("use", {"word": Word("<R>", torch.ones(3)).text()}),
        ("use", {"prompts": ";"}),
        ("measure", {"count": 1000}),
        ("measure", {"relation": None}),
        ("bake", {"word": WORD + ";" + WORD}),
        ("read", {}),
        ("run", {"seed": -1}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert "Cannot find a function" not in str(refused.value)


def test_a_file_that_holds_no_word_is_refused(call, tmp_path: Path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(b"not a file")
    with pytest.raises(AppError, match="no learnt word"):
        call("read", file=handle_file(str(path)))


@pytest.mark.slow
def test_markup_in_texts_is_escaped(call):
    drawn, *_ = call("use", prompts="<img src=x onerror=alert(1)> {}")
    assert "<img src=x" not in drawn


def test_the_endpoint_takes_a_recipe(client: Client, tiny: str):
    recipe = Recipe("reversion", "bake", params={"word": WORD}, seed=3, model=ModelRef(tiny))
    answer = client.predict(recipe.json(), api_name="/reversion_bake")
    assert answer["result"]["undo"]["equal_bits"] == 1


def test_the_drawn_density_is_that_of_the_engine():
    figure = json.loads(page.density_of(0.5).plot)
    shown = np.array(figure["data"][0]["y"][:-1])
    assert np.allclose(shown / shown.sum(), importance(100, 0.5), atol=1e-12)


def test_settings_lead_back_to_controls():
    found = page.values({"descriptions": ["a", "b"], "prompts": ["c", "d"]})
    assert found == {"descriptions": "a\nb", "prompts": "c; d"}


def test_a_file_travels_whole_inside_the_recipe(tmp_path: Path):
    path = tmp_path / "word.safetensors"
    path.write_bytes(write_file([Word.parse(WORD)]).data)
    assert len(page.file_params({"file": str(path)})["file"]) > 100


def test_a_model_with_the_word_lands_on_the_shelf_once():
    baked = {"name": "<R> added", "source": "world", "revision": None, "edits": ["ab" * 32]}
    kept, used = taking.on_shelf({}, baked)
    assert used is None
    assert taking.on_shelf(kept, baked) == (kept, None)


# ---------------------------------------------------------------------- where it breaks


def breaks(learnt) -> None:
    """What the failure gallery says of it."""
    cat, star = learnt.looks[-1].verdicts
    assert "on top of" in cat
    assert "cat" not in cat
    assert "star" not in star
