"""Runs that outlive their page: found by key alone, stopped, and bounded in bytes and time."""

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pytest

from engine.core import runs as module
from engine.core.job import Done, Event, Failed, Progress
from engine.core.recipe import Recipe
from engine.core.runs import Run, Runs

RECIPE = Recipe("ripple")


@dataclass(frozen=True)
class Picture:
    pixels: np.ndarray


class Slow:
    """A job of many steps, each of which waits until it is let through."""

    def __init__(self, end: Event | None = None) -> None:
        self.gate, self.closed, self.end = threading.Semaphore(0), threading.Event(), end

    def __call__(self) -> Generator[Event, None, None]:
        try:
            for step in range(1, 5):
                yield Progress(step, 4)
                self.gate.acquire()
            yield self.end or Done(step)
        finally:
            self.closed.set()


def ended(run: Run) -> Run:
    while not run.ended:
        time.sleep(0.005)
    return run


def kept(runs: Runs, result: object) -> Run:
    """A run that ended with this result while nobody watched."""

    def job() -> Generator[Event, None, None]:
        yield Done(result)

    run = ended(runs.start(job, RECIPE, "page"))
    runs._tidy()
    return run


def test_a_watcher_sees_the_last_event_and_a_second_one_sees_it_again():
    job, runs = Slow(), Runs()
    run = runs.start(job, RECIPE, "first page")
    first = run.watch("first page")
    assert next(first) == Progress(1, 4)
    first.close()  # the page is left
    job.gate.release(9)
    assert list(runs.find(run.key).watch("second page"))[-1] == Done(4)
    assert list(runs.find(run.key).watch("third page")) == [Done(4)]


def test_only_the_key_finds_a_run():
    runs = Runs()
    run = kept(runs, "mine")
    assert len(run.key) > 20
    assert runs.find("") is runs.find(run.key[:-1]) is runs.find("page") is None
    assert kept(runs, "yours").key != run.key


def test_stop_ends_the_run_of_this_page_and_no_other():
    mine, other, runs = Slow(), Slow(), Runs()
    run, stays = runs.start(mine, RECIPE, "page"), runs.start(other, RECIPE, "other page")
    runs.stop("page", "ripple", "run")
    mine.gate.release(9), other.gate.release(9)
    assert mine.closed.wait(5)
    assert runs.find(run.key) is None
    assert list(stays.watch("other page"))[-1] == Done(4)


def test_a_run_is_stopped_when_nobody_has_watched_it_for_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "UNWATCHED_SECONDS", 0.0)
    job, runs = Slow(), Runs()
    run = runs.start(job, RECIPE, "page")
    job.gate.release(9)
    ended(run)
    assert job.closed.is_set()
    assert runs.find(run.key) is None


def test_a_run_that_is_watched_is_not(monkeypatch: pytest.MonkeyPatch):
    job, runs = Slow(), Runs()
    run = runs.start(job, RECIPE, "page")
    events = run.watch("page")
    next(events)
    monkeypatch.setattr(module, "UNWATCHED_SECONDS", 0.0)
    job.gate.release(9)
    assert list(events)[-1] == Done(4)


def test_what_failed_is_told_and_what_the_runner_raised_is_raised():
    runs = Runs()
    late = Slow(Failed("Too late.", "Be early."))
    late.gate.release(9)
    run = ended(runs.start(late, RECIPE, "page"))
    assert list(run.watch("page")) == [Failed("Too late.", "Be early.")]

    def broken() -> Generator[Event, None, None]:
        yield Progress(1, 2)
        raise KeyError("runner")

    with pytest.raises(KeyError, match="runner"):
        list(runs.start(broken, RECIPE, "page").watch("page"))


def test_results_are_kept_within_bytes_and_the_ones_not_seen_yet_the_longest(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "MOST_ENDED_MEGABYTES", 5)
    runs, two = Runs(), Picture(np.zeros(2_000_000, np.uint8))
    seen = kept(runs, two)
    list(seen.watch("page"))
    first, second = kept(runs, two), kept(runs, two)
    assert runs.find(seen.key) is None
    assert runs.find(first.key) is first
    huge = kept(runs, Picture(np.zeros(6_000_000, np.uint8)))
    assert runs.find(huge.key) is None
    assert runs.find(second.key) is second
    assert kept(runs, b"x" * 6_000_000).result_bytes == 6_000_000


def test_results_are_kept_for_a_time_and_in_number(monkeypatch: pytest.MonkeyPatch):
    runs = Runs()
    many = [kept(runs, n) for n in range(module.MOST_ENDED + 3)]
    assert [runs.find(run.key) is not None for run in many].count(True) == module.MOST_ENDED
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
    assert runs.find(many[-1].key) is None


def test_of_many_runs_that_nobody_watches_only_some_go_on():
    runs, jobs = Runs(), [Slow() for _ in range(module.MOST_UNWATCHED + 2)]
    started = [runs.start(job, RECIPE, f"page {n}") for n, job in enumerate(jobs)]
    runs._tidy()
    for job in jobs:
        job.gate.release(9)
    found = [runs.find(run.key) for run in started]
    assert found[:2] == [None, None]
    assert all(ended(run)._latest == Done(4) for run in found[2:])
