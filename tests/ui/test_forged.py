"""Calls that no page makes: whatever an endpoint is sent, it answers with a sentence.

Every endpoint gets recipes with a setting that does not belong there. None may end as a fault of
ours or without words, and all of them together may not fill the memory.
"""

import json
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.core.catalog import Action, Entry, announced
from engine.core.recipe import ModelRef, Recipe
from engine.core.settings import settings_of
from engine.pictures import as_text
from pages._endpoints import endpoint_of
from pages._frame import Frame
from tests.contract.rules import function_of

pytestmark = pytest.mark.slow

CATALOG = announced()
ENDPOINTS = [
    pytest.param(entry, action, id=f"{entry.slug}-{action.name}")
    for entry in CATALOG.values()
    for action in entry.card.actions
]
MOST_EVENTS, MOST_SECONDS = 3, 1.0  # of a run that was let in
MOST_MEGABYTES = 300

PICTURES = [as_text(np.zeros((side, side, 3), np.uint8)) for side in (1, 8, 2000, 2500)]
WORDS = [
    "",
    " ",
    "a",
    "\x01",
    "🦄\u202e",
    "a;b,c",
    "{}",
    "{0.__class__}",
    "a {} b",
    "NaN",
    "-1",
    "[1]",
]
TEXTS = st.sampled_from(
    [*WORDS, "x" * 400, "x" * 20_000, "../../etc/passwd", "upload:0", *PICTURES]
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 7, 10**6, 2**62, -(2**62), 0.5, -0.5, 1e-300, 1e300, 12.0]
) | st.integers(-300, 300)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS | st.text(max_size=30)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
) | st.sampled_from([["a"] * 300, [PICTURES[2]] * 30, [0.5] * 40, [[[[]]]]])


def sound_recipe(entry: Entry, action: Action) -> dict:
    model = ModelRef(entry.card.models[0]) if entry.card.models else None
    return json.loads(Recipe(entry.slug, action.name, model, action.quick, seed=7).json())


def forged(entry: Entry, action: Action) -> st.SearchStrategy[str]:
    """Recipes of an action with one or two settings, or a part of the recipe, that do not fit."""
    names = st.sampled_from([*settings_of(function_of(entry, action)), "zzz", "Ä"])
    recipe = sound_recipe(entry, action)
    part = st.sampled_from(["seed", "model", "action", "method", "versions", "label", "params"])

    def with_settings(changed: Mapping[str, object]) -> str:
        return json.dumps({**recipe, "params": {**recipe["params"], **changed}})

    def with_part(name: str, value: object) -> str:
        return json.dumps({**recipe, name: value})

    changed = st.dictionaries(names, VALUES, min_size=1, max_size=2).map(with_settings)
    return st.one_of(changed, changed, changed, st.builds(with_part, part, VALUES), TEXTS)


def called(frame: Frame, action: str, recipe: str) -> str:
    """Why a call was refused; empty when it was let in."""
    answers: Iterator[dict] = endpoint_of(frame.entry, action, frame.runner)(recipe)
    begun = time.monotonic()
    try:
        for _ in islice(answers, MOST_EVENTS):
            if time.monotonic() - begun > MOST_SECONDS:
                break
    except gr.Error as refusal:
        return str(refusal.message)
    finally:
        answers.close()
    return ""


def megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.fixture(scope="module")
def grown() -> list[float]:
    """Megabytes that the forged calls of each endpoint have left behind."""
    return []


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("entry", "action"), ENDPOINTS)
def test_a_forged_call_is_refused_in_words_or_runs(
    frames: Mapping[str, Frame], grown: list[float], entry: Entry, action: Action
):
    sound = json.dumps(sound_recipe(entry, action))
    assert called(frames[entry.slug], action.name, sound) == ""  # libraries and models come in
    before = megabytes()

    @settings(
        max_examples=30,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(forged(entry, action))
    def forge(recipe: str) -> None:
        refusal = called(frames[entry.slug], action.name, recipe)
        assert "Something failed" not in refusal
        assert "/root" not in refusal

    forge()
    grown.append(megabytes() - before)


def test_forged_calls_leave_the_memory_as_it_was(grown: list[float]):
    assert sum(grown) < MOST_MEGABYTES
