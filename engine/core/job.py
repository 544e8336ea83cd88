"""A computation as a value: a job names a function, carries plain parameters and a seed.

    for event in events(Job("engine.sampling.nfe_lab.algorithm:run", {"prompt": "a cat"}, seed=7)):
        match event:
            case Progress(): ...      # any number of them
            case Done(): ...          # exactly one end: Done or Failed
            case Failed(): ...

A method writes a generator that yields `Progress` and returns its result. Closing the iterator of
events closes that generator at its last yield, and this is the one way in which a job is cancelled.
"""

import importlib
import logging
import secrets
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from engine.core.errors import EngineError
from engine.core.settings import checked

E = TypeVar("E")
P = TypeVar("P")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps are made. `preview` is a frozen dataclass of the method, or None."""

    done: int
    total: int
    note: str = ""
    preview: object | None = None


@dataclass(frozen=True)
class Done(Generic[R]):
    """The job ended well."""

    result: R


@dataclass(frozen=True)
class Failed:
    """The job ended badly. `detail` is the traceback, `error_id` finds it in the server's log."""

    message: str
    advice: str = ""
    detail: str = ""
    error_id: str = ""


Event: TypeAlias = Progress | Done | Failed
Steps: TypeAlias = Generator[Progress, None, R]


@dataclass(frozen=True)
class Job:
    """A function `module:name` with its keyword arguments and a seed; it pickles."""

    target: str
    params: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0

    def start(self) -> Steps:
        """The generator of the target, not yet advanced.

        Raises `BadInput` when the target cannot take these parameters.
        """
        function = _resolve(self.target)
        steps: Steps = function(seed=self.seed, **checked(function, self.params))
        if not isinstance(steps, Generator):
            raise TypeError(f"{self.target} must be a generator function that yields Progress.")
        return steps


def events(job: Job) -> Generator[Event, None, None]:
    """The progress of a job and its end: exactly one `Done` or `Failed`, which comes last.

    Returned values and exceptions become events because both get lost between processes.
    """
    try:
        # `yield from` hands close() on to the method, so it is stopped at its last yield.
        result = yield from job.start()
    except Exception as error:
        yield _failure(job, error)
    else:
        yield Done(result)


def finish(steps: Generator[object, None, R]) -> R:
    """The result of a method, without its progress; for tests, scripts and notebooks."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


def relay(steps: Generator[E, None, R], tell: Callable[[E], P]) -> Generator[P, None, R]:
    """The result of a part of a method, its events passed on as `tell` gives them.

    found = yield from relay(part(), lambda event: Progress(0, 1, event.note))
    """
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            yield tell(event)
    finally:
        steps.close()


def relay_as(
    steps: Generator[Progress, None, R], done: int, total: int, note: str = ""
) -> Generator[Progress, None, R]:
    """The result of a part, its progress as words only: the bar stands where the whole is."""

    def tell(event: Progress) -> Progress:
        return Progress(done, total, ": ".join(filter(None, (note, event.note))))

    return (yield from relay(steps, tell))


def _resolve(target: str) -> Callable[..., Steps]:
    module, _, name = target.partition(":")
    if not (module and name):
        raise ValueError(f'A job\'s target reads "package.module:function", not "{target}".')
    return getattr(importlib.import_module(module), name)


def _failure(job: Job, error: Exception) -> Failed:
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, EngineError):
        return Failed(error.message, error.advice, detail)
    error_id = secrets.token_hex(4)
    log.error("job %s failed, error id %s\n%s", job.target, error_id, detail)
    # torch's out-of-memory error is told by its name, as this file does not import torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        message, advice = "This run needs more memory than there is.", "Try a smaller setting."
    else:
        message = f"This is a fault of ours, number {error_id}."
        advice = "Try the defaults, and report the number with the recipe of this run."
    return Failed(message, advice, detail, error_id)
