"""A text inside a PNG picture, in a tEXt chunk before the pixels, which stay untouched.

    stamped = with_text(png, b"rewind", "...")
    text_in(stamped, b"rewind")                     "..." or None where there is none

A PNG is an eight-byte head and chunks: length, kind, content, CRC-32 of kind and content (PNG
specification, sections 5.2 and 11.3.4.3; texts are Latin-1).
"""

import struct
import zlib

from engine.core.errors import BadInput

_HEAD = b"\x89PNG\r\n\x1a\n"


def with_text(png: bytes, key: bytes, text: str) -> bytes:
    """The same picture with an ASCII text in place of what was under this key before.

    Raises `BadInput` when it is no complete PNG.
    """
    header, *others = [chunk for chunk in _chunks(png) if not _is_text(chunk, key)]
    chunks = [header, (b"tEXt", key + b"\0" + text.encode("ascii")), *others]
    return _HEAD + b"".join(_written(kind, content) for kind, content in chunks)


def text_in(png: bytes, key: bytes) -> str | None:
    """The first text under this key. Raises `BadInput` when it is no complete PNG."""
    for chunk in _chunks(png):
        if _is_text(chunk, key):
            return chunk[1][len(key) + 1 :].decode("latin-1")
    return None


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk, up to the end mark."""
    broken = BadInput("This picture is not a complete PNG.", "Export it again as PNG.")
    if png[:8] != _HEAD:
        raise broken
    found, at = [], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        found.append((kind, content))
        at += 12 + length
        if kind == b"IEND":
            return found
    raise broken


def _written(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _is_text(chunk: tuple[bytes, bytes], key: bytes) -> bool:
    return chunk[0] == b"tEXt" and chunk[1].startswith(key + b"\0")
