"""The names under which the server answers."""

import os
from urllib.parse import urlsplit

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
