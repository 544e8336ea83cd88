"""Files that a visitor downloads, where Gradio serves them for a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gradio.utils import get_upload_folder

from engine.core import disk
from pages._handlers import gradio_errors

PREFIX = "rewind-"


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
