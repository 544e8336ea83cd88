"""How pages are served: described once, with the tab of the link open, sent compressed, and under
no name but the server's own."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio.from_thread
import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.core.job import Job
from engine.runners import Events, Runner, fetching

Query = Mapping[str, str]

# Parameters of the address that is being answered.
ASKED: ContextVar[Query] = ContextVar("asked")


class Suite(gr.Blocks):
    """Blocks of many pages that are described once, at the end.

    Gradio describes all that is there twice at the end of every page, and again at the launch: half
    of the time to the first page. Set `whole` when the last page is built.
    """

    whole = False

    def __init__(self, **settings: Any) -> None:
        self._choices: dict[int, Callable[[Query], str | None]] = {}
        super().__init__(**settings)

    def get_config_file(self) -> Any:
        return super().get_config_file() if self.whole else {}

    def opens(self, tabs: gr.Tabs, choose: Callable[[Query], str | None]) -> None:
        """Pages come with the tab open that `choose` names for the address, None for the first.

        An event of the page could open it too, after the page has drawn the first one in vain.
        """
        self._choices[tabs._id] = choose

    @property
    def config(self) -> Any:
        """What Gradio describes the page with."""
        query = ASKED.get({})
        chosen = {key: tab for key, choose in self._choices.items() if (tab := choose(query))}
        if not chosen:
            return self._config
        components = [
            {**one, "props": {**one["props"], "selected": chosen[one["id"]]}}
            if one["id"] in chosen
            else one
            for one in self._config["components"]
        ]
        return {**self._config, "components": components}

    @config.setter
    def config(self, described: Any) -> None:
        self._config = described


class LinkedPages:
    """Tells the pages which address they answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ASKED.set(dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))))
        await self.app(scope, receive, send)


class CompressedPages(GZipMiddleware):
    """Compresses the pages themselves: Gradio does so for scripts, not for what it writes itself.

    Files keep their length, which a browser needs to play sound from the middle; event streams
    keep their pace.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/gradio_api/") or "." in path.rpartition("/")[2]:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


# ---------------------------------------------------------------------- the lane

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
    except RuntimeError:  # no worker thread of the loop: Gradio closes what was stopped in the loop
        change(more)


# ---------------------------------------------------------------------- names

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def hosts() -> list[str]:
    """The names that a request may call this server by; "*" is any.

    A server that only this machine reaches is asked for by its own names. A page of someone else
    whose name leads to 127.0.0.1 could read it like its own pages, but calls it by that name.
    REWIND_HOSTS adds names with commas between, of a proxy on this machine for instance; the
    host of GRADIO_ROOT_PATH is one of them.
    """
    bound = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    is_shared = os.environ.get("GRADIO_SHARE", "").lower() in ("1", "true")
    if is_shared or bound not in (*LOOPBACK, "::1"):
        return ["*"]
    named = os.environ.get("REWIND_HOSTS", "").split(",")
    proxy = urlsplit(os.environ.get("GRADIO_ROOT_PATH", "")).hostname or ""
    return [*LOOPBACK, *(name.strip() for name in [*named, proxy] if name.strip())]


MIDDLEWARE = [
    Middleware(TrustedHostMiddleware, allowed_hosts=hosts(), www_redirect=False),
    Middleware(CompressedPages, compresslevel=6),
    Middleware(LinkedPages),
]
