"""Questions of the students' small world as one says them; the students read fewer words.

it is nov . 4 earlier tom moved . which month ?
It is November. Tom moved 4 months earlier. Which month?
"""

import re

_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
IN_FULL = {name[:3].lower(): name for name in f"{_MONTHS} {_DAYS}".split()}

_STEP = r"\d+ (?:later|earlier)"
_ASKED = re.compile(
    rf"it (is|ends in) (\w+) \. ({_STEP}(?: , {_STEP})*)((?: \w+)*) \. which (\w+) \?"
)


def aloud(text: str) -> str:
    """A question in the words of that world as one says it; any other text stays as it is."""
    asked = _ASKED.fullmatch(text)
    if asked is None:
        return text
    begins, name, steps, story, which = asked.groups()
    unit = which if which != "start" else _unit(name)
    told = ", then ".join(_step(step, unit) for step in steps.split(" , "))
    way = f"{story.strip().capitalize()} {told}".strip()
    question = f"Which {unit} was the start?" if which == "start" else f"Which {unit}?"
    return f"It {begins} {in_full(name)}. {way}. {question}"


def in_full(name: str) -> str:
    """The name of a month or a day as one writes it; a colour stays as it is."""
    return IN_FULL.get(name, name)


def _step(step: str, unit: str) -> str:
    number, way = step.split()
    return f"{number} {unit}{'' if number == '1' else 's'} {way}"


def _unit(name: str) -> str:
    """What a name is one of."""
    written = in_full(name)
    return "day" if written in _DAYS.split() else "month" if name in IN_FULL else "colour"
