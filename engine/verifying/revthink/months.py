"""A small invertible world: months on a cycle of twelve, asked forward and backward.

    question = Question(2, (4,))          it is mar . 4 later tom moved . which month ?
    question.forward                      mar + 4 = jul . answer jul
    question.backward_question()          it ends in jul . 4 later ... which start ?
    question.backward                     jul - 4 = mar . answer mar

One shift gives 12 x 2 x 11 = 264 directed relations. The backward reasoning of a question is the
forward reasoning of its inverse, (jul, 4 earlier): one fact of a family of facts. Two shifts are
undone in reverse order. No torch here: pages and the teacher read it.
"""

import itertools
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache, lru_cache

MONTHS = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
PEOPLE = tuple("tom ann ben eva max ida leo mia".split())
EVENTS = tuple("moved sang left won slept called".split())
VARIANTS = 3
TEST_SHARE = 1 / 3


@dataclass(frozen=True)
class Cycle:
    """Names that follow one another round and round, and the word for one of them."""

    names: tuple[str, ...] = MONTHS
    word: str = "month"

    def __len__(self) -> int:
        return len(self.names)


YEAR = Cycle()
WEEK = Cycle(tuple("mon tue wed thu fri sat sun".split()), "day")
RAINBOW = Cycle(tuple("red orange yellow green blue violet pink white black".split()), "colour")


@dataclass(frozen=True)
class Question:
    """Go `shifts` steps from `start` and say where that is; a negative shift is "earlier"."""

    start: int
    shifts: tuple[int, ...]
    cycle: Cycle = field(default=YEAR, repr=False)

    @property
    def answer(self) -> int:
        return (self.start + sum(self.shifts)) % len(self.cycle)

    @property
    def inverse(self) -> "Question":
        """From the answer back to the start: the shifts undone, the last one first."""
        undone = tuple(-shift for shift in reversed(self.shifts))
        return Question(self.answer, undone, self.cycle)

    @property
    def around(self) -> "Question":
        """To the same answer the other way round the cycle."""
        size = len(self.cycle)
        other = tuple(shift - size if shift > 0 else shift + size for shift in self.shifts)
        return Question(self.start, other, self.cycle)

    # ------------------------------------------------------------------ texts

    @property
    def gold(self) -> str:
        """The answer as a word."""
        return self.cycle.names[self.answer]

    def text(self, variant: int = 0) -> str:
        """The question Q, told of one of the people and events."""
        return (
            f"it is {self.cycle.names[self.start]} . {self._story(variant)} . "
            f"which {self.cycle.word} ?"
        )

    def rephrased(self, variant: int = 0) -> str:
        """Q in other words, for the baseline that rephrases questions."""
        first = self.cycle.names[self.start]
        return f"{self._story(variant)} , from {first} on . which {self.cycle.word} ?"

    def backward_question(self, variant: int = 0) -> str:
        """Qb: the answer is told, the start is asked for."""
        return f"it ends in {self.gold} . {self._story(variant)} . which start ?"

    @property
    def forward(self) -> str:
        """Rf, the forward reasoning."""
        return self.reasoning(self.answer)

    @property
    def backward(self) -> str:
        """Rb, the backward reasoning: the forward reasoning of the inverse."""
        return self.inverse.forward

    def reasoning(self, answer: int) -> str:
        """The chain of steps from the start, ending in `answer`, right or wrong."""
        names, place, words = self.cycle.names, self.start, [self.cycle.names[self.start]]
        for index, shift in enumerate(self.shifts):
            place = (place + shift) % len(self.cycle)
            last = index == len(self.shifts) - 1
            name = names[answer if last else place]
            words += ["+" if shift > 0 else "-", str(abs(shift)), "=", name]
        return " ".join([*words, ".", "answer", names[answer]])

    def _story(self, variant: int) -> str:
        steps = " , ".join(f"{abs(s)} {'later' if s > 0 else 'earlier'}" for s in self.shifts)
        person = PEOPLE[variant % len(PEOPLE)]
        event = EVENTS[variant // len(PEOPLE) % len(EVENTS)]
        return f"{steps} {person} {event}"


SURFACES = len(PEOPLE) * len(EVENTS)


@cache
def relations(cycle: Cycle = YEAR) -> tuple[Question, ...]:
    """All questions of one shift, by start, then from the longest step back to the longest on."""
    shifts = [s for s in range(1 - len(cycle), len(cycle)) if s]
    return tuple(Question(start, (s,), cycle) for start in range(len(cycle)) for s in shifts)


@dataclass(frozen=True)
class Split:
    """Relations that may be asked in training, and those held out for the test."""

    pool: tuple[Question, ...]
    test: tuple[Question, ...]

    def asked(self, fraction: float) -> tuple[Question, ...]:
        """The first share of the pool; larger shares hold the smaller ones."""
        return self.pool[: max(round(fraction * len(self.pool)), 1)]


@lru_cache(maxsize=64)  # a visitor chooses the seed
def split(seed: int, cycle: Cycle = YEAR) -> Split:
    """A third of the relations, drawn by the seed, is never asked in training."""
    shuffled = list(relations(cycle))
    random.Random(f"revthink split {seed}").shuffle(shuffled)
    cut = round(len(shuffled) * (1 - TEST_SHARE))
    return Split(tuple(shuffled[:cut]), tuple(shuffled[cut:]))


def standing(question: Question, asked: Collection[Question]) -> str:
    """How a question stands to those of the training.

    "asked" itself; its "inverse" was asked; its way "around" was; or it is "new".
    """
    if question in asked:
        return "asked"
    if question.inverse in asked:
        return "inverse"
    return "around" if question.around in asked else "new"


def read_question(text: str) -> Question | None:
    """The question of a text in this world's words, or None."""
    words = text.lower().replace(".", " . ").replace(",", " , ").replace("?", " ? ").split()
    for cycle in (YEAR, WEEK, RAINBOW):
        places = [cycle.names.index(word) for word in words if word in cycle.names]
        shifts = [
            int(number) * (1 if direction == "later" else -1)
            for number, direction in itertools.pairwise(words)
            if direction in ("later", "earlier") and number.isdecimal()
        ]
        if places and 1 <= len(shifts) <= 2 and all(0 < abs(s) < len(cycle) for s in shifts):
            return Question(places[0], tuple(shifts), cycle)
    return None


def words() -> tuple[str, ...]:
    """Every word that this world writes, in a fixed order."""
    marks = ". , ? : = + -".split()
    plain = (
        "it is ends in later earlier which start answer ask back from on comes after before"
    ).split()
    numbers = [str(n) for n in range(1, len(YEAR))]
    cycles = [name for c in (YEAR, WEEK, RAINBOW) for name in (*c.names, c.word)]
    return (*marks, *plain, *numbers, *cycles, *PEOPLE, *EVENTS)
