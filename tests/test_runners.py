"""Every runner gives the same events and one end, and can be stopped at any step."""

import builtins
import os
import pickle
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from engine import runners
from engine.core.errors import BadInput
from engine.core.job import Done, Failed, Job, Progress
from engine.runners import runner

TOY = "tests.toy_method.algorithm"
HERE = ("local", "process", "zerogpu")


@pytest.fixture(scope="module", autouse=True)
def _no_children_left():
    yield
    runners.stop_children()


def lines(path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("name", HERE)
def test_each_runner_gives_the_events_of_the_job(name, same_bits):
    seen = list(runner(name)(Job(f"{TOY}:run", {"steps": 4}, seed=9)))
    assert [type(event) for event in seen] == [Progress] * 4 + [Done]
    assert [(event.done, event.total, event.note) for event in seen[:2]] == [
        (1, 4, "step 0"),
        (2, 4, "step 1"),
    ]
    expected = list(runner("local")(Job(f"{TOY}:run", {"steps": 4}, seed=9)))
    assert same_bits(seen[-1].result.picture, expected[-1].result.picture)
    assert seen[-1].result.curve == expected[-1].result.curve


@pytest.mark.parametrize("name", HERE)
def test_an_engine_error_ends_in_message_and_advice(name):
    *_, last = runner(name)(Job(f"{TOY}:run", {"steps": 0}))
    assert isinstance(last, Failed)
    assert (last.message, last.advice) == (
        "steps must be at least 1, got 0.",
        "3 is a good number.",
    )
    assert last.error_id == ""


@pytest.mark.parametrize("name", HERE)
def test_a_bug_ends_in_an_error_id_and_no_detail_in_the_message(name):
    *_, last = runner(name)(Job(f"{TOY}:stumble"))
    assert isinstance(last, Failed)
    assert last.error_id in last.message
    assert "secret" not in last.message + last.advice


@pytest.mark.parametrize("name", HERE)
def test_an_unknown_target_or_setting_is_a_failure_and_no_exception(name):
    for job in (Job("no.such.module:run"), Job(f"{TOY}:run", {"colour": 1})):
        *_, last = runner(name)(job)
        assert isinstance(last, Failed)


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("after", [1, 3])
def test_closing_stops_within_one_step(name, after, tmp_path):
    log = tmp_path / "log"
    steps = runner(name)(Job(f"{TOY}:creep", {"log": str(log)}))
    for _ in range(after):
        next(steps)
    steps.close()
    written = [line for line in lines(log) if line != "closed"]
    time.sleep(0.25)
    assert [line for line in lines(log) if line != "closed"] == written
    # A child goes on while its parent waits for a core, but not to the end of its 200 steps.
    most = after if name != "process" else 100
    assert after <= len(written) <= most


def test_closing_a_local_job_runs_its_cleanup(tmp_path):
    log = tmp_path / "log"
    steps = runner("local")(Job(f"{TOY}:creep", {"log": str(log)}))
    next(steps)
    steps.close()
    assert lines(log)[-1] == "closed"


def test_a_child_runs_elsewhere_and_is_used_again_after_a_good_end():
    processes = []
    for _ in range(2):
        *_, last = runner("process")(Job(f"{TOY}:run"))
        processes.append(last.result.process)
    *_, here = runner("local")(Job(f"{TOY}:run"))
    assert processes[0] == processes[1] != here.result.process


def test_the_next_job_runs_after_a_cancelled_one(tmp_path):
    steps = runner("process")(Job(f"{TOY}:creep", {"log": str(tmp_path / "log")}))
    next(steps)
    steps.close()
    *_, last = runner("process")(Job(f"{TOY}:run"))
    assert isinstance(last, Done)


def test_a_child_that_dies_ends_in_a_failure(caplog):
    *_, last = runner("process")(Job(f"{TOY}:stumble", {"how": "die"}))
    assert isinstance(last, Failed)
    assert last.error_id in caplog.text
    assert "code 3" in caplog.text


def test_a_result_that_cannot_be_sent_ends_in_a_failure():
    *_, last = runner("process")(Job(f"{TOY}:stumble", {"how": "unsendable"}))
    assert isinstance(last, Failed)
    assert last.error_id


def test_settings_that_cannot_be_sent_end_in_a_failure():
    (last,) = runner("process")(Job(f"{TOY}:run", {"name": lambda: None}))
    assert isinstance(last, Failed)


def test_what_a_library_prints_does_not_disturb_the_events():
    *_, last = runner("process")(Job(f"{TOY}:noisy"))
    assert last == Done(1)


def test_two_local_jobs_take_turns_step_by_step(tmp_path):
    """No step of one runs during a step of the other, and both come to their end."""
    inside, overlaps, ends = [0], [], []

    def watched(*, seed):
        for step in range(20):
            inside[0] += 1
            overlaps.append(inside[0] > 1)
            time.sleep(0.001)
            inside[0] -= 1
            yield Progress(step, 20)
        return seed

    module = types.ModuleType("watched_toy")
    module.run = watched
    sys.modules["watched_toy"] = module
    try:
        jobs = [Job("watched_toy:run", {}, seed) for seed in range(4)]
        threads = [
            threading.Thread(target=lambda job=job: ends.append(list(runners.local(job))[-1]))
            for job in jobs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        del sys.modules["watched_toy"]
    assert sorted(end.result for end in ends) == [0, 1, 2, 3]
    assert not any(overlaps)


def test_turns_are_taken_in_the_order_in_which_they_were_asked_for():
    """An ordinary lock goes back to the one that let it go: it asks before the other wakes up."""
    turns, order, asked = runners._Turns(), [], threading.Event()

    def other():
        asked.set()
        with turns:
            order.append("other")

    with turns:
        thread = threading.Thread(target=other)
        thread.start()
        asked.wait(5)
        while not turns._asked:
            time.sleep(0.001)
    with turns:
        order.append("first again")
    thread.join()
    assert order == ["other", "first again"]


def test_an_abandoned_job_does_not_hold_up_the_next():
    waiting = runners.local(Job(f"{TOY}:run"))
    next(waiting)
    assert isinstance(list(runners.local(Job(f"{TOY}:run")))[-1], Done)
    waiting.close()


def test_the_environment_names_the_runner(monkeypatch):
    monkeypatch.setenv("RUNNER", "process")
    assert runner() is runners.process
    monkeypatch.setenv("RUNNER", "moon")
    with pytest.raises(BadInput, match="local, process, zerogpu, ray"):
        runner()
    monkeypatch.delenv("RUNNER")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert runner() is runners.zerogpu


def test_on_zerogpu_the_generator_is_decorated_with_seconds_from_the_card(monkeypatch):
    asked = {}

    def gpu(function, duration):
        asked["function"], asked["duration"] = function, duration
        return function

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    decorated = runners._decorated(runners._on_gpu)
    assert asked["function"] is runners._on_gpu
    assert asked["duration"](Job(f"{TOY}:run")) == 11  # 3 * 2 + 5
    assert isinstance(list(decorated(Job(f"{TOY}:run")))[-1], Done)
    pickle.dumps(runners._on_gpu)


def test_without_ray_one_learns_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without_ray(name, *rest):
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    (last,) = runner("ray")(Job(f"{TOY}:run"))
    assert isinstance(last, Failed)
    assert "pip install ray" in last.advice


@pytest.mark.skipif(runners._TRIM is None, reason="needs glibc")
def test_what_a_job_freed_goes_back_to_the_system():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytearray(b"1" * 100_000) for _ in range(2000)]
    kept = blocks[::20]  # between what is freed, as a membrane stays between a run's tensors
    del blocks
    before = resident()
    list(runner("local")(Job(f"{TOY}:run", {"steps": 1})))
    assert len(kept) == 100
    assert resident() < before - 100e6


# ---------------------------------------------------------------------- a warm spare


@pytest.fixture
def children(monkeypatch) -> list[int]:
    """Process ids of the children in the order in which they start; their warm-up is short."""
    runners.stop_children()
    started: list[int] = []

    class Counted(runners._Child):
        def __init__(self) -> None:
            super().__init__()
            started.append(self._process.pid)

    monkeypatch.setattr(runners, "_Child", Counted)
    monkeypatch.setattr(runners, "WARM_UP", Job(f"{TOY}:run", {"steps": 1}))
    yield started
    runners.stop_children()


def worked_in() -> int:
    *_, last = runner("process")(Job(f"{TOY}:run"))
    return last.result.process


def test_the_first_visitor_waits_for_the_child_that_is_warming_up(children):
    runners.warm_up(runners.process)
    assert len(children) == 1
    assert worked_in() == children[0]
    assert len(children) == 2  # the spare, which took its place


def test_after_a_cancelled_job_the_next_one_finds_a_spare(children, tmp_path):
    runners.warm_up(runners.process)
    steps = runner("process")(Job(f"{TOY}:creep", {"log": str(tmp_path / "log")}))
    next(steps)
    steps.close()
    assert worked_in() == children[1]
    assert len(children) == 3


def test_after_a_crash_the_next_job_finds_a_spare(children):
    runners.warm_up(runners.process)
    *_, last = runner("process")(Job(f"{TOY}:stumble", {"how": "die"}))
    assert isinstance(last, Failed)
    assert worked_in() == children[1]


def test_well_ended_jobs_start_no_more_children(children):
    runners.warm_up(runners.process)
    assert len({worked_in() for _ in range(3)}) == 1
    assert len(children) == 2


def test_a_spare_that_died_in_waiting_is_passed_over(children):
    runners.warm_up(runners.process)
    os.kill(children[0], 9)
    os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOWAIT)
    assert worked_in() == children[1]


def test_a_single_run_keeps_no_spare(children):
    worked_in()
    assert len(children) == 1


def test_elsewhere_warming_up_is_a_job_like_others(caplog, monkeypatch):
    seen = []

    def run(job):
        seen.append(job)
        yield Failed("no", detail="the reason")

    runners.warm_up(run)
    assert seen == [runners.WARM_UP]
    assert "the reason" in caplog.text


# ---------------------------------------------------------------------- Ray


def fake_ray(given=(), init=lambda **_: None, get=lambda reference: reference):
    """As much of Ray as the runner asks for; the task gives these events."""
    task = types.SimpleNamespace(
        options=lambda **_: types.SimpleNamespace(remote=lambda job: iter(given))
    )
    return types.SimpleNamespace(
        is_initialized=lambda: False,
        init=init,
        cluster_resources=dict,
        remote=lambda **_: lambda function: task,
        get=get,
        cancel=lambda reference: None,
    )


def test_a_cluster_that_cannot_be_had_is_a_failure_with_a_number(monkeypatch, caplog):
    def refuse(**_):
        raise ConnectionError("ray://nowhere:10001 does not answer")

    monkeypatch.setitem(sys.modules, "ray", fake_ray(init=refuse))
    (last,) = runner("ray")(Job(f"{TOY}:run"))
    assert isinstance(last, Failed)
    assert last.error_id in caplog.text
    assert "does not answer" in caplog.text
    assert "nowhere" not in last.message + last.advice


def test_a_worker_that_is_lost_is_a_failure(monkeypatch, caplog):
    def lost(reference):
        raise RuntimeError("WorkerCrashedError")

    monkeypatch.setitem(sys.modules, "ray", fake_ray([1], get=lost))
    (last,) = runner("ray")(Job(f"{TOY}:run"))
    assert last.error_id in caplog.text


def test_the_error_ids_of_ray_are_in_the_log_of_the_server(monkeypatch, caplog):
    failed = Failed("This is a fault of ours, number 12ab.", "", "Traceback: the reason", "12ab")
    monkeypatch.setitem(sys.modules, "ray", fake_ray([Progress(1, 2), failed]))
    assert list(runner("ray")(Job(f"{TOY}:run"))) == [Progress(1, 2), failed]
    assert "12ab" in caplog.text
    assert "the reason" in caplog.text
