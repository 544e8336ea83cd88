"""The panel of corrective unlearning through the client."""

import json

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from engine.unlearning.corrective.results import Corrected
from pages import corrective
from tests.ui.browser import need_panel
from tests.unlearning.conftest import png

CONTROLS = {
    "gamma": 0.1,
    "false_flags": 0,
    "trigger": None,
    "target": "",
    "stamped": 100,
    "index_table": "",
    "pictures": "",
    "retain": "",
    "test": "",
    "way": "SSD",
    "unit": "sample",
    "alpha": 10,
    "lam": 10,
    "retained": 512,
    "tune": False,
    "last": 0,
    "seed": 0,
    "model": "fashion-poisoned",
}


CURVES = ("unit", "alpha", "lam", "retained", "tune", "seed", "model")


def breaks(found: Corrected) -> None:
    """The backdoor stays open."""
    assert found.cards[1].attack_success.rate > 0.7


@pytest.fixture
def call(request: pytest.FixtureRequest):
    """`call("run", gamma=0.5)`: the outputs of an action with these controls changed."""
    need_panel("corrective")
    client: Client = request.getfixturevalue("client")
    own = {
        "curves": {"gammas": "0.5", "methods": ["SSD"]} | {n: CONTROLS[n] for n in CURVES},
        "export": CONTROLS | {"form": "patch"},
    }

    def one(action: str, **changed: object) -> tuple:
        values = own.get(action, CONTROLS) | changed
        return client.predict(**values, api_name=f"/corrective_{action}_panel")

    return one


def test_settings_leave_out_what_is_empty_and_keep_a_trigger_as_text(tmp_path):
    assert "trigger" not in corrective.settings(CONTROLS)
    assert "target" not in corrective.settings(CONTROLS)
    path = tmp_path / "trigger.png"
    path.write_bytes(png(np.full((28, 28, 3), 128, np.uint8), size=28))
    found = corrective.settings(CONTROLS | {"trigger": str(path), "target": "T-shirt"})
    assert found["trigger"].startswith("data:image/png")
    assert found["target"] == "T-shirt"
    assert corrective.settings({"gammas": "0.1, x"})["gammas"] == [0.1, "x"]
    assert corrective.controls({"gammas": [0.1, 1]})["gammas"] == "0.1, 1"


def test_the_stored_retraining_is_a_curve_over_the_shares_with_its_intervals():
    told = {"mean": 0.97, "from": 0.9, "to": 1.1}
    line = corrective._stored_line({"RewoD, 0.5 flagged": told, "RewoD, 0.1 flagged": told})
    assert list(line.x) == [0.1, 0.5]
    assert line.band == ([90.0, 90.0], [100.0, 100.0])


@pytest.mark.slow
def test_a_repair_shows_both_networks_and_the_undo(call):
    pictures, table, number, *_ = call("run")
    assert "every bit is back" in pictures
    assert "original → after SSD → undone" in pictures
    assert "trained anew without a tenth" in pictures
    assert "oracle" in table
    assert "20 samples are flagged, of 200" in table
    assert "the attack succeeds" in number


@pytest.mark.slow
def test_confused_labels_are_warned_of_and_counted_by_what_is_corrected(call):
    _, table, number, *_ = call("run", model="fashion-confused")
    assert "Look again" in table
    assert "labels were confused" in number


@pytest.mark.slow
def test_curves_begin_with_the_original_and_bakes_come_back(call):
    plane, kept, *_ = call("curves")
    assert "original" in json.dumps(plane)
    assert "kept" in json.dumps(kept)
    assert "every bit as before" in call("bake")[0]
    assert "equal bit for bit" in call("export", form="card")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"gamma": 7}),
        ("run", {"way": "prayer"}),
        ("run", {"unit": "sorted"}),
        ("run", {"alpha": None}),
        ("run", {"index_table": "99999"}),
        ("run", {"pictures": "/etc"}),
        ("run", {"retained": -1}),
        ("run", {"last": 2}),
        ("run", {"model": "fashion"}),
        ("curves", {"gammas": "none"}),
        ("export", {"form": "pickle"}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action, changed):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
