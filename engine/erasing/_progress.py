"""The progress of a part, told as a share of the whole job, so that it never runs back."""

from collections.abc import Generator
from typing import TypeVar

from engine.core.job import Progress, relay

R = TypeVar("R")
WHOLE = 100


def within(
    steps: Generator[Progress, None, R], start: float, end: float, *, shown: object = None
) -> Generator[Progress, None, R]:
    """The events of a part that goes from `start` to `end` of the whole (0 to 1).

    `shown` takes the place of the part's own previews. Several counts within the part may follow
    one another; the farthest so far is told.
    """
    farthest = start

    def tell(event: Progress) -> Progress:
        nonlocal farthest
        share = min(event.done / max(event.total, 1), 1.0)
        farthest = max(farthest, start + share * (end - start))
        preview = event.preview if shown is None else shown
        return Progress(int(WHOLE * farthest), WHOLE, event.note, preview)

    return (yield from relay(steps, tell))
