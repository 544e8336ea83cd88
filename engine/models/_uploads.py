"""What visitors upload, kept under the digest of what came: unpacked with a budget, and forgotten.

    with archive(path) as packed:
        members = checked_members(packed, path, most_files=200, most_bytes=10**9)
        folder = keep(digest, lambda made: unpack(packed, members, made))

All or nothing; those used longest ago make room for a new one (REWIND_UPLOADS_GB, 4 if unset).
"""

import contextlib
import hashlib
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from engine.core import disk
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.models._checks import check_folder, read_header

PREFIX = "upload:"
# What deflate reaches on real weights and pictures is far below this; only bombs shrink more.
LARGEST_RATIO, SMALL = 200, 10_000_000


def uploads() -> Path:
    """The folder that holds one folder an upload."""
    return disk.home() / "uploads"


def keep(digest: str, fill: Callable[[Path], None]) -> Path:
    """The folder of an upload, filled and looked over now unless it is here already.

    What `fill` refuses leaves nothing behind. Raises `OutOfBudget` for more than fits.
    """
    folder = uploads() / digest
    if not folder.is_dir():
        with disk.scratch(folder.parent, "The upload") as scratch:
            unpacked = scratch / "made"
            unpacked.mkdir()
            fill(unpacked)
            make_room(disk.used_bytes(unpacked))
            _move(unpacked, folder)
    disk.mark_used(folder)
    return folder


def _move(unpacked: Path, folder: Path) -> None:
    try:
        unpacked.replace(folder)
    except OSError:
        if not folder.is_dir():  # the same upload has come twice at once
            raise


def forget(source: str) -> None:
    """Removes an upload that turned out to be of no use; other sources are left alone."""
    digest = source.removeprefix(PREFIX)
    if source.startswith(PREFIX) and len(digest) == 64:
        shutil.rmtree(uploads() / digest, ignore_errors=True)


def make_room(needed: int) -> None:
    """Forgets the uploads used longest ago until `needed` bytes fit beside the others."""
    limit = disk.number("REWIND_UPLOADS_GB", 4.0) * 1e9
    if needed > limit:
        raise OutOfBudget(
            f"This upload weighs {needed / 1e9:.3g} GB unpacked; uploads may weigh "
            f"{limit / 1e9:.3g} GB in all.",
            "Upload less, or raise REWIND_UPLOADS_GB.",
        )
    folders = [path for path in uploads().iterdir() if not path.name.startswith(disk.SCRATCH)]
    sizes = {folder: disk.used_bytes(folder) for folder in folders}
    for folder in sorted(folders, key=_last_use):
        if sum(sizes.values()) + needed <= limit:
            return
        shutil.rmtree(folder, ignore_errors=True)
        del sizes[folder]


def _last_use(folder: Path) -> float:
    with contextlib.suppress(OSError):  # another process may forget it at this moment
        return folder.stat().st_mtime
    return 0.0


def digest_of(file: Path) -> str:
    """SHA-256 of an uploaded file. Raises `AssetMissing` when it has gone."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        raise AssetMissing("An uploaded file cannot be read.", "Upload it again.") from None


def digest_of_named(files: Sequence[Path]) -> str:
    """SHA-256 of the names and contents of files; where names are kept, they count."""
    lines = sorted(f"{file.name} {digest_of(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ---------------------------------------------------------------------- archives


@contextlib.contextmanager
def archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An opened zip; within the block its damages are `BadInput`."""
    try:
        with zipfile.ZipFile(path) as packed:
            yield packed
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError):
        raise BadInput("This is not a readable zip archive.", "Zip the folder again.") from None


def checked_members(
    packed: zipfile.ZipFile, path: Path, *, most_files: int, most_bytes: int
) -> list[zipfile.ZipInfo]:
    """The files of an archive, by what it announces: number, sizes, names, links, passwords."""
    members = [info for info in packed.infolist() if not info.is_dir()]
    if len(members) > most_files:
        raise OutOfBudget(
            f"The archive holds {len(members)} files; {most_files} are allowed.", "Zip less."
        )
    total = sum(info.file_size for info in members)
    if total > most_bytes:
        raise OutOfBudget(
            f"The archive would unpack to {total / 1e6:.3g} MB; {most_bytes / 1e6:.3g} MB are "
            "allowed.",
            "Upload less, or a half-precision variant.",
        )
    if total > SMALL and total > LARGEST_RATIO * path.stat().st_size:
        raise OutOfBudget(
            f"The archive would unpack to {total / 1e6:.0f} MB, {LARGEST_RATIO} times its size and "
            "more; neither weights nor pictures shrink so far.",
            "Zip the files as they are.",
        )
    for info in members:
        _check_member(info)
    return members


def _check_member(info: zipfile.ZipInfo) -> None:
    name = PurePosixPath(info.filename)
    leads_out = name.is_absolute() or ".." in name.parts or "\\" in info.filename
    if leads_out or stat.S_ISLNK(info.external_attr >> 16):
        raise BadInput("The archive holds a name that leads out of it.", "Zip it again.")
    if info.flag_bits & 1:
        raise BadInput("The archive is encrypted.", "Zip it without a password.")


def unpack(packed: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """One file of an archive; no more than it announced, as zipfile stops there."""
    if target.exists():
        raise BadInput(f"The archive holds {target.name} twice.", "Zip it again.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with packed.open(info) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def check_weights(folder: Path) -> None:
    """Number and sizes of the files, and the header of every file of weights."""
    for path in check_folder(folder):
        if path.suffix == ".safetensors":
            read_header(path)
