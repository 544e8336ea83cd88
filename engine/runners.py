"""Where a job runs: in this process, in a child process, on ZeroGPU, or on a Ray cluster.

    for event in runner()(job):          # RUNNER=local | process | zerogpu | ray
        ...

All four give the same events in the same order, the last of which is `Done` or `Failed`. Closing
the iterator cancels the job: locally before its next step, elsewhere at once.

Local jobs take turns step by step: whatever two visitors do at the same time, one step has all
threads of torch to itself, so its time and its numbers are those of an idle machine.
"""

import atexit
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
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, TypeAlias

from engine.core.errors import BadInput
from engine.core.job import Done, Event, Failed, Job, events

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


# ---------------------------------------------------------------------- this process

_TURN = threading.Lock()


def local(job: Job) -> Events:
    """Runs the job here, one step at a time, each step alone on the machine."""
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


def process(job: Job) -> Events:
    """Runs the job in a child process, which is killed when the iterator is closed.

    A child that ended well is kept for the next job, as it has the libraries and models loaded.
    """
    try:
        frame = pickle.dumps(job)
    except Exception as error:  # pickle has no common exception
        yield _lost(f"{job.target} has settings that cannot be sent ({type(error).__name__})")
        return
    child = _idle_child() or _Child()
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
            with _IDLE_LOCK:
                _IDLE.append(child)
        else:
            child.kill()


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

    def send(self, frame: bytes) -> None:
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


_IDLE: list[_Child] = []
_IDLE_LOCK = threading.Lock()


def _idle_child() -> _Child | None:
    with _IDLE_LOCK:
        while _IDLE:
            child = _IDLE.pop()
            if child.is_alive:
                return child
            child.kill()
    return None


@atexit.register
def stop_children() -> None:
    """End the children that wait for a job."""
    while (child := _idle_child()) is not None:
        child.kill()


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
            for event in events(job):
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
    yield from local(job) if _ON_GPU is _on_gpu else _ON_GPU(job)


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
    if not ray.is_initialized():
        ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": _python_path()}})
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_ray_events)
    references = task.options(num_returns="streaming").remote(job)
    is_finished = False
    try:
        for reference in references:
            event = ray.get(reference)
            is_finished = isinstance(event, Done | Failed)
            yield event
    except ray.exceptions.RayError as error:
        yield _lost(f"{job.target} on Ray: {type(error).__name__}")
    finally:
        if not is_finished:
            ray.cancel(references)


def _ray_events(job: Job) -> Events:
    yield from events(job)


RUNNERS: dict[str, Runner] = {
    "local": local,
    "process": process,
    "zerogpu": zerogpu,
    "ray": on_ray,
}


if __name__ == "__main__":
    serve()
