"""How pages are served: described once, with the tab of the link open, and sent compressed.

Opening a page asks nothing of the server but the page: what a link restores is asked for where
there is a link alone, and what a visitor keeps where something is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
from gradio.components.base import Component
from gradio.events import Dependency
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.core.runs import Runs
from pages import _sessions
from pages._hosts import hosts

Query = Mapping[str, str]

QUIET = {"api_visibility": "private", "show_progress": "hidden"}

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
        self._restored: dict[int, Callable[[Query], bool]] = {}
        _sessions.use()
        self.runs = Runs()
        super().__init__(**settings)

    def get_config_file(self) -> Any:
        return super().get_config_file() if self.whole else {}

    def opens(self, tabs: gr.Tabs, choose: Callable[[Query], str | None]) -> None:
        """Pages come with the tab open that `choose` names for the address, None for the first.

        An event of the page could open it too, after the page has drawn the first one in vain.
        """
        self._choices[tabs._id] = choose

    def restores(
        self, handler: Callable, outputs: Sequence[Component], is_asked: Callable[[Query], bool]
    ) -> Dependency:
        """`handler` sets `outputs` as a page opens, at addresses for which `is_asked` holds.

        It takes no place among the runs that wait.
        """
        event = self.load(handler, None, outputs, queue=False, **QUIET)
        self._restored[event["id"]] = is_asked
        return event

    @property
    def config(self) -> Any:
        """What Gradio describes the page with."""
        query = ASKED.get({})
        chosen = {key: tab for key, choose in self._choices.items() if (tab := choose(query))}
        idle = {event for event, is_asked in self._restored.items() if not is_asked(query)}
        described = self._config
        if chosen:
            components = [
                {**one, "props": {**one["props"], "selected": chosen[one["id"]]}}
                if one["id"] in chosen
                else one
                for one in described["components"]
            ]
            described = {**described, "components": components}
        if idle and "dependencies" in described:
            events = [
                {**one, "targets": []} if one["id"] in idle else one
                for one in described["dependencies"]
            ]
            described = {**described, "dependencies": events}
        return described

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


MIDDLEWARE = [
    Middleware(TrustedHostMiddleware, allowed_hosts=hosts(), www_redirect=False),
    Middleware(CompressedPages, compresslevel=6),
    Middleware(LinkedPages),
]
