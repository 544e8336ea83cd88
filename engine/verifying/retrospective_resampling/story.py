"""The story of an answer: each word, when it was said, and when it was taken back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from engine.verifying.retrospective_resampling.loop import Back, Event, Token, Verdict
from engine.verifying.retrospective_resampling.results import Judged, Piece
from engine.verifying.retrospective_resampling.tags import Tags

Truth = Callable[[str], bool | None]


@dataclass
class _Word:
    token: int
    phrase: int
    born: int
    struck: int = -1


@dataclass
class Story:
    """Listens to the events of an engine.

    Tokens that stand are kept in order, so going back to a length strikes those behind it.
    """

    tags: Tags
    words: Callable[[Sequence[int]], str]
    truth: Truth
    told: list[_Word] = field(default_factory=list)
    standing: list[int] = field(default_factory=list)  # places in `told`
    phrases: list[Judged] = field(default_factory=list)
    heights: list[int] = field(default_factory=lambda: [0])
    spelled: dict[int, str] = field(default_factory=dict)
    starts: list[int] = field(default_factory=lambda: [0])  # length of the text at each attempt

    @property
    def steps(self) -> int:
        return len(self.heights) - 1

    def hear(self, event: Event) -> None:
        """Take note of one event."""
        if isinstance(event, Token):
            self._say(event.id)
        elif isinstance(event, Verdict):
            self._judge(event)
        elif isinstance(event, Back):
            self._strike(event.length)
        else:
            self.starts.append(len(self.standing))

    def _say(self, token: int) -> None:
        self.heights.append(len(self.standing) + 1)
        self.told.append(_Word(token, -1, self.steps))
        self.standing.append(len(self.told) - 1)

    def _judge(self, verdict: Verdict) -> None:
        """Give the words of the phrase its number: those since the last mark that opened one."""
        judged = Judged(
            verdict.phrase,
            verdict.p_un,
            verdict.is_kept,
            self.truth(verdict.phrase),
            verdict.attempt,
            verdict.temperature,
        )
        # The published engine judges only when the whole attempt is there.
        opened = next(
            (place for place, word in enumerate(self.told)
             if word.token == self.tags.span and word.phrase < 0 and word.struck < 0), None,
        )  # fmt: skip
        self.phrases.append(judged)
        for place in range(len(self.told) if opened is None else opened, len(self.told)):
            self.told[place].phrase = len(self.phrases) - 1
            if self.told[place].token in self.tags.closers:
                break

    def _strike(self, length: int) -> None:
        if length >= len(self.standing):
            return
        self.heights.append(length)
        for place in self.standing[length:]:
            word = self.told[place]
            word.struck = self.steps
            if word.phrase >= 0:
                self.phrases[word.phrase] = replace(self.phrases[word.phrase], stands=False)
        del self.standing[length:]

    def pieces(self) -> tuple[Piece, ...]:
        """All words in the order in which they were said, marks left out."""
        marks = (self.tags.span, *self.tags.closers)
        return tuple(
            Piece(self._spell(word.token), word.phrase, word.born, word.struck)
            for word in self.told
            if word.token not in marks
        )

    def _spell(self, token: int) -> str:
        """One token as text, looked up once."""
        if token not in self.spelled:
            self.spelled[token] = self.words([token])
        return self.spelled[token]
