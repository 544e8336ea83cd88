"""The panel of MEFT: through the client, and a visitor who drags lambda."""

import json
import re
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.core.errors import BadInput
from pages import meft
from tests.ui.browser import NewVisitor

RUN = {
    "variant": 1, "anchors": "auto", "lam": 0, "beta": 0, "rank": 4, "reversible_layers": 0,
    "texts": "a cat", "depth": 2, "batch": 2, "tokens": 16, "arms": ["meft", "lora"], "seed": 0,
    "model": "meft-digits",
}  # fmt: skip
FITS = {
    "scale": "bert-base", "gibibytes": 8, "batch": 1, "tokens": 16, "variant": 1,
    "anchors": "auto", "arms": ["head", "meft"], "seed": 0,
}  # fmt: skip
TRAIN = {
    "table": None, "arms": ["meft"], "steps": 2, "variant": 1, "anchors": "auto", "rank": 4,
    "batch": 4, "learning_rate": 1e-3, "texts": "", "seed": 0, "model": "meft-digits",
}  # fmt: skip
ASK = {"texts": "a cat left of a dog", "adapters": "meft-kinds", "base": "", "seed": 0}
SETTINGS = {"run": RUN, "fits": FITS, "train": TRAIN, "predict": ASK}


@pytest.fixture
def call(client: Client):
    """`call("train", steps=3)`: the outputs of an action with these settings changed."""

    def one(action: str, **changed: object) -> tuple:
        return client.predict(**(SETTINGS[action] | changed), api_name=f"/meft_{action}_panel")

    return one


def shares(drawn: str, name: str) -> list[float]:
    found = re.search(
        rf'data-shares="([^"]+)" data-told="[^"]+"><span>[^<]*(<[^>]+>◀</span> )?{name}', drawn
    )
    assert found is not None, name
    return json.loads(found[1])


@pytest.mark.slow
def test_as_lambda_falls_the_start_snaps_back_and_the_way_back_is_lost(call):
    drawn, layers, _, number, *_ = call("run")
    known, lowest = shares(drawn, "accuracy, head untouched"), shares(drawn, "layer 1")
    assert len(known) == len(lowest) == 7
    assert known[-1] > known[0] + 0.1
    assert lowest == sorted(lowest)
    assert lowest[-1] > lowest[0] + 0.4
    assert "gradients" in layers
    assert "accuracy at the start" in number


@pytest.mark.slow
def test_it_tells_what_fits_and_that_this_is_computed(call):
    drawn, *_ = call("fits")
    assert "✓ fits" in drawn
    assert "Computed on shapes, not measured" in drawn


@pytest.mark.slow
def test_adapters_are_written_as_two_files_and_asked(call):
    _, told, made, *_ = call("train")
    assert "turned" in told or "task b" in told
    names = sorted(Path(one if isinstance(one, str) else one["path"]).name for one in made["value"])
    assert names == ["config.json", "meft_adapter.safetensors"]
    (answers, *_) = call("predict")
    assert "animal" in answers


@pytest.mark.slow
def test_ones_own_table_is_learnt(call, tmp_path: Path):
    table = tmp_path / "mine.csv"
    rows = [f"a {'cat' if i % 2 else 'rose'} number {i},{i % 2}" for i in range(12)]
    table.write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    _, told, *_ = call("train", table=handle_file(table), model="meft-captions")
    assert "your own table" in told


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"variant": 4}),
        ("run", {"lam": float("nan")}),
        ("run", {"lam": -1}),
        ("run", {"anchors": "sometimes"}),
        ("run", {"arms": []}),
        ("run", {"model": "/etc"}),
        ("run", {"rank": None}),
        ("fits", {"scale": "gpt-9"}),
        ("fits", {"gibibytes": -1}),
        ("fits", {"tokens": 10_000}),
        ("train", {"steps": 0}),
        ("train", {"learning_rate": None}),
        ("predict", {"adapters": "/etc"}),
        ("predict", {"adapters": ""}),
        ("predict", {"texts": "x" * 10_000}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_markup_in_texts_is_escaped(call):
    (answers, *_) = call("predict", texts="<img src=x onerror=alert(1)> cat")
    assert "<img src=x" not in answers


@pytest.mark.parametrize(
    ("data", "match"),
    [(b"\xff\xfe\x00,", "UTF-8"), (b"a,b\n" * 60_000, "200 kB"), (b" \n", "empty")],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, data: bytes, match: str):
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=match):
        meft.with_table({"table": str(path)})


@pytest.mark.browser
def test_a_visitor_drags_lambda(new_visitor: NewVisitor, shot):
    page = new_visitor(width=1280, height=800).page
    page.goto("/reverse?method=meft")
    page.locator("#meft-run").click()
    page.locator("#meft-run-status .status.done").wait_for(timeout=90_000)
    slider = page.locator("#meft-start input[data-grow]")
    slider.fill("6")
    expect(page.locator("#meft-start output b")).to_have_text("0.01")
    shot(page, "lambda")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []


# ---------------------------------------------------------------------- where it breaks


def breaks(shown) -> None:
    """What the failure gallery says of it."""
    errors = {error.layer: error for error in shown.errors}
    assert errors[1].gradient > 0.1
    assert errors[max(errors)].gradient < 1e-3
    assert any("without anchors" in note for note in shown.notes)
