"""Patches on disk, under their digests: what a visitor's shelf points to.

The store is bounded in bytes and forgets what was used longest ago; a recipe makes it again. Files
are written all or nothing, so several threads and processes may share a folder. Nothing here
imports torch until a patch is read.
"""

import contextlib
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core import disk, patch_file
from engine.core.disk import Bytes
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.core.patch_file import PatchHeader

if TYPE_CHECKING:
    from engine.core.patch import Patch

MEGABYTE = 1_000_000


class PatchStore:
    """A folder of patch files named by digest, at most `max_bytes` in all."""

    def __init__(self, folder: Path, max_bytes: int = 2000 * MEGABYTE) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._lock = threading.Lock()

    def put(self, patch: "Patch") -> str:
        """Keeps a patch and returns its digest; one that is there already is only marked as used.

        Raises `OutOfBudget` when it alone is larger than the store, `AssetMissing` when the folder
        cannot be written.
        """
        return self._keep(patch.digest, patch.name, patch.nbytes, patch.pieces())

    def put_file(self, path: Path) -> str:
        """Keeps a patch file from elsewhere after checking every bit of it; see `put`."""
        header = patch_file.check_content(path)
        with open(path, "rb") as file:
            blocks = iter(lambda: file.read(1 << 20), b"")
            return self._keep(header.digest, header.name, header.file_bytes, blocks)

    def get(self, digest: str) -> "Patch":
        """The patch of a digest. Raises `AssetMissing` when it is forgotten or damaged."""
        from engine.core.patch import Patch

        path = self.path(digest)
        try:
            patch = Patch.load(path)
        except BadInput as error:
            # A damaged file is of no use to anyone; without it the recipe can fill the place again.
            with contextlib.suppress(OSError):
                path.unlink()
            raise _forgotten(digest) from error
        except AssetMissing as error:
            raise _forgotten(digest) from error
        if patch.digest != digest:
            raise _forgotten(digest)
        disk.mark_used(path)
        return patch

    def header(self, digest: str) -> PatchHeader:
        """What the patch of a digest is, without its numbers. Raises `AssetMissing`."""
        try:
            header = patch_file.read_header(self.path(digest))
        except (BadInput, AssetMissing) as error:
            raise _forgotten(digest) from error
        return header

    def path(self, digest: str) -> Path:
        """Where the patch of a digest lies or would lie. Raises `BadInput` for any other text."""
        if not patch_file.DIGEST.fullmatch(digest):
            raise BadInput("This is not the digest of a patch.", "Copy it from the shelf again.")
        return self.folder / f"{digest}.safetensors"

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).exists()

    def _keep(self, digest: str, name: str, size: int, pieces: Iterable[Bytes]) -> str:
        path = self.path(digest)
        if size > self.max_bytes:
            raise OutOfBudget(
                f'"{name}" takes {size / MEGABYTE:.1f} MB, and the store holds at most '
                f"{self.max_bytes / MEGABYTE:.1f} MB.",
                "Edit fewer layers, or give the store more room.",
            )
        with self._lock:
            if path.exists():
                disk.mark_used(path)
                return digest
        disk.write(path, pieces)
        with self._lock:
            self._forget_oldest(keep=path)
        return digest

    def _forget_oldest(self, keep: Path) -> None:
        files = sorted(self._files())
        excess = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, path in files:
            if excess <= 0:
                break
            if path != keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    excess -= size
        disk.sweep(self.folder)

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use in nanoseconds, size in bytes and path of each patch."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):  # another process may forget it at this moment
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found


@cache
def default_store() -> PatchStore:
    """The store of this server, bounded by REWIND_STORE_MB, 2000 MB if unset.

    Raises `BadInput` when that is no number, `AssetMissing` when there is no folder to write to.
    """
    room = int(disk.number("REWIND_STORE_MB", 2000.0) * MEGABYTE)
    return PatchStore(disk.home() / "patches", room)


def _forgotten(digest: str) -> AssetMissing:
    return AssetMissing(
        f"The edit {digest[:12]} is no longer in the store.",
        "Run its recipe again; the result is the same.",
    )
