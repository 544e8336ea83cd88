"""Files that a visitor downloads, where Gradio serves them for a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from engine.core import disk
from pages._handlers import gradio_errors

PREFIX = "rewind-"
LARGEST_TEXT = 900_000  # bytes of an upload that goes into a field


@contextmanager
def folder(what: str = "The file") -> Iterator[Path]:
    """A new folder in Gradio's cache, as only files there are served; it lasts an hour.

    It goes again when the block fails, and a disk that cannot be written becomes a sentence.
    """
    kept = Path(get_upload_folder())
    disk.sweep(kept, f"{PREFIX}*")
    with gradio_errors(), disk.new_folder(kept, what, PREFIX) as made:
        yield made


def written(files: Mapping[str, bytes | Sequence[bytes]]) -> list[Path]:
    """Files of these names with these contents, side by side."""
    with folder() as made:
        for name, data in files.items():
            disk.write(made / name, [data] if isinstance(data, bytes) else data)
        return [made / name for name in files]


def read_upload(path: str) -> str:
    """The text of a file of JSON lines, or of one list; the engine checks it line by line."""
    if Path(path).stat().st_size > LARGEST_TEXT:
        raise gr.Error("The file is larger than 0.9 MB. Split it.", print_exception=False)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # some programs begin with a mark
    except UnicodeDecodeError:
        raise gr.Error("The file is no text in UTF-8.", print_exception=False) from None
    try:
        listed = json.loads(text)
        if not isinstance(listed, list):
            return text
        return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in listed)
    except (ValueError, RecursionError):  # the engine names the line
        return text
