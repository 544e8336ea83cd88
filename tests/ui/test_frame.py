"""The frame of a panel, through the client: runs, refusals, recipes, stop."""

import base64
import json
import time
from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from engine.core.recipe import ModelRef, Recipe
from pages._frame import Frame
from pages._serving import ASKED, Suite
from tests.ui.browser import PATIENT

GOOD = {"word": "pond", "steps": 4, "seed": 7, "model": "world"}
LONG = "x" * 10_000


@pytest.fixture(scope="module")
def client(toy: str) -> Client:
    return Client(toy, verbose=False, httpx_kwargs=PATIENT)


def panel(client: Client, **changed: object) -> tuple:
    return client.predict(**(GOOD | changed), api_name="/ripple_run_panel")


def recipe(**changed: object) -> str:
    params = {"word": "pond", "steps": 3} | changed
    return Recipe("ripple", params=params, seed=7, model=ModelRef("world")).json()


@pytest.mark.slow
def test_run_draws_picture_status_and_recipe(client: Client):
    picture, *_, status, told = panel(client)
    assert "4 states" in picture
    assert "seed 7" in status
    assert "python -m engine run ripple --word pond --steps 4 --seed 7 --model world" in told


@pytest.mark.slow
def test_saved_picture_carries_the_recipe(client: Client):
    picture, *_ = panel(client, seed=11)
    data = picture.split('download="ripple.png" href="data:image/png;base64,')[1].split('"')[0]
    found = Recipe.from_png(base64.b64decode(data))
    assert (found.seed, found.params) == (11, {"word": "pond", "steps": 4})


def test_link_of_a_run_leads_back_to_its_recipe(client: Client):
    _, _, status, _ = panel(client, word="a & <b>pond</b>?", seed=3)
    query = status.split('href="sample?')[1].split('"')[0].replace("&amp;", "&")
    found = Recipe.from_query(query)
    assert found is not None
    assert (found.params["word"], found.seed) == ("a & <b>pond</b>?", 3)


def test_equal_settings_give_equal_pictures(client: Client):
    assert panel(client)[0] == panel(client)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"word": ""},
        {"word": None},
        {"word": LONG},
        {"steps": 0},
        {"steps": -1},
        {"steps": 1e9},
        {"steps": None},
        {"steps": "many"},
        {"steps": float("nan")},
        {"steps": float("inf")},
        {"seed": -1},
        {"seed": 1e12},
        {"seed": None},
        {"seed": float("nan")},
        {"seed": "seven"},
        {"word": "late"},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_bad_input_is_refused_with_a_sentence(client: Client, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        panel(client, **changed)
    assert "Traceback" not in str(refused.value)
    assert "/root" not in str(refused.value)


def test_markup_in_a_refusal_is_shown_and_not_obeyed(client: Client):
    with pytest.raises(AppError, match="&lt;b&gt;never&lt;/b&gt;"):
        panel(client, word="late")


def test_a_fault_of_ours_shows_a_number_and_no_path(client: Client):
    with pytest.raises(AppError, match=r"Something failed \(id [0-9a-f]{8}\)") as refused:
        panel(client, word="bug")
    assert "secret" not in str(refused.value)


def test_markup_in_a_word_is_escaped(client: Client):
    picture, *_ = panel(client, word="<img src=x onerror=alert(1)>")
    assert "<img src=x" not in picture


def test_endpoint_takes_a_recipe_and_gives_plain_values(client: Client):
    answer = client.predict(recipe(), api_name="/ripple_run")
    assert answer["recipe"]["seed"] == 7
    assert len(answer["result"]["frames"]) == 3
    assert answer["files"]["frames_02.png"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        LONG,
        "{}",
        json.dumps({"rewind": 1, "method": "other"}),
        recipe(steps=0),
        recipe(unknown=1),
        recipe(word=None),
    ],
    ids=lambda text: text[:40],
)
def test_endpoint_refuses_what_is_no_recipe_of_it(client: Client, told: str):
    with pytest.raises(AppError) as refused:
        client.predict(told, api_name="/ripple_run")
    assert "Something failed" not in str(refused.value)


@pytest.mark.slow
def test_stop_frees_the_lane_within_a_step(client: Client):
    """A minute's run, so that waiting for its end is told from a slow machine."""
    minute = GOOD | {"steps": 200, "word": "slow"}
    long_run = client.submit(**minute, api_name="/ripple_run_panel")
    while not long_run.outputs():
        time.sleep(0.02)
    long_run.cancel()
    started = time.monotonic()
    panel(client, steps=1)
    assert time.monotonic() - started < 30


def test_endpoints_are_named_described_and_typed(client: Client):
    described = client.view_api(return_format="dict")["named_endpoints"]
    assert "/ripple_run" in described
    for name, endpoint in described.items():
        assert endpoint["description"], name
        for parameter in endpoint["parameters"]:
            assert not parameter["parameter_name"].startswith("param_"), name


def test_a_link_opens_the_tab_of_its_action_in_its_own_panel_alone():
    with Suite() as demo:
        tabs = gr.Tabs()
    places = {"run": "run", "sample": "sample", "bake": "take-it-along"}
    frame = SimpleNamespace(entry=SimpleNamespace(slug="score_sde"), tab_of=places)
    demo.opens(tabs, partial(Frame._wanted_tab, frame))
    demo.whole = True
    demo.config = demo.get_config_file()

    def opened(**query: str) -> object:
        token = ASKED.set(query)
        (described,) = [one for one in demo.config["components"] if one["id"] == tabs._id]
        ASKED.reset(token)
        return described["props"].get("selected")

    for method in ("score-sde", "score_sde"):
        assert opened(method=method, action="sample") == "sample"
    assert opened(method="score-sde", action="bake") == "take-it-along"
    for query in (
        {},
        {"method": "score-sde"},
        {"method": "score-sde", "action": "none"},
        {"method": "rece", "action": "sample"},
    ):
        assert opened(**query) is None
