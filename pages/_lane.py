"""The queue in which everything that computes waits, in the pages and over the API."""

from engine.core import budgets
from engine.core.job import Job
from engine.core.lane import Lane
from engine.runners import Events, Runner, fetching

# Gradio lets in all that the queue takes and a few more, which are told that it is full.
LANE = {"concurrency_id": "runs", "concurrency_limit": budgets.WAITING_RUNS + 8}


def queued(run: Runner, lane: Lane) -> Runner:
    """The runner of a served app: a job waits for its turn, and before that for the Hub.

    A download computes nothing, so whoever waits for one lets others pass.
    """

    def whole(job: Job) -> Events:
        if (yield from fetching(job)):
            yield from lane.through(job.target, lambda: run(job))

    return whole
