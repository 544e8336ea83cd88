"""Pages go over the wire as gzip: Gradio compresses scripts, but not what it writes into a page."""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send


class CompressedPages(GZipMiddleware):
    """Compresses the pages themselves and passes all else on.

    Files keep their length, which a browser needs to play sound from the middle; event streams
    keep their pace.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/gradio_api/") or "." in path.rpartition("/")[2]:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
