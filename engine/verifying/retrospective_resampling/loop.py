"""What both engines of the loop share: its settings, what happens on the way, and its end.

    for event in official(speaker, settings): ...      every attempt from the beginning
    for event in rollback(voice, settings): ...        the same decisions, back over the cache

An engine is a generator of events; it returns an `Outcome`.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from engine.core import rng
from engine.core.shapes import Float, Tensor
from engine.verifying.retrospective_resampling.tags import (
    Tags,
    sentence_end,
    whole_sentences,
    without_tags,
)

HINTS_SHOWN = 5
LONGEST_ANSWER = 2048


@dataclass(frozen=True)
class Settings:
    """The knobs of the loop, with the values of the paper.

    `tau` is what P(UN) may be at most; `temperature` is T0, raised by `step` after every violation
    up to T0 + `most`. After `local` violations in a row the text goes back to its last full stop;
    after `total` attempts it is given up, and of an `open_ended` answer only whole sentences are
    left. `hints` name the doubted phrases in the question.
    """

    tau: float = 0.003
    temperature: float = 0.0
    step: float = 0.05
    most: float = 0.5
    local: int = 10
    total: int = 50
    max_new_tokens: int = 1024
    hints: bool = True
    open_ended: bool = False
    enders: str = "."

    def hotter(self, temperature: float) -> float:
        """The temperature after one more violation."""
        return min(temperature + self.step, self.temperature + self.most)

    def given_up(self, text: str) -> str:
        """What is told of an answer that the attempts did not suffice for, as published."""
        return whole_sentences(text, self.enders) if self.open_ended else text

    def without_checks(self) -> "Settings":
        """The same model without going back: no P(UN) is above 1."""
        return replace(self, tau=1.0)


# ---------------------------------------------------------------------- events


@dataclass(frozen=True)
class Token:
    """The model said one more token, behind all that stands."""

    id: int


@dataclass(frozen=True)
class Verdict:
    """A phrase was closed and looked at."""

    phrase: str
    p_un: float
    is_kept: bool
    attempt: int
    temperature: float


@dataclass(frozen=True)
class Back:
    """The answer goes back to its first `length` tokens."""

    length: int
    why: str


@dataclass(frozen=True)
class Tried:
    """An attempt is over: the answer with it, and the phrase that failed or what became of it."""

    ids: tuple[int, ...]
    tag: str
    temperature: float


@dataclass(frozen=True)
class Outcome:
    """The tagged answer that stands, and what it cost."""

    ids: tuple[int, ...]
    text: str
    success: bool
    attempts: int
    backtracks: int
    hints: tuple[str, ...]


Event: TypeAlias = Token | Verdict | Back | Tried
Course: TypeAlias = Generator[Event, None, Outcome]

CORRECTED = "successful correction"


def remember(hints: list[str], phrase: str) -> None:
    """Add a phrase to the doubted ones, once."""
    phrase = phrase.strip().lower()
    if phrase and phrase not in hints:
        hints.append(phrase)


@runtime_checkable
class Words(Protocol):
    """Whoever can put tokens into words."""

    tags: Tags

    def words(self, ids: Sequence[int]) -> str: ...


def fall_back(
    accepted: list[int], new: Sequence[int], hints: list[str], speaker: Words, enders: str
) -> None:
    """Cut the accepted text behind its last full stop; what is cut joins the doubted phrases.

    As in the published code it is named as it was written, and again where it was named before: of
    a sentence that keeps failing the latest hints are full. Where nothing was accepted, the words
    before the first phrase are named, in lower case.
    """
    kept = sentence_end([speaker.words([token]) for token in accepted], enders)
    if accepted:
        cut = without_tags(speaker.words(accepted[kept:]))
    else:
        before = new[: list(new).index(speaker.tags.span)] if speaker.tags.span in new else new
        cut = speaker.words(before).strip().lower()
    if cut:
        hints.append(cut)
    del accepted[kept:]


def hinted(question: str, hints: Sequence[str]) -> str:
    """The question with the latest doubted phrases named."""
    if not hints:
        return question
    return f"{question} (Hint: potential incorrect phrases -> {', '.join(hints[-HINTS_SHOWN:])})"


def pick(
    logits: Float[Tensor, " vocab"], temperature: float, chance: float, never: int = -1
) -> int:
    """The next token: the likeliest at temperature 0, else drawn by a number from 0 to 1.

    `never` is a token that no answer may hold: a picture's place among the words.
    """
    if never >= 0:
        logits = logits.clone()
        logits[never] = -torch.inf
    if temperature <= 0:
        return int(logits.argmax())
    mass = (logits.cpu().double() / temperature).softmax(-1).cumsum(-1)
    place = torch.searchsorted(mass, torch.tensor(chance * float(mass[-1]), dtype=mass.dtype))
    return min(int(place), len(logits) - 1)


def chance(seed: int, attempt: int, place: int) -> float:
    """The number that draws the token at a place of the answer in an attempt.

    It depends on nothing else, so both engines draw the same tokens.
    """
    return float(torch.rand((), generator=rng.generator(seed, "word", attempt, place)))
