"""The states of a run, to scrub back through."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.core.errors import BadInput

S = TypeVar("S")

MOST_STATES = 100


@dataclass(frozen=True)
class Trace(Generic[S]):
    """States with rising times and a note each; pictures in it are small and uint8.

    Raises `BadInput` when the three lists do not belong together.
    """

    states: tuple[S, ...]
    times: tuple[float, ...]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.states) == len(self.times) == len(self.notes) > 0:
            raise BadInput("A trace needs at least one state, and a time and a note for each.")
        if any(later < earlier for earlier, later in zip(self.times, self.times[1:], strict=False)):
            raise BadInput("The times of a trace must rise.", "Use minus the noise level.")

    def __len__(self) -> int:
        return len(self.states)

    def index(self, time: float) -> int:
        """The place of the last state that was reached by `time`; the first one before all."""
        return max(0, bisect_right(self.times, time) - 1)

    def at(self, time: float) -> S:
        """The last state that was reached by `time`."""
        return self.states[self.index(time)]


def thinned(steps: Iterable[tuple[S, float, str]], total: int, most: int = MOST_STATES) -> Trace[S]:
    """The trace of a run of `total` (state, time, note) steps with at most `most` kept.

    Kept are evenly spread steps, always with the first and the last one.
    """
    gaps = max(1, min(total, most) - 1)
    wanted = {round(place * (total - 1) / gaps) for place in range(gaps + 1)}
    kept = [step for index, step in enumerate(steps) if index in wanted]
    states, times, notes = zip(*kept, strict=True) if kept else ((), (), ())
    return Trace(tuple(states), tuple(times), tuple(notes))
