"""Settings: what a signature declares is what a job takes, in one order of checks."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import budgets
from engine.core.errors import BadInput
from engine.core.job import Done, Job, Progress, events
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range, Text, checked, settings_of
from engine.pictures import PictureSetting, PictureText, as_text

HERE = "tests.core.test_settings"


def paint(
    *,
    seed: int,
    model: ModelRef | str = "world",
    prompts: Annotated[Sequence[str], Items(2, fewest=1, separator=";")] = ("a cat",),
    steps: Annotated[int, Range(1, 100, "Try 10.")] = 10,
    eta: Annotated[float, Range(0, 1)] = 0.0,
    scale: float | None = None,
    grid: Annotated[str, OneOf(("even", "karras"))] = "even",
    rule: Literal["classic", "last"] = "classic",
    name: Annotated[str, Text(5)] = "",
    flip: bool = True,
    curve: Annotated[Sequence[Annotated[int, Range(1, 9)]], Items(3)] = (4,),
    picture: PictureSetting | None = None,
    pictures: Annotated[tuple[PictureSetting, ...], Items(60)] = (),
):
    """Every kind of setting there is; gives back what it was given."""
    yield Progress(0, 1)
    return steps, prompts, picture


@dataclass(frozen=True)
class Knobs:
    tau: Annotated[float, Range(0, 1)] = 0.1


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"steps": 20.0}, 20),
        ({"steps": np.int64(7).item()}, 7),
        ({"eta": 1}, 1.0),
        ({"scale": None}, None),
        ({"scale": 2}, 2.0),
        ({"prompts": "a cat, red; a dog"}, ("a cat, red", "a dog")),
        ({"prompts": ["a cat", "a dog"]}, ("a cat", "a dog")),
        ({"curve": [1.0, 9]}, (1, 9)),
        ({"grid": "karras"}, "karras"),
        ({"rule": "last"}, "last"),
        ({"model": ModelRef("world", None, ("0" * 8,))}, ModelRef("world", None, ("0" * 8,))),
        ({"model": "world"}, "world"),
    ],
)
def test_a_value_is_taken_as_its_type_has_it(given: dict, taken: object):
    (found,) = checked(paint, given).values()
    assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 0}, "steps must be from 1 to 100, got 0. Try 10."),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": None}, "steps must be a whole number"),
        ({"steps": "20"}, "steps must be a whole number"),
        ({"steps": 10**400}, "steps must be from 1 to 100"),
        ({"eta": 1.1}, "eta must be from 0 to 1"),
        ({"eta": math.nan}, "eta must be a number"),
        ({"eta": [0.5]}, "eta must be a number"),
        ({"scale": 10**400}, "scale must be a number"),
        ({"scale": "2"}, "scale must be a number"),
        ({"grid": "odd"}, "Choose even, karras"),
        ({"grid": 3}, "Choose even, karras"),
        ({"rule": None}, "Choose classic, last"),
        ({"name": "abcdef"}, "name has 6 characters"),
        ({"name": 7}, "name must be a text"),
        ({"name": as_text(np.zeros((1, 1, 3), np.uint8))}, "name has"),
        ({"flip": 1}, "flip is true or false"),
        ({"prompts": []}, "prompts takes 1 to 2 values"),
        ({"prompts": "a;b;c"}, "prompts takes 1 to 2 values"),
        ({"prompts": {"a": 1}}, "prompts must be a list"),
        ({"prompts": ["a", 1]}, "prompts must be a text"),
        ({"curve": [10]}, "curve must be from 1 to 9"),
        ({"picture": "a cat"}, "picture must be a picture"),
        ({"picture": 3}, "picture must be a picture"),
        ({"picture": np.zeros((2, 2), np.uint8)}, "no picture with three colours"),
        ({"pictures": [None]}, "pictures must be a picture"),
        ({"model": 3}, "model must be a text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_fit_is_refused_with_what_would(given: dict, told: str):
    with pytest.raises(BadInput, match=r".") as refused:
        checked(paint, given)
    assert told in str(refused.value)
    assert refused.value.advice


SAMPLES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(settings_of(paint))), value=SAMPLES)
def test_no_value_ends_otherwise_than_in_a_setting_or_a_refusal(name: str, value: object):
    with suppress(BadInput):
        found = checked(paint, {name: value})
        assert list(found) == [name]
        assert checked(paint, found) == found


def test_fields_of_a_dataclass_are_settings_too():
    assert checked(Knobs, {"tau": 1}) == {"tau": 1.0}
    with pytest.raises(BadInput, match="tau must be from 0 to 1"):
        checked(Knobs, {"tau": 2})


def test_pictures_are_opened_for_the_job():
    drawn = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    *_, end = events(Job(f"{HERE}:paint", {"picture": as_text(drawn)}))
    assert isinstance(end, Done)
    assert np.array_equal(end.result[2], drawn)


# ---------------------------------------------------------------------- nothing before its turn

LARGEST = as_text(np.zeros((2000, 2000, 3), np.uint8))  # 12 MB out of 16 KB


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each picture that is opened."""
    found: list[int] = []

    def unpack(self: PictureText, value: object) -> object:
        found.append(self.nbytes(value))
        return value

    monkeypatch.setattr(PictureText, "unpack", unpack)
    return found


def test_names_come_before_values_and_values_before_anything_is_opened(opened: list[int]):
    with pytest.raises(BadInput, match='no setting called "zzz"'):
        checked(paint, {"pictures": [LARGEST] * 60, "steps": 0, "zzz": 1})
    with pytest.raises(BadInput, match="steps must be"):
        checked(paint, {"picture": LARGEST, "steps": 0})
    assert opened == []


def test_pictures_have_a_budget_together(opened: list[int]):
    most = budgets.UNPACKED_BYTES // 12_000_000
    checked(paint, {"pictures": [LARGEST] * most})
    assert len(opened) == most
    with pytest.raises(BadInput, match="when they are opened"):
        checked(paint, {"pictures": [LARGEST] * (most + 1)})
    assert len(opened) == most


def test_a_picture_is_too_large_by_its_head_alone(opened: list[int]):
    with pytest.raises(BadInput, match="2001 x 2000 pixels"):
        checked(paint, {"picture": as_text(np.zeros((2000, 2001, 3), np.uint8))})
    assert opened == []
