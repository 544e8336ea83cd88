"""JSON values: what a recipe or a card can keep, and how it reads as a short text.

plain((1, numpy.float32(0.5)), "params")      [1, 0.5], a deep copy
as_flag("a cat"), as_flag("7"), as_flag(7)    a cat, "7", 7    and `from_flag` leads back
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from engine.core.errors import BadInput

# A JSON value; what lists and mappings hold is checked by `plain`, all the way down.
Plain: TypeAlias = bool | int | float | str | Sequence[object] | Mapping[str, object] | None

DEEPEST = 16  # lists in lists
_JSON_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def plain(value: object, name: str, depth: int = 0) -> Plain:
    """A deep copy of a JSON value; tuples become lists, and numpy scalars numbers.

    Raises `BadInput`, which calls it `name`, for anything else: NaN, infinities and unpaired
    surrogates have no JSON, and integers are those of 64 bits.
    """
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # a numpy scalar
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and "\0" not in value and _encodes(value):
        return str(value)
    if isinstance(value, list | tuple) and depth < DEEPEST:
        return [plain(item, name, depth + 1) for item in value]
    if isinstance(value, Mapping) and depth < DEEPEST:
        return {
            str(plain(checked_text(key, name), name)): plain(item, name, depth + 1)
            for key, item in value.items()
        }
    raise BadInput(
        f"{name} holds a value that a recipe cannot keep: {value!r:.60}.",
        "Use texts, finite numbers, true or false, and lists of them.",
    )


def checked_text(value: object, name: str) -> str:
    """The value if it is a text. Raises `BadInput`, which calls it `name`."""
    if not isinstance(value, str):
        raise BadInput(f"The {name} of a recipe must be a text.", f"Check its {name}.")
    return value


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def loads(text: str) -> Plain:
    """The value of a JSON document. Raises `ValueError` for NaN and infinities too."""
    return json.loads(text, parse_constant=_refuse_constant)


def most_values_in(text: str) -> int:
    """How many values a JSON document has at most, counted without making any of them."""
    marks = _JSON_TEXT.sub("", text)
    return 1 + sum(map(marks.count, ",[{"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# ---------------------------------------------------------------------- as short texts


def as_flag(value: object) -> str:
    """A value for a link or a command line: JSON, but a text stands as it is where it can."""
    if isinstance(value, str) and isinstance(from_flag(value), str) and not value.startswith('"'):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_flag(text: str) -> Plain:
    """The value that `as_flag` wrote; whatever does not read as JSON is a text."""
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return text
