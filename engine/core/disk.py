"""The server's own disk: where it keeps what visitors gave it, how much, and how it is written.

    with disk.new_folder(disk.home() / "uploads") as made:     gone again when the block fails
        disk.write(made / "adapter.safetensors", pieces)       all or nothing

A disk that is full or read-only is `AssetMissing` with a sentence, and nothing half-written stays.
"""

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from engine.core.errors import AssetMissing, BadInput

Bytes: TypeAlias = bytes | memoryview

ADVICE = "Free some disk space, or choose a folder that can be written (REWIND_HOME)."
STALE_SECONDS = 3600
SCRATCH = ".part-"


def home() -> Path:
    """The folder of this server: REWIND_HOME, or one in the temporary folder of this user."""
    named = os.environ.get("REWIND_HOME")
    user = getattr(os, "getuid", lambda: "user")()
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"rewind-{user}"
    with writing("The server's folder"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def number(variable: str, default: float) -> float:
    """A limit from the environment. Raises `BadInput` for what is no positive number."""
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise BadInput(f"{variable} must be a positive number, got {text[:60]!r}.", "Leave it out.")
    return value


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Within the block a disk that cannot be written is `AssetMissing`, told without its paths."""
    try:
        yield
    except OSError as error:
        raise AssetMissing(
            f"{what} could not be written: {error.strerror or type(error).__name__}.", ADVICE
        ) from error


def write(path: Path, pieces: Iterable[Bytes]) -> None:
    """Writes a file all or nothing: a reader sees the old one or the new one, whole.

    Raises `AssetMissing` when the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        with writing(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            os.replace(temporary, path)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def new_folder(parent: Path, what: str = "The file", prefix: str = "") -> Iterator[Path]:
    """A new folder below `parent`; when the block fails it goes again with all that is in it."""
    with writing(what):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix or None))
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def scratch(parent: Path, what: str) -> Iterator[Path]:
    """A folder beside the place of what is made in it, gone after the block.

    Those that a killed process left an hour ago and longer go first.
    """
    sweep(parent)
    with new_folder(parent, what, SCRATCH) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path, *patterns: str) -> None:
    """Removes what nobody has touched for an hour: scratch folders and files below `parent`, or
    what has a name of these patterns."""
    for pattern in patterns or (f"{SCRATCH}*", ".*.part"):
        for left in parent.glob(pattern):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < time.time() - STALE_SECONDS:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def mark_used(path: Path) -> None:
    """Notes that a file or folder was used now, where the disk lets itself be written."""
    with contextlib.suppress(OSError):
        os.utime(path)


def used_bytes(folder: Path) -> int:
    """What all files below a folder weigh."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may remove it at this moment
            total += path.stat().st_size if path.is_file() else 0
    return total
