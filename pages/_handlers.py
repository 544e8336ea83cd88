"""Event handlers: names of their own, and failures that become sentences."""

import contextlib
import functools
import inspect
import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from html import escape

import gradio as gr

from engine.core.errors import EngineError
from engine.core.job import Event, Failed

log = logging.getLogger(__name__)


def error_of(event: Failed) -> gr.Error:
    """The failure of a job as Gradio shows it and sends it to clients."""
    if event.error_id:
        return gr.Error(
            f"Something failed (id {event.error_id}).", title="Error", print_exception=False
        )
    words = f"{event.message} {event.advice}".strip()
    return gr.Error(escape(words, quote=False), title="Please check", print_exception=False)


def guarded(events: Generator[Event, None, None]) -> Iterator[Event]:
    """The events of a job, a failure raised as `gr.Error`; the job ends with the last one read."""
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, Failed):
                raise error_of(event)
            yield event


class gradio_errors:
    """Inside, engine errors become sentences for the visitor and others get a number in the log."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, gr.Error) or not isinstance(error, Exception):
            return
        if isinstance(error, EngineError):
            raise error_of(Failed(error.message, error.advice)) from None
        number = secrets.token_hex(4)
        log.error("a page failed, error id %s", number, exc_info=error)
        raise error_of(Failed("", "", "", number)) from None


def named(function: Callable, name: str) -> Callable:
    """The function under a name of its own: endpoints and tools are told apart by it."""

    @functools.wraps(function)
    def handler(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    @functools.wraps(function)
    def generator(*args: object, **kwargs: object) -> Iterator[object]:
        yield from function(*args, **kwargs)

    chosen = generator if inspect.isgeneratorfunction(function) else handler
    chosen.__name__ = chosen.__qualname__ = name
    return chosen
