"""The panel of the forgetting lab through the client."""

import json

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from engine.unlearning.forgetting_lab.results import Laboratory
from tests.ui.browser import need_panel

CONTROLS = {
    "what": "bag",
    "forget": "class",
    "cluster": 0,
    "count": 100,
    "index_table": "",
    "pictures": "",
    "retain": "",
    "test": "",
    "unit": "sample",
    "alpha": 0,
    "seed": 0,
    "model": "fashion",
}
RUN = {"methods": ["SSD"], "relearn_samples": 16, "relearn_steps": 2}
WAY = {"way": "UNSIR"}
PAIR = {"first": "original", "second": "SSD", "stack": False, "pictures_shown": 4}


def breaks(found: Laboratory) -> None:
    """The retrained network still knows the pictures that it never saw."""
    original, retrained = found.rows[:2]
    assert retrained.name == "retrained"
    assert retrained.card.forget_train.rate > original.card.forget_train.rate - 0.15


@pytest.fixture
def call(request: pytest.FixtureRequest):
    """`call("pair", stack=True)`: the outputs of an action with these controls changed."""
    need_panel("forgetting_lab")
    client: Client = request.getfixturevalue("client")

    def one(action: str, **changed: object) -> tuple:
        own = {"run": RUN, "pair": PAIR, "bake": WAY, "export": WAY | {"form": "patch"}}
        values = CONTROLS | own[action] | changed
        return client.predict(**values, api_name=f"/forgetting_lab_{action}_panel")

    return one


@pytest.mark.slow
def test_a_sheet_holds_every_way_and_its_files(call):
    plane, sheet, back, layers, files, number, *_ = call("run")
    for name in ("original", "retrained", "SSD"):
        assert name in sheet
    assert "exact, bit for bit" in sheet
    assert "SSD" in json.dumps(plane)
    assert "steps of relearning" in json.dumps(back)
    assert "CKA" in json.dumps(layers)
    assert len(files["value"] if isinstance(files, dict) else files) == 4
    assert "known again" in number


@pytest.mark.slow
def test_two_networks_are_shown_by_picture_class_and_layer(call):
    pictures, told, number, *_ = call("pair")
    assert pictures.count("<img") == 8
    assert "By class" in told
    assert "By layer" in told
    assert "equal answers" in number


@pytest.mark.slow
def test_the_edit_of_any_way_is_taken_along(call):
    assert "every bit as before" in call("bake")[0]
    assert "equal bit for bit" in call("export", way="SSD", form="checkpoint")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"methods": ["magic"]}),
        ("run", {"relearn_steps": -1}),
        ("run", {"what": "unicorn"}),
        ("run", {"forget": "uploaded"}),
        ("run", {"alpha": float("inf")}),
        ("pair", {"first": "magic"}),
        ("bake", {"way": "retrained"}),
        ("export", {"form": "pickle"}),
        ("pair", {"what": "coat", "second": "retrained"}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action, changed):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
