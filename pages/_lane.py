"""The one lane in which everything that computes waits, and how a job that only waits leaves it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio.from_thread
import gradio as gr

from engine.core.job import Job
from engine.runners import Events, Runner, fetching

LANE = "cpu"


def stepping_aside(demo: gr.Blocks, run: Runner) -> Runner:
    """The runner of a served app: while a job waits for the Hub, the lane is free for others.

    What computes waits in one lane (`pages._frame.LANE`), and an event is in it from its start to
    its end; a download computes nothing.
    """

    def whole(job: Job) -> Events:
        steps = fetching(job)
        try:
            first = next(steps)
        except StopIteration as end:  # all is here, as nearly always
            is_here = end.value
        else:
            with _aside(demo):
                yield first
                is_here = yield from steps
        if is_here:
            yield from run(job)

    return whole


@contextmanager
def _aside(demo: gr.Blocks) -> Iterator[None]:
    """Within the block the event that runs does not count in its lane.

    Afterwards two may be in the lane until one of them ends; jobs take turns step by step.
    """
    lane = demo._queue.event_queue_per_concurrency_id.get(LANE)

    def count(more: int) -> None:
        if lane is not None:
            lane.current_concurrency += more

    _in_loop(count, -1)
    try:
        yield
    finally:
        _in_loop(count, 1)


def _in_loop(change: Callable[[int], None], more: int) -> None:
    """Calls a function in the thread of the event loop, where the queue counts."""
    try:
        anyio.from_thread.run_sync(change, more)
    except RuntimeError:  # in a run's own thread, or in the loop, where Gradio closes what stopped
        change(more)
