"""Jobs that take the fields of settings dataclasses."""

import inspect
from dataclasses import dataclass, replace
from typing import Annotated

import pytest

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, finish
from engine.core.settings import Range, checked, settings_of
from engine.core.taking import taking


@dataclass(frozen=True)
class Colour:
    red: Annotated[int, Range(0, 255)] = 1
    blue: Annotated[int, Range(0, 255)] = 2


@dataclass(frozen=True)
class Size:
    wide: Annotated[int, Range(1, 9)] = 3

    @classmethod
    def of(cls, **values: object) -> "Size":
        found = cls(**checked(cls, values))
        return replace(found, wide=2 * found.wide)


@taking(colour=Colour, size=Size)
def paint(
    *, seed: int, colour: Colour, size: Size, coats: Annotated[int, Range(1, 3)] = 1
) -> Steps[tuple]:
    yield Progress(0, 1)
    return seed, colour, size, coats


def test_the_fields_of_all_dataclasses_are_settings_of_the_job():
    assert list(inspect.signature(paint).parameters) == ["seed", "coats", "red", "blue", "wide"]
    assert {name: one.default for name, one in settings_of(paint).items()} == {
        "coats": 1,
        "red": 1,
        "blue": 2,
        "wide": 3,
    }


def test_each_argument_gets_its_fields_in_one_piece():
    assert finish(paint(seed=4, blue=7, coats=2)) == (4, Colour(1, 7), Size(6), 2)


@pytest.mark.parametrize("bad", [{"red": 300}, {"wide": 0}])
def test_fields_are_checked_as_the_job_starts(bad: dict[str, object]):
    with pytest.raises(BadInput, match=f"{next(iter(bad))} must be"):
        paint(seed=0, **bad)
