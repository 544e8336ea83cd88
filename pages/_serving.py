"""How pages are served: described once, and sent compressed."""

from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send


class Suite(gr.Blocks):
    """Blocks of many pages that are described once, at the end.

    Gradio describes all that is there twice at the end of every page, and again at the launch: half
    of the time to the first page. Set `whole` when the last page is built.
    """

    whole = False

    def get_config_file(self) -> Any:
        return super().get_config_file() if self.whole else {}


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


MIDDLEWARE = [Middleware(CompressedPages, compresslevel=6)]
