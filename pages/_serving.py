"""How pages are served: described once, with a title and the tab of the link, sent compressed.

Opening a page asks nothing of the server but the page: what a link restores is asked for where
there is a link alone, and what a visitor keeps where something is kept.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import gradio as gr
from gradio.components.base import Component
from gradio.events import Dependency
from gradio.route_utils import get_root_url
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.core.runs import Runs
from pages import _sessions
from pages._hosts import hosts

Query = Mapping[str, str]

# What Gradio describes one by one.
LISTED = ("components", "dependencies")
QUIET = {"api_visibility": "private", "show_progress": "hidden"}

# Route and parameters of the address that is being answered.
ROUTE: ContextVar[str] = ContextVar("route", default="")
ASKED: ContextVar[Query] = ContextVar("asked")
REQUEST: ContextVar[Request] = ContextVar("request")


class Named(NamedTuple):
    """The title of a page, and what it is in one sentence."""

    title: str
    sentence: str


class Described(dict[str, Any]):
    """A part of what a page is described with, which is copied quickly.

    Gradio copies all of it for every page it sends, so that what it changes in the copy changes no
    other page: value by value, that is half of the time. The page gets it as JSON in the end, and
    reading that is a tenth of the work.
    """

    @cached_property
    def text(self) -> str:
        return json.dumps(self)

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return json.loads(self.text)


def described(part: dict[str, Any]) -> dict[str, Any]:
    """The part so that it is copied quickly, or as it is where it cannot be written as JSON."""
    quick = Described(part)
    try:
        return quick if quick.text else part
    except (TypeError, ValueError):
        return part


class Suite(gr.Blocks):
    """Blocks of many pages that are described once, at the end.

    Gradio describes all that is there twice at the end of every page, and again at the launch: half
    of the time to the first page. Set `whole` when the last page is built.
    """

    whole = False

    def __init__(self, **settings: Any) -> None:
        self._choices: dict[int, Callable[[Query], str | None]] = {}
        self._restored: dict[int, Callable[[Query], bool]] = {}
        self._names: dict[str, Callable[[Query], Named]] = {}
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

    def names(self, route: str, name: Callable[[Query], Named]) -> None:
        """What the page of a route is called at an address, in the browser's tab and where a link
        to it is shown."""
        self._names[route.strip("/")] = name

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
        config = self._config
        if (request := REQUEST.get(None)) is not None:
            # Told where it stands, Gradio does not look for files without an address in all of it.
            # There are none: what is drawn comes with its own.
            at = request.scope.get("root_path") or self.custom_mount_path
            config = {**config, "root": get_root_url(request, f"/{ROUTE.get()}", at)}
        if (name := self._names.get(ROUTE.get())) is not None:
            title, sentence = name(query)
            config = {**config, "title": title, "simple_description": sentence}
        if chosen:
            components = [
                {**one, "props": {**one["props"], "selected": chosen[one["id"]]}}
                if one["id"] in chosen
                else one
                for one in config["components"]
            ]
            config = {**config, "components": components}
        if idle and "dependencies" in config:
            events = [
                {**one, "targets": []} if one["id"] in idle else one
                for one in config["dependencies"]
            ]
            config = {**config, "dependencies": events}
        return config

    @config.setter
    def config(self, whole: Any) -> None:
        parts = {name: [described(one) for one in whole.get(name, ())] for name in LISTED}
        pages = {name: described(page) for name, page in whole.get("page", {}).items()}
        self._config = {**whole, **parts, "page": pages} if whole else whole


class LinkedPages:
    """Tells the pages which address they answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            REQUEST.set(Request(scope))
        ROUTE.set(scope.get("path", "").removeprefix(scope.get("root_path", "")).strip("/"))
        ASKED.set(dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))))
        await self.app(scope, receive, send)


class NamedPages:
    """Gives pages a head of their own.

    Gradio's template names no title, and before the title and sentence of the page it tells
    whoever shows a link to it those of Gradio, with addresses of other hosts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_page(scope["path"]):
            await self.app(scope, receive, send)
            return
        begun: list[Message] = []

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            if begun:  # a page comes in one piece
                start = begun.pop()
                message = {**message, "body": with_head(message.get("body", b""))}
                size = str(len(message["body"])).encode()
                others = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
                is_whole = not message.get("more_body")
                length = [(b"content-length", size)] if is_whole else []
                await send({**start, "headers": [*others, *length]})
            await send(message)

        await self.app(scope, receive, named)


_OF_GRADIO = re.compile(
    rb'\s*<meta\s[^>]*content="(?:Gradio|@Gradio|@teamGradio|\{url\}|https://gradio\.app/|'
    rb'Click to try out the app!|https://raw\.githubusercontent\.com/[^"]*|)"\s*/>'
)
_TOLD = re.compile(rb'property="og:(title|description)"\s+content="([^"]*)"')


def with_head(page: bytes) -> bytes:
    """The page with the title and the sentence that it tells others in its own head, too."""
    head, mark, body = page.partition(b"</style>")
    parts = body[:4000]
    parts = _OF_GRADIO.sub(b"", parts)
    told = dict(_TOLD.findall(parts))
    if not mark or b"title" not in told:
        return page
    own = b'\n\t\t<title>%s</title>\n\t\t<meta name="description" content="%s" />' % (
        told[b"title"],
        told.get(b"description", b""),
    )
    begins = b'<meta charset="utf-8" />'
    head = _OF_GRADIO.sub(b"", head).replace(begins, begins + own, 1)
    return head + mark + parts + body[4000:]


def is_page(path: str) -> bool:
    """Whether a path is that of a page; files, calls and streams are the others."""
    return not path.startswith("/gradio_api/") and "." not in path.rpartition("/")[2]


class CompressedPages(GZipMiddleware):
    """Compresses the pages themselves: Gradio does so for scripts, not for what it writes itself.

    Files keep their length, which a browser needs to play sound from the middle; event streams
    keep their pace.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_page(scope.get("path", "")):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


MIDDLEWARE = [
    Middleware(TrustedHostMiddleware, allowed_hosts=hosts(), www_redirect=False),
    Middleware(CompressedPages, compresslevel=6),
    Middleware(NamedPages),
    Middleware(LinkedPages),
]
