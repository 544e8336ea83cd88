"""Sets of labelled pictures that a visitor brings: a zip of pictures, or a list of indices.

    source = receive(Path("forget.zip"))       "pictures:3f2a..."
    for one in open_set(source): one.picture, one.label, one.name

The label of a picture is the folder that it lies in, or what `labels.csv` says (file,label).
Everything is checked before a picture is decoded: names, links, numbers, bytes and pixels.
"""

import csv
import hashlib
import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from engine.core import disk
from engine.core.disk import home
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.models import _uploads

MOST_PICTURES, MOST_BYTES, MOST_PIXELS = 5000, 200_000_000, 12_500_000
MOST_FILES = 2 * MOST_PICTURES + 100  # some programs add a shadow of each, and a list of labels
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SOURCE = re.compile(r"pictures:([0-9a-f]{64})")
ADVICE = "Zip pictures in folders that are named after their classes."


@dataclass(frozen=True)
class Given:
    """One picture, its label as a text (empty where none was given), and its name in the zip."""

    picture: Image.Image
    label: str
    name: str


def receive(archive: Path) -> str:
    """Keeps an uploaded zip of pictures and gives its source. Raises `BadInput`, `OutOfBudget`.

    The oldest make room (REWIND_UPLOADS_GB, 4 by default).
    """
    with _uploads.archive(archive) as packed:
        _check(packed, archive)
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = _folder() / f"{digest}.zip"
        if not target.is_file():
            part = target.with_suffix(f".{os.getpid()}.part")
            shutil.copyfile(archive, part)
            part.replace(target)
    except OSError as error:
        raise OutOfBudget(
            f"The upload cannot be stored ({error.strerror}).", "Free some space."
        ) from None
    _make_room(target)
    return f"pictures:{digest}"


def open_set(source: str) -> list[Given]:
    """The pictures of a source, in the order of their names.

    Raises `AssetMissing` when it is no longer here, and `BadInput` that names the first file that
    does not read as a picture.
    """
    match = SOURCE.fullmatch(source)
    path = _folder() / f"{match[1]}.zip" if match else None
    if path is None or not path.is_file():
        raise AssetMissing("This set of pictures is no longer here.", "Upload it again.")
    disk.mark_used(path)
    with _uploads.archive(path) as packed:
        return list(_pictures(packed))


def indices(value: object, *, most: int) -> tuple[int, ...]:
    """Places in the training data: a list, or the text of a CSV. Raises `BadInput`.

    Of a CSV the column "index" counts, or else the first one; a head without numbers is left out.
    """
    listed = list(_from_text(value)) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or len(listed) > most:
        raise BadInput(f"At most {most} indices are taken.", "Give a list of whole numbers.")
    for one in listed:
        if type(one) is not int or not 0 <= one < 2**31:
            raise BadInput(f"{str(one)[:20]} is no index.", "Indices are whole numbers from 0.")
    return tuple(sorted(set(listed)))


def _from_text(text: str) -> Iterator[int]:
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if len(rows) == 1:
        rows = [[cell] for cell in rows[0]]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = head.index("index") if "index" in head else 0
    for number, row in enumerate(rows):
        cell = row[column].strip() if column < len(row) else ""
        if cell.isdecimal():
            yield int(cell)
        elif number:
            raise BadInput(
                f'Line {number + 1} has "{cell[:20]}" where an index should stand.',
                "Give one whole number a line.",
            )


# ---------------------------------------------------------------------- the archive


def _folder() -> Path:
    folder = home() / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check(packed: zipfile.ZipFile, path: Path) -> None:
    members = _members(packed)
    if not members:
        raise BadInput("The archive holds no picture.", f"{ADVICE} PNG and JPEG are taken.")
    if len(members) > MOST_PICTURES:
        raise OutOfBudget(
            f"The archive holds {len(members)} pictures; {MOST_PICTURES} are allowed.",
            "Give a part of them.",
        )
    _uploads.checked_members(packed, path, most_files=MOST_FILES, most_bytes=MOST_BYTES)


def _members(packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [
        info
        for info in packed.infolist()
        if PurePosixPath(info.filename).suffix.lower() in ENDINGS
        and not PurePosixPath(info.filename).name.startswith(".")
        and "__MACOSX" not in info.filename
    ]
    return sorted(members, key=lambda info: info.filename)


def _pictures(packed: zipfile.ZipFile) -> Iterator[Given]:
    labels = _labels(packed)
    for info in _members(packed):
        path = PurePosixPath(info.filename)
        label = labels.get(path.name, "") if labels else path.parent.name
        yield Given(_opened(packed.read(info), path.name), label, path.name)


def _labels(packed: zipfile.ZipFile) -> dict[str, str]:
    """File name to label out of `labels.csv`, empty where there is none."""
    name = next((n for n in packed.namelist() if PurePosixPath(n).name == "labels.csv"), None)
    if name is None:
        return {}
    rows = csv.reader(io.StringIO(packed.read(name).decode("utf-8", "replace")))
    return {PurePosixPath(row[0].strip()).name: row[1].strip() for row in rows if len(row) >= 2}


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise OutOfBudget(
                    f"{name[:60]} has {image.width} x {image.height} pixels.",
                    f"Pictures of up to {MOST_PIXELS / 1e6:.0f} megapixels are taken.",
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise OutOfBudget(f"{name[:60]} has too many pixels.", "Make it smaller.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(
            f"{name[:60]} does not read as a picture.", "Leave it out, or save it as PNG."
        ) from error


def _make_room(keep: Path) -> None:
    limit = disk.number("REWIND_UPLOADS_GB", 4.0) * 1e9
    files = sorted(keep.parent.glob("*.zip"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total <= limit:
            return
        if path != keep:
            total -= path.stat().st_size
            path.unlink(missing_ok=True)
