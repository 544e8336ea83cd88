"""One job computes at a time; the others wait in the order they came and are told for how long.

    lane = Lane()
    for event in lane.through(job.target, lambda: runner(job)):
        ...                # Waiting(0, 1, "3rd in the queue, about 40 s"), then the job

How long an action takes is what its last runs took here; before one has ended, no time is told. An
action whose last runs all took less than a second is short: its jobs wait in a line of their own
and compute beside a long one. So at most two jobs compute, a long one and a short one.
"""

import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from engine.core import budgets
from engine.core.job import Done, Event, Failed, Progress

Events = Generator[Event, None, None]

SHORT_SECONDS = 1.0
# Enough to tell a first run, which loads a model, from what the action takes.
FEWEST_RUNS, LAST_RUNS = 3, 5
# Whoever waits is told again after so long, news or not: between two events it can be stopped.
TICK_SECONDS = 1.0

FULL = Failed(
    f"The queue is full: {budgets.WAITING_RUNS} runs wait already.", "Try again in a moment."
)


@dataclass(frozen=True)
class Waiting(Progress):
    """A job that has not begun; its note says its place and, once that is known, for how long."""


@dataclass(eq=False)
class _Ticket:
    """One job in the lane; `began` is set when its turn has come."""

    target: str
    is_short: bool
    began: float = 0.0


@dataclass
class _Durations:
    """Seconds that the last runs of an action took."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_RUNS))

    @property
    def is_short(self) -> bool:
        """Whether a further run will be short, as far as one can know."""
        return len(self.seconds) >= FEWEST_RUNS and max(self.seconds) < SHORT_SECONDS

    @property
    def usual(self) -> float | None:
        """Seconds to expect of a further run, None before the first."""
        return statistics.median(self.seconds) if self.seconds else None


class Lane:
    """Lets one long job and one short job compute at a time."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._running: list[_Ticket] = []
        self._durations: defaultdict[str, _Durations] = defaultdict(_Durations)

    def through(self, target: str, begin: Callable[[], Events]) -> Events:
        """The events of a job once its turn has come, and before them how long it waits.

        `target` names its action. What was told comes again as long as there is nothing new, so
        that whoever reads can stop. Where too many wait, the only event is `Failed`.
        """
        ticket = self._join(target)
        if ticket is None:
            yield FULL
            return
        try:
            yield from self._turn(ticket)
            yield from self._timed(ticket, begin())
        finally:
            self._leave(ticket)

    def _join(self, target: str) -> _Ticket | None:
        """A ticket at the end of its line, or None where the queue is full."""
        with self._news:
            ticket = _Ticket(target, self._durations[target].is_short)
            if self._ahead(ticket) and len(self._waiting) >= budgets.WAITING_RUNS:
                return None
            self._waiting.append(ticket)
        return ticket

    def _turn(self, ticket: _Ticket) -> Events:
        """Waits until no other job of its line is ahead."""
        has_waited = False
        while not self._begins(ticket):
            with self._news:
                words = self._words(ticket)
            yield Waiting(0, 1, words)
            has_waited = True
            with self._news:
                self._news.wait(TICK_SECONDS)
        if has_waited:
            yield Waiting(0, 1, "Starting")

    def _begins(self, ticket: _Ticket) -> bool:
        with self._news:
            if self._ahead(ticket):
                return False
            self._waiting.remove(ticket)
            self._running.append(ticket)
            ticket.began = time.monotonic()
        return True

    def _timed(self, ticket: _Ticket, events: Events) -> Events:
        """The events of a job; how long it took is kept when it ends well.

        The last one is handed out when the next job may begin: who got it may never ask again.
        """
        try:
            for event in events:
                if isinstance(event, Done):
                    with self._news:
                        took = time.monotonic() - ticket.began
                        self._durations[ticket.target].seconds.append(took)
                if isinstance(event, Done | Failed):
                    self._leave(ticket)
                yield event
        finally:
            events.close()

    def _leave(self, ticket: _Ticket) -> None:
        with self._news:
            for line in (self._waiting, self._running):
                if ticket in line:
                    line.remove(ticket)
            self._news.notify_all()

    def _ahead(self, ticket: _Ticket) -> list[_Ticket]:
        """The jobs of the same line that end before this one begins; that which runs is first."""
        known = ticket in self._waiting
        before = self._waiting[: self._waiting.index(ticket)] if known else self._waiting
        return [one for one in (*self._running, *before) if one.is_short == ticket.is_short]

    def _words(self, ticket: _Ticket) -> str:
        ahead = self._ahead(ticket)
        place = sum(not one.began for one in ahead) + 1
        left = [self._seconds_left(one) for one in ahead]
        known = [seconds for seconds in left if seconds is not None]
        told = f", {about(sum(known))}" if len(known) == len(left) else ""
        return f"{ordinal(place)} in the queue{told}"

    def _seconds_left(self, ticket: _Ticket) -> float | None:
        """Seconds until this job ends, None where its action has never been timed."""
        usual = self._durations[ticket.target].usual
        if usual is None or not ticket.began:
            return usual
        return max(1.0, usual - (time.monotonic() - ticket.began))


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{'th' if place % 100 in (11, 12, 13) else ending}"


def about(seconds: float) -> str:
    """A time as one says it: about 7 s, about 40 s, about 3 min."""
    if seconds >= 100:
        return f"about {round(seconds / 60)} min"
    step = 1 if seconds < 10 else 5
    return f"about {max(1, round(seconds / step) * step)} s"
