"""Where a job runs: in this process, in a child process, on ZeroGPU, or on a Ray cluster.

    for event in runner()(job):          # RUNNER=local | process | zerogpu | ray
        ...

All four give the same events in the same order, the last of which is `Done` or `Failed`. Closing
the iterator cancels the job: locally before its next step, elsewhere at once. What a job needs from
the Hub is fetched first.

Local jobs take turns step by step: whatever two visitors do at the same time, one step has all
threads of torch to itself, so its time and its numbers are those of an idle machine.
"""

import atexit
import contextlib
import ctypes
import importlib
import logging
import os
import pickle
import secrets
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

from engine.core.errors import BadInput
from engine.core.job import Done, Event, Failed, Job, events

if TYPE_CHECKING:
    import ray

log = logging.getLogger(__name__)

Events: TypeAlias = Generator[Event, None, None]
Runner: TypeAlias = Callable[[Job], Events]

LENGTH = struct.Struct("<Q")
ROOT = Path(__file__).resolve().parents[1]
M_ARENA_MAX = -8  # malloc.h
SHORTEST_GPU_SECONDS, LONGEST_GPU_SECONDS = 10, 60


def runner(name: str | None = None) -> Runner:
    """The runner of this name; by default the one that RUNNER names, or the platform asks for.

    Raises `BadInput` for an unknown name.
    """
    on_space = "zerogpu" if os.environ.get("SPACES_ZERO_GPU") else "local"
    name = name or os.environ.get("RUNNER") or on_space
    if name not in RUNNERS:
        raise BadInput(f"There is no runner {name[:40]}.", f"Set RUNNER to {', '.join(RUNNERS)}.")
    return RUNNERS[name]


# ---------------------------------------------------------------------- before a job


def fetching(job: Job) -> Generator[Event, None, bool]:
    """The progress of what the job needs from the Hub, and whether all of it is here now.

    Where it is not, the last event is `Failed`. This computes nothing, so it takes no turn.
    """
    steps = events(Job("engine.models.fetching:run", {"params": job.params}))
    try:
        for event in steps:
            if isinstance(event, Done):
                return True
            yield event
    finally:
        steps.close()
    return False


def complete(job: Job) -> Events:
    """All events of a job where nothing else computes: what it needs is fetched, then it runs."""
    if (yield from fetching(job)):
        yield from events(job)


# ---------------------------------------------------------------------- this process


class _Turns:
    """A lock that is handed on in the order in which it was asked for.

    Of an ordinary one, whoever lets it go and asks again at once is mostly the first to get it: a
    job of many small steps would let no other one in.
    """

    def __init__(self) -> None:
        self._guard, self._asked, self._is_taken = threading.Lock(), deque[threading.Event](), False

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            self._asked.append(mine)
        mine.wait()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._asked:
                self._asked.popleft().set()
            else:
                self._is_taken = False


_TURN = _Turns()


def local(job: Job) -> Events:
    """Runs the job here, one step at a time, each step alone on the machine."""
    if (yield from fetching(job)):
        yield from _in_turns(job)


def _in_turns(job: Job) -> Events:
    steps = events(job)
    try:
        while True:
            with _TURN:
                event = next(steps)
            yield event
            if isinstance(event, Done | Failed):
                return
    finally:
        steps.close()
        give_back()


def give_back() -> None:
    """What the job freed goes back to the system.

    glibc keeps freed tensors, between others that live on: without this a server that did a few
    hundred runs holds several hundred megabytes that nobody uses.
    """
    if _TRIM is not None:
        _TRIM(0)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TRIM = getattr(_LIBC, "malloc_trim", None)  # of glibc alone
if _LIBC is not None and _TRIM is not None:
    # One arena for all threads, set before there are any: with one each, a run leaves its holes in
    # another arena than the run before. Jobs take turns, so they do not wait for one another there.
    _LIBC.mallopt(M_ARENA_MAX, 1)


# ---------------------------------------------------------------------- a child process

WARM_UP = Job("engine.models.warm:run", {"models": ["world"]})
MOST_IDLE = 2


def process(job: Job) -> Events:
    """Runs the job in a child process, which is killed when the iterator is closed.

    A child that ended well is kept for the next job, as it has the libraries and models loaded.
    """
    try:
        frame = pickle.dumps(job)
    except Exception as error:  # pickle has no common exception
        yield _lost(f"{job.target} has settings that cannot be sent ({type(error).__name__})")
        return
    child = _POOL.take()
    is_reusable = False
    try:
        child.send(frame)
        while True:
            event = child.receive()
            # Before the last event is handed out, as its receiver may not ask for another.
            is_reusable = isinstance(event, Done | Failed)
            yield event
            if is_reusable:
                return
    except (EOFError, OSError, pickle.UnpicklingError):
        yield _lost(f"the child process of {job.target} ended with code {child.exit_code()}")
    finally:
        if is_reusable:
            _POOL.put(child)
        else:
            child.kill()


def warm_up(run: Runner) -> None:
    """What the first visitor would have to wait for, done ahead, where the jobs of `run` run.

    Child processes warm themselves: from now on one more is always ready or on the way.
    """
    if run is process:
        _POOL.keep_spare()
        return
    for event in run(WARM_UP):
        if isinstance(event, Failed):
            log.warning("warming up failed: %s %s", event.message, event.detail)


class _Child:
    """`python -m engine.runners` with pickled frames on its standard input and output."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": _python_path()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.runners"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

        self._is_warming = False

    def warm(self) -> None:
        """Loads the libraries and the shipped model; whoever sends a job meanwhile waits for it."""
        self._is_warming = True
        self._write(pickle.dumps(WARM_UP))

    def send(self, frame: bytes) -> None:
        """Begin a job, once the child is warm. Raises `EOFError` when it is gone."""
        while self._is_warming:
            self._is_warming = not isinstance(self.receive(), Done | Failed)
        self._write(frame)

    def _write(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        _write(self._process.stdin, frame)

    def receive(self) -> Event:
        """The next event. Raises `EOFError` when the child is gone."""
        assert self._process.stdout is not None
        return pickle.loads(_read(self._process.stdout))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def exit_code(self) -> int:
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End it now; it holds nothing that needs a farewell."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not flushed has no reader any more
                    continue


def _python_path() -> str:
    """Where another process finds what this one can import."""
    paths = [str(ROOT), *(path for path in sys.path if path)]
    return os.pathsep.join(dict.fromkeys(paths))


class _Pool:
    """The children that wait for a job; with a spare, as a cancelled child takes its warmth along.

    A job that finds none idle starts one. A child that is still warming up counts as idle, so that
    the first visitor waits for the rest of that and not for a second cold one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._has_spare = False

    def take(self) -> _Child:
        """The child used last, or a new one; in its place a spare begins to warm up."""
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.is_alive:
                    break
                child.kill()
            else:
                child = _Child()
            self._add_spare()
        return child

    def put(self, child: _Child) -> None:
        """Keep a child for the next job."""
        with self._lock:
            if len(self._idle) < MOST_IDLE:
                self._idle.append(child)
                return
        child.kill()

    def keep_spare(self) -> None:
        """From now on a child waits whenever another one works."""
        with self._lock:
            self._has_spare = True
            self._add_spare()

    def _add_spare(self) -> None:
        if self._has_spare and not self._idle:
            spare = _Child()
            spare.warm()
            self._idle.append(spare)

    def stop(self) -> None:
        """End all that wait."""
        with self._lock:
            self._has_spare = False
            while self._idle:
                self._idle.pop().kill()


_POOL = _Pool()


@atexit.register
def stop_children() -> None:
    """End the children that wait for a job."""
    _POOL.stop()


def _lost(what: str) -> Failed:
    error_id = secrets.token_hex(4)
    log.error("error id %s: %s", error_id, what)
    return Failed(
        f"The run was lost, number {error_id}.",
        "Try again with a smaller setting; it may have needed too much memory.",
        what,
        error_id,
    )


def _write(pipe: IO[bytes], frame: bytes) -> None:
    pipe.write(LENGTH.pack(len(frame)))
    pipe.write(frame)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    frame = pipe.read(length)
    if len(frame) < length:
        raise EOFError
    return frame


def serve() -> None:
    """What the child does: run the jobs that come in, until there are no more."""
    source = sys.stdin.buffer
    # The pipe is ours alone; what a library prints goes to the error output.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            job = pickle.loads(_read(source))
            for event in complete(job):
                _write(sink, _pickled(job, event))
            give_back()
        except (EOFError, BrokenPipeError):  # the parent has gone
            return


def _pickled(job: Job, event: Event) -> bytes:
    try:
        return pickle.dumps(event)
    except Exception as error:  # pickle has no common exception
        return pickle.dumps(_lost(f"{job.target} gave a result that cannot be sent: {error}"))


# ---------------------------------------------------------------------- ZeroGPU


def _on_gpu(job: Job) -> Events:
    yield from events(job)


def gpu_seconds(job: Job) -> int:
    """Seconds of GPU to ask for: three times what the card states, within bounds.

    A visitor without that much quota left is refused at once, so asking for more costs too.
    """
    package = job.target.partition(":")[0].rpartition(".")[0]
    card = getattr(importlib.import_module(package), "CARD", None)
    stated = card.budget.gpu_seconds if card else LONGEST_GPU_SECONDS
    return int(min(LONGEST_GPU_SECONDS, max(SHORTEST_GPU_SECONDS, 3 * stated + 5)))


def _decorated(function: Callable[[Job], Events]) -> Callable[[Job], Events]:
    """The function as the platform wants it. Only there `spaces` is imported, and early: it must
    come before anything touches CUDA, and it looks for decorated functions at start."""
    if not os.environ.get("SPACES_ZERO_GPU"):
        return function
    import spaces

    return spaces.GPU(function, duration=gpu_seconds)


_ON_GPU = _decorated(_on_gpu)


def zerogpu(job: Job) -> Events:
    """Runs the job in the platform's GPU worker; on any other machine it is `local`."""
    if _ON_GPU is _on_gpu:
        yield from local(job)
    elif (yield from fetching(job)):  # before the GPU is taken
        yield from _ON_GPU(job)


# ---------------------------------------------------------------------- Ray


def on_ray(job: Job) -> Events:
    """Runs the job as a remote generator task; RAY_ADDRESS names the cluster.

    A task and no actor, because only tasks can be interrupted.
    """
    try:
        import ray
    except ImportError:
        yield Failed(
            "Jobs are to run on Ray, but Ray is not installed.",
            "Run `pip install ray`, or set RUNNER=local.",
        )
        return
    references = None
    is_finished = False
    try:
        references = _sent_to_ray(job)
        for reference in references:
            event = ray.get(reference)
            is_finished = isinstance(event, Done | Failed)
            if isinstance(event, Failed) and event.error_id:
                # The worker's own log is on another machine.
                _log_failure(job, event)
            yield event
    except Exception as error:  # a cluster that cannot be had has no common exception either
        yield _lost(f"{job.target} on Ray: {type(error).__name__}: {error}")
    finally:
        if references is not None and not is_finished:
            with contextlib.suppress(Exception):  # a cluster that is gone has nothing to cancel
                ray.cancel(references)


def _sent_to_ray(job: Job) -> "Iterator[ray.ObjectRef]":
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": _python_path()}})
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_ray_events)
    return task.options(num_returns="streaming").remote(job)


def _log_failure(job: Job, event: Failed) -> None:
    log.error("job %s failed on Ray, error id %s\n%s", job.target, event.error_id, event.detail)


def _ray_events(job: Job) -> Events:
    yield from complete(job)


RUNNERS: dict[str, Runner] = {
    "local": local,
    "process": process,
    "zerogpu": zerogpu,
    "ray": on_ray,
}


if __name__ == "__main__":
    serve()
