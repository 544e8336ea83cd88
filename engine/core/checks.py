"""Checks of plain values at the entrance of a job.

    strength = checks.number("strength", strength, 0, 2, "1 is the edit of the papers.")

Each gives the value back as what it should be, or raises `BadInput`.
"""

import sys
from collections.abc import Collection

from engine.core.errors import BadInput


def texts(value: object, name: str, most: int, longest: int = 300) -> tuple[str, ...]:
    """A list of texts; one text is split at its commas. Raises `BadInput`."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
        raise BadInput(f"{name} must be a list of texts.", 'Write for example ["cat", "dog"].')
    if len(listed) > most or any(len(text) > longest for text in listed):
        raise BadInput(
            f"{name}: at most {most} texts of {longest} characters are taken.", "Use fewer words."
        )
    return tuple(text.strip() for text in listed)


def real(name: str, value: object) -> float:
    """A finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise BadInput(f"{name} must be a number, got {value!s:.40}.", "Write for example 0.5.")
    return float(value)  # type: ignore[arg-type]


def whole(name: str, value: object) -> int:
    """A whole number; 10.0 is one, as sliders give it."""
    found = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(found, bool) or not isinstance(found, int):
        raise BadInput(f"{name} must be a whole number, got {value!s:.40}.", "Write for example 7.")
    return found


def number(
    name: str, value: object, least: int | float, most: int | float, advice: str = ""
) -> float:
    """A number within bounds; what is no number is refused, NaN and infinities too."""
    found = real(name, value)
    if not least <= found <= most:
        message = f"{name} must be from {least:g} to {most:g}, got {value!s:.40}."
        raise BadInput(message, advice or "Give a number between these.")
    return found


def count(name: str, value: object, least: int, most: int, advice: str = "") -> int:
    """A whole number within bounds; 10.0 is one, as sliders give it."""
    found = whole(name, value)
    if not least <= found <= most:
        message = f"{name} must be from {least} to {most}, got {value!s:.40}."
        raise BadInput(message, advice or "Give a whole number between these.")
    return found


def choice(name: str, value: object, options: Collection[str]) -> str:
    """One of some texts."""
    if not isinstance(value, str) or value not in options:
        raise BadInput(f'{name} cannot be "{str(value)[:40]}".', f"Choose {', '.join(options)}.")
    return value


def switch(name: str, value: object) -> bool:
    """On or off."""
    if not isinstance(value, bool):
        raise BadInput(f"{name} is true or false.", "Leave it out.")
    return value
