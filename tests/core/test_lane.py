"""The queue of a server: one long job at a time, short ones beside it, and honest waiting times."""

import threading
import time
from collections.abc import Iterator

import pytest

from engine.core import budgets
from engine.core import lane as module
from engine.core.job import Done, Event, Failed, Progress
from engine.core.lane import Lane, Waiting, about, ordinal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)


class Held:
    """A job that computes until it is let go."""

    def __init__(self, lane: Lane, target: str = "long") -> None:
        self.gate, self.seen = threading.Event(), []
        self.events = lane.through(target, self._work)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _work(self) -> Iterator[Event]:
        yield Progress(1, 2)
        assert self.gate.wait(20)
        yield Done("good")

    def _read(self) -> None:
        for event in self.events:
            self.seen.append(event)

    def has_begun(self) -> bool:
        return any(type(event) is Progress for event in self.seen)

    def is_waiting(self) -> bool:
        return any(isinstance(event, Waiting) for event in self.seen)

    @property
    def told(self) -> str:
        return self.seen[-1].note

    def end(self) -> None:
        self.gate.set()
        self.thread.join(20)
        assert self.seen[-1] == Done("good")


def soon(condition) -> bool:
    for _ in range(2000):
        if condition():
            return True
        time.sleep(0.005)
    return False


def took(lane: Lane, target: str, *seconds: float) -> Lane:
    """The lane after runs of an action that took so long."""
    lane._durations[target].seconds.extend(seconds)
    return lane


def test_a_job_that_finds_nobody_begins_at_once():
    def job():
        yield Progress(1, 1)
        yield Done(3)

    assert list(Lane().through("long", job)) == [Progress(1, 1), Done(3)]


def test_jobs_begin_one_after_another_in_the_order_they_came():
    lane = Lane()
    first = Held(lane)
    assert soon(first.has_begun)
    second = Held(lane)
    assert soon(second.is_waiting)
    third = Held(lane)
    assert soon(third.is_waiting)
    assert (second.told, third.told) == ("1st in the queue", "2nd in the queue")
    first.end()
    assert soon(second.has_begun)
    assert soon(lambda: third.told.startswith("1st in the queue"))
    assert not third.has_begun()
    second.end()
    assert soon(third.has_begun)
    third.end()


def test_the_time_told_is_what_the_jobs_ahead_usually_take():
    lane = took(Lane(), "long", 30.0, 32.0, 100.0)
    first = Held(lane)
    assert soon(first.has_begun)
    waiting = [Held(lane)]
    assert soon(waiting[0].is_waiting)
    waiting.append(Held(lane))
    assert soon(waiting[1].is_waiting)
    assert waiting[0].told == "1st in the queue, about 30 s"
    assert waiting[1].told == "2nd in the queue, about 65 s"
    for job in (first, *waiting):
        job.end()


@pytest.mark.slow
def test_the_time_told_goes_down_while_the_job_ahead_computes():
    lane = took(Lane(), "long", 8.4)
    first = Held(lane)
    assert soon(first.has_begun)
    second = Held(lane)
    assert soon(second.is_waiting)
    assert second.told.endswith("about 8 s")
    assert soon(lambda: second.told.endswith("about 7 s"))
    first.end()
    second.end()


def test_nothing_is_promised_of_an_action_that_was_never_timed():
    lane = took(Lane(), "timed", 20.0)
    first = Held(lane, "never timed")
    assert soon(first.has_begun)
    second = Held(lane, "timed")
    assert soon(second.is_waiting)
    assert second.told == "1st in the queue"
    first.end()
    second.end()


def test_a_job_that_failed_or_was_stopped_is_no_measure():
    def failing():
        yield Failed("no")

    def stopped():
        yield Progress(1, 2)
        yield Done(1)

    lane = Lane()
    list(lane.through("long", failing))
    events = lane.through("long", stopped)
    next(events)
    events.close()
    assert lane._durations["long"].usual is None


def test_a_short_action_computes_beside_a_long_one_and_after_another_short_one():
    lane = took(Lane(), "short", 0.2, 0.3, 0.2)
    long = Held(lane)
    assert soon(long.has_begun)
    short, next_short = Held(lane, "short"), None
    assert soon(short.has_begun)
    next_short = Held(lane, "short")
    assert soon(next_short.is_waiting)
    short.end()
    assert soon(next_short.has_begun)
    assert not long.gate.is_set()
    next_short.end()
    long.end()


@pytest.mark.parametrize("seconds", [(0.2, 0.2), (0.2, 0.2, 1.5, 0.2)])
def test_an_action_is_short_only_when_that_was_measured_often_enough(seconds):
    lane = took(Lane(), "action", *seconds)
    long = Held(lane)
    assert soon(long.has_begun)
    other = Held(lane, "action")
    assert soon(other.is_waiting)
    long.end()
    other.end()


@pytest.mark.slow
def test_an_action_becomes_long_again_when_a_run_of_it_was():
    lane = took(Lane(), "action", 0.1, 0.1, 0.1)

    def slow():
        time.sleep(1.05)
        yield Done(1)

    list(lane.through("action", slow))
    assert not lane._durations["action"].is_short


def test_who_leaves_while_waiting_gives_the_place_to_the_next():
    lane = Lane()
    first = Held(lane)
    assert soon(first.has_begun)
    leaves = lane.through("long", lambda: iter(()))
    assert next(leaves).note == "1st in the queue"
    last = Held(lane)
    assert soon(lambda: last.is_waiting() and last.told == "2nd in the queue")
    leaves.close()
    assert soon(lambda: last.told == "1st in the queue")
    first.end()
    last.end()


def test_one_too_many_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budgets, "WAITING_RUNS", 1)
    lane = Lane()
    first = Held(lane)
    assert soon(first.has_begun)
    second = Held(lane)
    assert soon(second.is_waiting)
    assert list(lane.through("long", lambda: iter(()))) == [module.FULL]
    first.end()
    second.end()


@pytest.mark.parametrize("end", [Done(1), Failed("no")])
def test_the_next_one_may_begin_though_nobody_asks_on_after_the_last_event(end: Event):
    """As an error that is raised on the way keeps what it came from."""

    def job():
        yield end

    lane = Lane()
    held = lane.through("long", job)
    assert next(held) is end
    assert list(lane.through("long", job)) == [end]
    assert type(held).__name__ == "generator"  # not closed, and still here


def test_a_job_whose_start_raises_leaves_the_lane():
    def broken():
        raise RuntimeError("no")
        yield

    lane = Lane()
    with pytest.raises(RuntimeError):
        list(lane.through("long", broken))
    assert (lane._running, lane._waiting) == ([], [])


@pytest.mark.parametrize(
    ("place", "text"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")],
)
def test_places_are_told_as_one_says_them(place: int, text: str):
    assert ordinal(place) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "about 1 s"), (7.3, "about 7 s"), (38.1, "about 40 s"), (97.0, "about 95 s"),
     (100.0, "about 2 min"), (170.0, "about 3 min")],
)  # fmt: skip
def test_times_are_told_as_one_says_them(seconds: float, text: str):
    assert about(seconds) == text
