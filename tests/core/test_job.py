"""Jobs: every way a method can end becomes one event, and closing stops it at its last yield."""

import pickle

import pytest

from engine.core.errors import BadInput, EngineError
from engine.core.job import Done, Failed, Job, Progress, events, finish, relay

HERE = "tests.core.test_job"
closed: list[str] = []


def count(*, seed: int, to: int = 3, fail_at: int | None = None, wrong: bool = False):
    """Yields `to` times, then returns seed + to."""
    try:
        for step in range(to):
            if step == fail_at:
                raise BadInput("to is odd.", "Take 4.") if wrong else KeyError("mid.attn")
            yield Progress(step + 1, to)
    finally:
        closed.append("count")
    return seed + to


def not_a_generator(*, seed: int) -> int:
    return seed


def test_events_end_with_the_returned_value():
    seen = list(events(Job(f"{HERE}:count", {"to": 2}, seed=5)))
    assert seen == [Progress(1, 2), Progress(2, 2), Done(7)]


def test_an_engine_error_becomes_its_sentence_and_advice():
    *_, end = events(Job(f"{HERE}:count", {"fail_at": 1, "wrong": True}))
    assert (end.message, end.advice, end.error_id) == ("to is odd.", "Take 4.", "")
    assert "BadInput" in end.detail


def test_a_bug_becomes_an_error_id_that_the_log_knows(caplog):
    *_, end = events(Job(f"{HERE}:count", {"fail_at": 0}))
    assert isinstance(end, Failed)
    assert len(end.error_id) == 8
    assert end.error_id in end.message
    assert end.error_id in caplog.text
    assert "mid.attn" in caplog.text
    assert "mid.attn" not in end.message


@pytest.mark.parametrize("steps_taken", [1, 2, 3])
def test_closing_the_events_closes_the_method(steps_taken):
    closed.clear()
    running = events(Job(f"{HERE}:count"))
    for _ in range(steps_taken):
        next(running)
    assert not closed
    running.close()
    assert closed == ["count"]


def test_an_unknown_setting_is_refused_with_those_there_are():
    (end,) = events(Job(f"{HERE}:count", {"rounds": 3}))
    assert '"rounds"' in end.message
    assert "to, fail_at, wrong" in end.advice


def test_a_target_that_is_no_generator_is_a_bug():
    (end,) = events(Job(f"{HERE}:not_a_generator"))
    assert "generator" in end.detail


@pytest.mark.parametrize("target", ["nowhere", "engine.core.nothing:run", f"{HERE}:absent"])
def test_a_target_that_is_not_there_fails_as_one_event(target):
    (end,) = events(Job(target))
    assert isinstance(end, Failed)


def test_running_out_of_memory_is_named(monkeypatch):
    monkeypatch.setattr("engine.core.job._resolve", lambda _: out_of_memory)
    (end,) = events(Job("any:thing"))
    assert "memory" in end.message


def out_of_memory(*, seed: int):
    raise MemoryError
    yield


def test_finish_gives_the_result():
    assert finish(count(seed=1, to=4)) == 5


def test_relay_passes_events_on_in_other_words_and_gives_the_result():
    told = relay(count(seed=1, to=2), lambda event: f"{event.done} of {event.total}")
    assert [next(told), next(told)] == ["1 of 2", "2 of 2"]
    assert finish(told) == 3


def test_closing_a_relay_closes_the_part():
    told = relay(count(seed=1), lambda event: event)
    next(told)
    closed.clear()
    told.close()
    assert closed == ["count"]


@pytest.mark.parametrize("value", [Job("a:b", {"x": [1]}, 2), Progress(1, 2), Done(3), Failed("m")])
def test_jobs_and_events_pickle(value):
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("kind", [EngineError, *EngineError.__subclasses__()])
def test_errors_keep_both_sentences_through_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("what", "advice")))
    assert (type(error), error.message, error.advice, str(error)) == (
        kind,
        "what",
        "advice",
        "what advice",
    )
