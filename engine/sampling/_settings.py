"""Settings of a job as they come from outside, checked one by one."""

from collections.abc import Collection

from engine.core.errors import BadInput


def choice(value: object, name: str, known: Collection[str]) -> str:
    """A value that is one of the known names. Raises `BadInput` that lists them."""
    if not isinstance(value, str) or value not in known:
        raise BadInput(f'There is no {name} "{str(value)[:40]}".', f"Choose {', '.join(known)}.")
    return value


def number(value: object, name: str, low: float, high: float) -> float:
    """A finite number in a range. Raises `BadInput`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise BadInput(f"{name} is {str(value)[:40]}.", f"Give a number from {low:g} to {high:g}.")


def whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number in a range. Raises `BadInput`."""
    found = number(value, name, float(low), float(high))
    if found != int(found):
        raise BadInput(f"{name} is {value}.", f"Give a whole number from {low} to {high}.")
    return int(found)
