"""The panel of refresh learning: matrices, differences with their intervals, the equation."""

import json

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from engine.core.recipe import Recipe
from engine.unlearning.refresh_learning.results import Arm, Mean, Paired, Refreshed, Run
from pages import refresh_learning as page_of
from tests.ui.browser import need_panel

RUN = {
    "way": "er", "delta": 1e-5, "seeds": 1, "controls": False, "rounds": 1, "noise": 1e-3,
    "form": "code", "use_fisher": True, "buffer": 50, "epochs": 1, "train": 20, "test": 20,
    "network": "mlp", "seed": 0,
}  # fmt: skip
EQUATION = {"phi": "squares", "psi": "none", "a": 1, "b": 0, "samples": 6, "classes": 5, "seed": 0}


def run_of(seed: int, final: float, rows: int = 5) -> Run:
    matrix = np.full((5, 5), np.nan)
    matrix[:rows] = final
    return Run(seed, matrix, matrix, final, -0.1, np.zeros(5), 100, 0)


def refreshed(differences: tuple[float, ...], low: float, high: float) -> Refreshed:
    runs = tuple(run_of(i, 0.7) for i in range(len(differences)))
    mean = Mean(float(np.mean(differences)), low, high)
    pair = Paired("refresh", differences, mean, not low <= 0 <= high)
    arms = tuple(
        Arm(key, key, runs, Mean(0.7, 0.6, 0.8), Mean(-0.1, -0.2, 0.0))
        for key in ("plain", "refresh")
    )
    return Refreshed("er", 1e-5, len(differences), arms, (pair,))


# ---------------------------------------------------------------------- drawing


def test_a_matrix_is_the_mean_of_what_is_there():
    mean = page_of.mean_matrix([run_of(0, 0.4, rows=2), run_of(1, 0.8, rows=1)])
    assert mean[0] == pytest.approx(0.6)
    assert mean[1] == pytest.approx(0.4)
    assert np.isnan(mean[2:]).all()


@pytest.mark.parametrize(
    ("differences", "low", "high", "said"),
    [
        ((0.001, -0.002, 0.001), -0.004, 0.005, "No gain is measured"),
        ((0.05, 0.06, 0.05), 0.04, 0.07, "a gain is measured"),
        ((-0.5, -0.5, -0.4), -0.6, -0.3, "a loss is measured"),
        ((0.01,), 0.01, 0.01, "tells nothing"),
    ],
)
def test_it_is_said_plainly_whether_there_is_a_gain(differences, low, high, said):
    shown = page_of._told(refreshed(differences, low, high), ended=True)
    assert said in shown


def test_the_number_has_its_interval():
    number = page_of.difference(refreshed((0.01, 0.02, 0.03), -0.01, 0.05), Recipe("x", "run"))
    assert str(number) == "refresh minus plain, points: +2.00 (-1.0 to +5.0)"


# ---------------------------------------------------------------------- through the client


@pytest.fixture
def call(request: pytest.FixtureRequest):
    need_panel("refresh_learning")
    client: Client = request.getfixturevalue("client")
    settings = {
        "run": RUN,
        "equation": EQUATION,
        "export": {"way": "sgd", "delta": 1e-5, "seeds": 1, "controls": False, "seed": 0},
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], **changed}
        return client.predict(**values, api_name=f"/refresh_learning_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_draws_a_matrix_for_every_arm(call):
    shown, told, _curve, flat, _sizes, number, _status, _recipe = call("run", controls=True)
    assert shown.count('class="matrix"') == 4
    assert told.count("<li>") == 3
    assert "Fewer than three seeds" in told
    assert "along the direction" in json.dumps(flat)
    assert "refresh minus plain" in number


@pytest.mark.slow
def test_the_equation_names_the_method(call):
    shown, _, number, *_ = call("equation", phi="none", psi="fisher", a=0, b=1)
    assert "<b>online EWC</b>" in shown
    assert "10⁻" in number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"way": "magic"}),
        ("run", {"delta": -1}),
        ("run", {"delta": float("nan")}),
        ("run", {"delta": None}),
        ("run", {"seeds": 0}),
        ("run", {"train": 1e9}),
        ("run", {"network": "gpt"}),
        ("equation", {"phi": "cubes"}),
        ("equation", {"a": -1}),
        ("equation", {"samples": 0}),
        ("export", {"way": None}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


# ---------------------------------------------------------------------- in a browser


@pytest.mark.browser
@pytest.mark.slow
def test_turning_phi_and_psi_turns_one_method_into_another(new_visitor, shot):
    need_panel("refresh_learning")
    page = new_visitor(width=390, height=844).page
    page.goto("/unlearn?method=refresh-learning&action=equation")
    page.get_by_role("radio", name="negative entropy").check()
    expect(page.locator("#refresh-equation")).to_contain_text("ER", timeout=60_000)
    page.locator("#refresh_learning-equation-status .status.done").wait_for(timeout=60_000)
    shot(page, "phone")


# ---------------------------------------------------------------------- where it breaks


def breaks(run) -> None:
    """The refreshed arm ends far below the plain one."""
    plain, refresh = (arm.final.mean for arm in run.arms)
    assert refresh < plain - 0.2
    assert any("above 0.003" in note for note in run.notes)
