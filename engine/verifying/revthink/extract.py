"""The final answer in a chain of reasoning, found as the published code finds it, or better.

"official" keeps its quirk: yes and no are found inside other words too ("I know nothing" says no).
"words" asks for whole words. An answer that is not there is `NONE` and counts as wrong.
"""

import re
from collections.abc import Callable
from typing import Literal

NONE = "N/A"
Form = Literal["choice", "yesno", "true", "number", "word", "boxed"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def choice(text: str) -> str:
    """The last "answer is (X)", else the last "(X)" anywhere; X from A to F."""
    matches = re.findall(r"answer is \(([A-F])\)", text) or re.findall(r"\(([A-F])\)", text)
    return matches[-1] if matches else NONE


def yes_no(text: str, mode: Literal["official", "words"] = "words") -> str:
    """The last yes or no, in small letters."""
    return _last(text, "yes|no", mode)


def true_false(text: str, mode: Literal["official", "words"] = "words") -> str:
    """The last true or false, in small letters."""
    return _last(text, "true|false", mode)


def _last(text: str, either: str, mode: str) -> str:
    pattern = either if mode == "official" else rf"\b(?:{either})\b"
    matches = re.findall(pattern, text, re.IGNORECASE)
    return matches[-1].lower() if matches else NONE


def boxed(text: str) -> str:
    r"""What the last \boxed{...} holds, braces inside it included."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return NONE
    depth, inside = 0, list[str]()
    for letter in text[start + len("\\boxed") :]:
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return "".join(inside[1:]).strip()
        inside.append(letter)
    return NONE


def number(text: str) -> str:
    """The number after the last "answer", else the last number; plain digits."""
    _, marker, tail = text.lower().rpartition("answer")
    numbers = _NUMBER.findall(tail) if marker else []
    numbers = numbers[:1] or _NUMBER.findall(text)[-1:]
    return plain_number(numbers[0]) if numbers else NONE


def plain_number(text: str) -> str:
    """A number without separators and without trailing zeros after the point."""
    bare = text.replace(",", "").strip().lstrip("$").rstrip(".")
    try:
        value = float(bare)
    except ValueError:
        return bare
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else str(value)


def word(text: str) -> str:
    """The word after the last "answer is" or "answer:", or after an "answer" that ends the text."""
    lowered = text.lower()
    matches = re.findall(r"\banswer(?:\s+is|\s*:)[\s:]*\(?([\w-]+)", lowered)
    matches = matches or re.findall(r"\banswer\s+([\w-]+)\W*$", lowered)
    return matches[-1] if matches else NONE


EXTRACT: dict[Form, Callable[[str], str]] = {
    "choice": choice,
    "yesno": yes_no,
    "true": true_false,
    "number": number,
    "word": word,
    "boxed": boxed,
}


def form_of(answer: str) -> Form:
    """The form that an answer of a data set has; what is nothing else is a word."""
    bare = answer.strip()
    if re.fullmatch(r"\(?[A-F]\)?", bare):
        return "choice"
    if bare.lower() in ("yes", "no"):
        return "yesno"
    if bare.lower() in ("true", "false"):
        return "true"
    return "number" if _NUMBER.fullmatch(bare.lstrip("$")) else "word"


def normal(answer: str, form: Form) -> str:
    """A gold answer as the extraction of its form would give it."""
    bare = answer.strip()
    if form == "choice":
        return bare.strip("()")
    return plain_number(bare) if form == "number" else bare.lower()


def same(extracted: str, gold: str, form: Form) -> bool:
    """Whether an extracted answer is the gold one; none is never."""
    return extracted != NONE and normal(extracted, form) == normal(gold, form)
