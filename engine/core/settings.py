"""What a job takes: name, type and range of each setting, declared once in its signature.

    def run(
        *,
        seed: int,
        prompts: Annotated[Sequence[str], Items(12, fewest=1, separator=";")] = ("a cat",),
        steps: Annotated[int, Range(1, 100, "Try 10.")] = 10,
        grid: Annotated[str, OneOf(GRIDS)] = "trailing",
        picture: PictureSetting | None = None,
    ) -> Steps[Drawn]: ...

    checked(run, {"steps": 20.0})           {"steps": 20}
    checked(run, {"steps": 1000})           BadInput: steps must be from 1 to 100, got 1000.

The same holds for the fields of a dataclass of settings. A job checks what it is started with, so
that the page, a recipe, the command line and the API are refused in the same words. Names come
before values, and values before anything is allocated: a packed value, such as a picture written
as text, is opened only after all settings have been looked at.
"""

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import (
    Annotated,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from engine.core import budgets, checks
from engine.core.errors import BadInput

R = TypeVar("R")

# ---------------------------------------------------------------------- what a type can add


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included."""

    least: int | float
    most: int | float
    advice: str = ""


@dataclass(frozen=True)
class Text:
    """The number of characters of a text."""

    longest: int = budgets.TEXT_CHARACTERS
    fewest: int = 0
    advice: str = "Make it shorter."


@dataclass(frozen=True)
class OneOf:
    """A text out of several."""

    options: Iterable[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))  # of a mapping, its keys


@dataclass(frozen=True)
class Items:
    """The number of items of a list. One text in its place is cut at the separator.

    `blanks` says whether pieces without a word stay.
    """

    most: int = budgets.LIST_ITEMS
    fewest: int = 0
    separator: str = ","
    blanks: bool = True
    advice: str = ""


@runtime_checkable
class Packed(Protocol):
    """A value that is written as text in recipes and opened for the job."""

    def check(self, name: str, value: object) -> None:
        """Raises `BadInput` for what cannot be opened; allocates nothing."""

    def nbytes(self, value: object) -> int:
        """Bytes that the opened value fills."""

    def unpack(self, value: object) -> object:
        """The opened value; one that is open already stays."""


@runtime_checkable
class FromFile(Protocol):
    """A text for which the command line takes a file, by its ending."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Of names of files, with the dot, in small letters."""

    def read(self, path: Path) -> str:
        """The text that stands for the file. Raises an `EngineError` where it cannot be used."""


# ---------------------------------------------------------------------- what a job takes


@dataclass(frozen=True)
class Setting:
    """One setting: its type with what was added to it; without a default it must be given."""

    name: str
    kind: object
    default: object

    @property
    def is_needed(self) -> bool:
        return self.default is inspect.Parameter.empty


@lru_cache(maxsize=256)
def settings_of(taker: Callable[..., object]) -> Mapping[str, Setting]:
    """The settings of a job function or of a dataclass by name, without the seed.

    A type that is known to type checkers alone (`TYPE_CHECKING`) is unknown here, and its setting
    is taken as it comes.
    """
    try:
        hints = get_type_hints(taker, include_extras=True)
    except NameError:
        hints = {}
    return {
        name: Setting(name, hints.get(name, object), one.default)
        for name, one in inspect.signature(taker).parameters.items()
        if name != "seed" and one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
    }


def checked(taker: Callable[..., object], values: Mapping[str, object]) -> dict[str, object]:
    """The values as `taker` takes them: names first, then each value, then what is to be opened.

    Raises `BadInput` for the first that cannot be used.
    """
    settings = settings_of(taker)
    _check_names(settings, values, takes_any=_takes_any(taker))
    found = {
        name: _checked(name, settings[name].kind, value) if name in settings else value
        for name, value in values.items()
    }
    _check_size(_sealed(tuple(found.values())))
    return {name: _opened(value) for name, value in found.items()}


def _check_names(
    settings: Mapping[str, Setting], values: Mapping[str, object], *, takes_any: bool
) -> None:
    unknown = [] if takes_any else [name for name in values if name not in settings]
    if unknown:
        raise BadInput(
            f'There is no setting called "{unknown[0][:60]}".',
            f"The settings are {', '.join(settings)}." if settings else "There are no settings.",
        )
    missing = [name for name, one in settings.items() if one.is_needed and name not in values]
    if missing:
        raise BadInput(f"A value for {missing[0]} is missing.", f"Give a value for {missing[0]}.")


def _takes_any(taker: Callable[..., object]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(taker).parameters.values())


# ---------------------------------------------------------------------- values


def _checked(name: str, kind: object, value: object, rules: Sequence[object] = ()) -> object:
    """The value as a type has it; a type that is not known here lets it through."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _checked(name, inside[0], value, inside[1:])
    if packed := next((rule for rule in rules if isinstance(rule, Packed)), None):
        packed.check(name, value)
        return _Sealed(value, packed)
    if origin in (Union, types.UnionType):
        return _one_of(name, inside, value, rules)
    if origin is Literal:
        return checks.choice(name, value, inside)
    if origin in (tuple, list, Sequence):
        return _items(name, inside[0], value, _rule(rules, Items) or Items())
    if kind is str and (one := _rule(rules, OneOf)):
        return checks.choice(name, value, tuple(one.options))
    if kind in _PLAIN:
        return _PLAIN[kind](name, value, rules)
    if isinstance(kind, type) and kind is not object and not isinstance(value, kind):
        raise BadInput(f"{name} cannot be {_shown(value)}.", f"Look up what {name} takes.")
    return value


def _one_of(name: str, kinds: Sequence[object], value: object, rules: Sequence[object]) -> object:
    """The value by the first of several types that takes it, else the refusal of the last."""
    if value is None and type(None) in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        with suppress(BadInput):
            return _checked(name, kind, value, rules)
    return _checked(name, last, value, rules)


def _items(name: str, kind: object, value: object, rule: Items) -> tuple[object, ...]:
    if isinstance(value, str):
        pieces = [text.strip() for text in value.split(rule.separator)]
        value = [text for text in pieces if text or rule.blanks]
    if not isinstance(value, list | tuple):
        raise BadInput(f"{name} must be a list, got {_shown(value)}.", 'Write for example ["cat"].')
    if not rule.fewest <= len(value) <= rule.most:
        message = f"{name} takes {rule.fewest} to {rule.most} values, got {len(value)}."
        raise BadInput(message, rule.advice or "Give more." if not value else "Give fewer.")
    return tuple(_checked(name, kind, item) for item in value)


def _text(name: str, value: object, rules: Sequence[object]) -> str:
    rule = _rule(rules, Text) or Text()
    if not isinstance(value, str):
        raise BadInput(f"{name} must be a text, got {_shown(value)}.", "Write it in quotes.")
    if not rule.fewest <= len(value) <= rule.longest:
        message = f"{name} has {len(value)} characters; {rule.fewest} to {rule.longest} are taken."
        raise BadInput(message, rule.advice)
    return value


def _number(name: str, value: object, rules: Sequence[object]) -> float:
    rule = _rule(rules, Range)
    if rule is None:
        return checks.real(name, value)
    return checks.number(name, value, rule.least, rule.most, rule.advice)


def _count(name: str, value: object, rules: Sequence[object]) -> int:
    rule = _rule(rules, Range)
    if rule is None:
        return checks.whole(name, value)
    return checks.count(name, value, int(rule.least), int(rule.most), rule.advice)


def _switch(name: str, value: object, rules: Sequence[object]) -> bool:
    return checks.switch(name, value)


_PLAIN: Mapping[object, Callable[[str, object, Sequence[object]], object]] = {
    str: _text,
    float: _number,
    int: _count,
    bool: _switch,
}


def _rule(rules: Sequence[object], kind: type[R]) -> R | None:
    return next((rule for rule in rules if isinstance(rule, kind)), None)


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{value!r:.40}"


# ---------------------------------------------------------------------- packed values


@dataclass(frozen=True)
class _Sealed:
    """A packed value that was looked at and is not opened yet."""

    value: object
    rule: Packed


def _sealed(value: object) -> Iterator[_Sealed]:
    if isinstance(value, _Sealed):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _sealed(item)


def _check_size(sealed: Iterable[_Sealed]) -> None:
    size = sum(one.rule.nbytes(one.value) for one in sealed)
    if size > budgets.UNPACKED_BYTES:
        raise BadInput(
            f"The pictures fill {size / 1e6:.0f} MB when they are opened; "
            f"{budgets.UNPACKED_BYTES / 1e6:.0f} MB are taken.",
            "Take fewer, or smaller ones.",
        )


def _opened(value: object) -> object:
    if isinstance(value, _Sealed):
        return value.rule.unpack(value.value)
    return tuple(map(_opened, value)) if isinstance(value, tuple) else value


# ---------------------------------------------------------------------- in words


def in_words(kind: object, rules: Sequence[object] = ()) -> str:
    """What a setting takes, for help texts: "int, 1 to 100", "list of up to 4 texts"."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_words(inside[0], inside[1:])
    if any(isinstance(rule, Packed) for rule in rules):
        return "picture"
    if origin in (Union, types.UnionType):
        return in_words(next(one for one in inside if one is not type(None)), rules)
    if origin in (tuple, list, Sequence):
        most = (_rule(rules, Items) or Items()).most
        return f"list of up to {most}, each {in_words(inside[0])}"
    if (choice := _rule(rules, OneOf)) or origin is Literal:
        return f"one of {', '.join(map(str, choice.options if choice else inside))}"
    if bounds := _rule(rules, Range):
        return f"{'whole number' if kind is int else 'number'}, {bounds.least:g} to {bounds.most:g}"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return names.get(kind, kind.__name__) if isinstance(kind, type) else "any"
