"""Every panel's recipe in all its forms: the same controls again, and the same result."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gradio as gr
import pytest
from gradio.components.base import Component
from gradio_client import Client
from PIL import Image

from engine.__main__ import main
from engine.core.catalog import Entry, announced, discover
from engine.core.job import Done, Event, Job
from engine.core.recipe import ModelRef, Recipe
from pages._actions import Action
from pages._endpoints import endpoint_of
from pages._frame import Frame
from pages._lessons import lesson_of

CATALOG = discover()
METHODS = [pytest.param(entry, id=entry.slug) for entry in CATALOG.values()]
SERVED = [pytest.param(entry, id=entry.slug) for entry in announced(CATALOG).values()]


# ---------------------------------------------------------------------- the state of a panel


def moved(control: Component) -> object:
    """Another value of a control, where it offers one."""
    if isinstance(control, gr.Slider):
        return control.minimum if control.value != control.minimum else control.maximum
    if isinstance(control, gr.Checkbox):
        return not control.value
    if isinstance(control, gr.Radio | gr.Dropdown) and isinstance(control.value, str):
        return control.choices[-1][1] if control.choices else control.value
    return control.value


def restored(frame: Frame, action: Action, query: str) -> dict[str, object]:
    """What the controls of an action hold after a link is opened."""
    updates = frame.restoring.from_query(query)
    new = dict(zip(map(id, frame.restoring.slots()), updates, strict=False))
    return {
        name: control.value if (found := new[id(control)]) == gr.skip() else found["value"]
        for name, control in action.controls.items()
    }


WITHOUT_MODEL = [
    pytest.param(entry, action.name, id=f"{entry.slug}-{action.name}")
    for entry in CATALOG.values()
    for action in entry.card.actions
    if not action.on_model
]


def test_there_are_actions_without_a_model():
    assert len(WITHOUT_MODEL) >= 5


@pytest.mark.parametrize(("entry", "action"), WITHOUT_MODEL)
def test_an_older_recipe_that_names_a_model_opens_where_none_is_used(
    entry: Entry, action: str, frames: Mapping[str, Frame], tmp_path: Path
):
    frame, recipe = frames[entry.slug], Recipe(entry.slug, action, ModelRef("world"), seed=3)
    file = tmp_path / "recipe.json"
    file.write_text(recipe.json())
    count = len(frame.restoring.slots())
    if action not in frame.actions:
        pytest.skip("This action has no controls of its own.")
    for lines in (frame.restoring.from_file(str(file)), frame.restoring.from_query(recipe.query())):
        told = dict(zip(frame.actions, lines[count:], strict=True))[action]
        assert "Restored from the" in told
        assert "none is used here" in told
        assert "Left as it was" not in told


def test_the_endpoint_leaves_out_a_model_that_is_not_used():
    asked = []

    def runner(job: Job) -> Iterator[Event]:
        asked.append(job.params)
        yield Done("drawn")

    old = Recipe("score_sde", "sample", ModelRef("score-vp"), {"nfe": 10}, 3)
    list(endpoint_of(CATALOG["score_sde"], "sample", runner)(old.json()))
    assert asked == [{"nfe": 10}]


def test_what_was_restored_is_said_below_the_button_to_press(frames: Mapping[str, Frame]):
    frame = frames["nfe_lab"]
    lines = frame.restoring.from_query("method=nfe-lab&action=rewind&steps=9&seed=3")[
        len(frame.restoring.slots()) :
    ]
    told = dict(zip(frame.actions, lines, strict=True))
    assert "Restored from the link" in told.pop("rewind")
    assert all(line == gr.skip() for line in told.values())


@pytest.mark.parametrize("query", ["method=nfe-lab", "method=nfe-lab&action=rewind&lesson=1"])
def test_a_link_that_only_names_a_panel_restores_nothing(frames: Mapping[str, Frame], query: str):
    updates = frames["nfe_lab"].restoring.from_query(query)
    assert all(update == gr.skip() for update in updates)


@pytest.mark.parametrize("entry", METHODS)
@pytest.mark.parametrize("change", [lambda control: control.value, moved], ids=["first", "moved"])
def test_a_link_brings_every_control_back(frames: Mapping[str, Frame], entry: Entry, change):
    frame = frames[entry.slug]
    for action in frame.actions.values():
        if any(isinstance(control, gr.File) for control in action.controls.values()):
            continue  # no link carries a file
        values = {name: change(control) for name, control in action.controls.items()}
        recipe = action.recipe({**values, "seed": 11})
        again = restored(frame, action, recipe.query())
        assert action.recipe(again) == recipe, action.name


@pytest.mark.parametrize("entry", METHODS)
def test_the_settings_of_every_lesson_reach_the_controls(frames: Mapping[str, Frame], entry: Entry):
    frame = frames[entry.slug]
    for task in lesson_of(entry).tasks:
        action = frame.actions[task.action]
        query = Recipe(entry.slug, task.action, params=task.params, seed=task.seed).query()
        recipe = action.recipe(restored(frame, action, query))
        told = {name: recipe.params[name] for name in task.params}
        assert json.loads(json.dumps(told)) == json.loads(json.dumps(dict(task.params)))


# ---------------------------------------------------------------------- the result of a run


def steady(value: object) -> object:
    """A result without the fields that tell how long it took or whether something was kept."""
    if isinstance(value, dict):
        told = {name: held for name, held in value.items() if not name.startswith("was_")}
        return {name: steady(held) for name, held in told.items() if "seconds" not in name}
    return [steady(held) for held in value] if isinstance(value, list) else value


def made(arguments: Sequence[str], folder: Path) -> tuple[object, dict[str, bytes]]:
    """The plain values and the pictures that a command line writes into the folder."""
    assert main(["run", *arguments, "--out", str(folder)]) == 0
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return steady(json.loads(files["result.json"])), pictures(files)


def pictures(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".png")}


@pytest.mark.slow
@pytest.mark.parametrize("entry", SERVED)
def test_every_form_of_a_recipe_gives_the_same_pixels(entry: Entry, client: Client, tmp_path: Path):
    action = entry.card.actions[0]
    models = entry.models(action.name)
    model = ModelRef(models[0]) if models else None
    recipe = Recipe(entry.slug, action.name, model, action.quick, seed=7).here()
    assert Recipe.from_query(recipe.query()) == recipe
    values, drawn = made(recipe.arguments()[1:], tmp_path / "typed")

    (tmp_path / "recipe.json").write_text(recipe.json())
    again = made(["--recipe", str(tmp_path / "recipe.json")], tmp_path / "json")
    assert again == (values, drawn)

    blank = io.BytesIO()
    Image.new("RGB", (8, 8)).save(blank, "PNG")
    carrier = next(iter(drawn.values()), recipe.stamp(blank.getvalue()))
    (tmp_path / "picture.png").write_bytes(carrier)
    again = made(["--recipe", str(tmp_path / "picture.png")], tmp_path / "png")
    assert again == (values, drawn)

    given = client.predict(recipe.json(), api_name=recipe.endpoint)
    files = {name: base64.b64decode(url.partition(",")[2]) for name, url in given["files"].items()}
    assert (steady(given["result"]), pictures(files)) == (values, drawn)
