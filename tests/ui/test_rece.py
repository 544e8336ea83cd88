"""The panel of RECE through the client, on the tiny random checkpoint."""

import json
import re
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from engine.core.recipe import ModelRef, Recipe
from pages import _concepts as concepts
from pages import _taking as taking
from pages import rece
from tests.tiny import tiny_checkpoint

EDIT = {
    "concepts": "cat",
    "guides": "animal",
    "retain": ["dog", "car"],
    "epochs": 1,
    "reg": 0.1,
    "ridge": 0.5,
    "erase_scale": 1,
    "rule": "classic",
    "technique": "replace",
    "regulariser": "zero",
    "seed": 3,
}
VIEW = {"prompts": "a cat; a dog", "steps": 4, "guidance_scale": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def call(client: Client, tiny: str):
    """`call("bake", strength=0.5)`: the outputs of an action with these settings changed."""
    settings = {
        "run": EDIT | VIEW | {"strength": 1},
        "comeback": EDIT | VIEW,
        "bake": EDIT | {"strength": 1},
        "export": EDIT | {"strength": 1, "form": "lora", "rank": 0},
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], "model": tiny, **changed}
        return client.predict(**values, api_name=f"/rece_{action}_panel")

    return one


def hashes(pictures: str) -> list[str]:
    """Digests of the original, the edited and the undone pictures; of the weights, twice."""
    return re.findall(r"<code>([0-9a-f]{12})</code>", pictures)


@pytest.mark.slow
def test_a_run_shows_the_original_the_edited_and_the_undone(call):
    pictures, numbers, curve, _, status, told = call("run")
    original, edited, undone, before, after = hashes(pictures)
    assert original == undone != edited
    assert before == after
    assert pictures.count("<img") == 3 + 2 * 3 + 4
    assert "every pixel as before" in pictures
    assert "M − I at strength 1" in numbers
    assert "held out: change" in numbers
    assert "RECE epoch 1" in json.dumps(curve)
    assert "seed 3" in status
    assert "--concepts cat" in told


@pytest.mark.slow
def test_strength_0_is_the_original_bit_for_bit(call):
    original, edited, undone, *_ = hashes(call("run", strength=0)[0])
    assert original == edited == undone


@pytest.mark.slow
def test_a_strength_between_changes_less_than_all_of_it(call):
    found = {}
    for strength in (0.1, 1):
        pictures = call("run", strength=strength)[0]
        found[strength] = float(re.findall(r"mean ([\d.]+) of 255", pictures)[0])
    assert 0 < found[0.1] < found[1]


@pytest.mark.slow
def test_the_comeback_shows_each_stage(call):
    (attacked, *_) = call("comeback", epochs=2)
    for stage in ("UCE", "RECE epoch 1", "RECE epoch 2"):
        assert stage in attacked
    assert attacked.count("<img") == 9


@pytest.mark.slow
def test_a_baked_edit_returns_and_names_its_size(call):
    told = call("bake")[0]
    before, after, undone = hashes(told)
    assert before == undone != after
    assert "every bit as before" in told
    assert "erase cat" in told


@pytest.mark.slow
@pytest.mark.parametrize("form", rece.FORMS.values())
def test_every_file_is_written_and_read_back(call, form: str):
    told, file, *_ = call("export", form=form)
    assert float(re.findall(r"to ([\d.e+-]+) of its size", told)[0]) < 1e-6
    path = Path(file["value"] if isinstance(file, dict) else file)
    assert path.suffix == ".safetensors"
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"concepts": ""}),
        ("run", {"concepts": " , "}),
        ("run", {"concepts": "cat " * 40}),
        ("run", {"concepts": "x" * 10_000}),
        ("run", {"concepts": None}),
        ("run", {"guides": "a,b"}),
        ("run", {"guides": None}),
        ("run", {"retain": [3]}),
        ("run", {"epochs": -1}),
        ("run", {"epochs": 1e9}),
        ("run", {"epochs": "many"}),
        ("run", {"reg": 0}),
        ("run", {"reg": float("nan")}),
        ("run", {"ridge": None}),
        ("run", {"ridge": float("inf")}),
        ("run", {"strength": -0.5}),
        ("run", {"strength": None}),
        ("run", {"prompts": None}),
        ("run", {"prompts": "a;" * 100}),
        ("run", {"rule": "newest"}),
        ("run", {"technique": ["tensor"]}),
        ("run", {"model": "/etc"}),
        ("run", {"seed": -1}),
        ("comeback", {"technique": "tensor"}),
        ("bake", {"strength": 7}),
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


@pytest.mark.slow
def test_markup_in_texts_is_escaped(call):
    hostile = "<img src=x onerror=alert(1)>"
    pictures = call("run", prompts=hostile, concepts="<img src=x>")[0]
    assert "<img src=x" not in pictures


@pytest.mark.slow
def test_two_visitors_with_other_edits_do_not_meet(client: Client, tiny: str):
    """Interleaved runs with different concepts give what each gives alone."""
    wanted = [EDIT | VIEW | {"strength": 1, "model": tiny, "concepts": c} for c in ("cat", "car")]
    jobs = [client.submit(**values, api_name="/rece_run_panel") for values in wanted * 2]
    found = [hashes(job.result()[0])[1] for job in jobs]
    assert found[:2] == found[2:]
    assert found[0] != found[1]


def test_the_endpoint_takes_a_recipe(client: Client, tiny: str):
    params = {"concepts": ["cat"], "guides": ["animal"], "prompts": ["a cat"], "steps": 2}
    recipe = Recipe("rece", params=params, seed=3, model=ModelRef(tiny)).json()
    answer = client.predict(recipe, api_name="/rece_run")
    digests = answer["result"]["sha256"]
    assert digests["original"] == digests["undone"]
    assert answer["result"]["undo"]["equal_bits"] == 1


def test_guides_prompts_and_kept_words_suit_the_concept():
    assert concepts.guides_of("cat")[0] == ("animal: its category", "animal")
    assert ("dog: a neighbour", "dog") in concepts.guides_of("cat")
    assert concepts.guides_of("neon style")[0] == ("plain style: a neighbour", "plain style")
    assert concepts.guides_of(rece.CONCEPT)[0][1] == rece.GUIDE
    assert concepts.guides_of("zebra")[-1] == concepts.EMPTY_GUIDE
    assert concepts.EMPTY_GUIDE[0].count("damages") == 1

    prompts = concepts.prompts_for("cat", rece.PROMPTS)
    assert prompts == "a cat; a cat in sketch style; a dog; a car"
    assert concepts.prompts_for("car, bus", prompts).split("; ")[:2] == ["a car", "a bus"]
    assert concepts.prompts_for("sketch style", prompts).startswith("a penguin in sketch style")
    for text in ("cat", "zebra", "cat, zebra"):
        assert concepts.prompts_for(text, "my own cat; a dog") == gr.skip()
    assert concepts.prompts_for("neon", prompts).startswith("a penguin in neon style")

    assert concepts.kept_for("cat", ["dog", "cat", "car"]) == ["dog", "car"]
    assert concepts.kept_for("automobile", ["dog", "car"]) == ["dog"]
    assert concepts.kept_for("rose", ["dog", "car"]) == gr.skip()


def test_a_preset_sets_every_field_it_names():
    for preset in rece.PRESETS:
        assert len(rece.tuned(preset)) == len(rece.TUNED)


def test_a_baked_model_lands_on_the_shelf_once():
    baked = {"name": "erase cat", "source": "world", "revision": None, "edits": ["ab" * 32]}
    kept, used = taking.on_shelf({}, baked)
    assert used is None
    assert taking.on_shelf(kept, baked) == (kept, None)
    assert kept["models"][0]["edits"] == ["ab" * 32]


@pytest.mark.browser
def test_a_cat_goes_comes_back_goes_again_and_is_restored(new_visitor):
    page = new_visitor().page
    page.goto("/erase?method=rece", wait_until="domcontentloaded")
    page.get_by_role("button", name="cat", exact=True).click()
    expect(page.get_by_label("Prompts to watch").first).to_have_value(re.compile("^a cat; "))
    expect(page.locator("#rece-guide input")).to_have_value("animal: its category")

    def told(action: str, place: str) -> list[str]:
        page.locator(f"#rece-{action}").click()
        page.locator(f"#rece-{action}-status .status.done").wait_for(timeout=60_000)
        return page.locator(f"{place} ol li span").all_inner_texts()

    rows = [told("run", "#rece-pictures")[at] for at in (0, 4, 8)]
    assert [row.startswith("cat ") for row in rows] == [True, False, True]
    page.get_by_role("tab", name="It comes back").click()
    stages = told("comeback", "#rece-attacked")
    old_attack = [stages[at].startswith("cat ") for at in (1, 4)]
    assert old_attack == [True, False]


# ---------------------------------------------------------------------- where it breaks


def breaks(erasure) -> None:
    """What the failure gallery says of it."""
    before, after = erasure.verdicts["original"], erasure.verdicts["edited"]
    assert "house" in before[2]
    assert "rose" in before[3]
    assert "house" not in after[2]
    assert "rose" not in after[3]
