"""The file of a patch: plain safetensors, whose header says what it is and whose digest guards it.

    8 bytes   length of the header
    header    JSON: "flips/NAME" and "rows/NAME" with dtype, shape and offsets, and `__metadata__`
              with the recipe, the fingerprints before and after, the ties and the digest;
              "support/NAME" where only some places of a tensor are kept (form 2)
    tensors   one after the other, without gaps

The digest is the SHA-256 of the whole file with the digest's own 64 characters set to 0. So one
altered bit anywhere is noticed, and the digest of a patch and of its file are one thing. Nothing
here needs torch: a page may read what a patch is without loading it.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.core import tensor_header
from engine.core.disk import Bytes
from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import Recipe
from engine.core.tensor_header import ITEM_BYTES, TensorInfo, Unsound, is_text_map

NO_DIGEST = "0" * 64
FORMS = ("1", "2")
MOST_TENSORS = 100_000

# "float32 64x32 1f0c...": number format, shape ("-" for a single number), half a SHA-256.
FINGERPRINT = re.compile(r"[a-z0-9_]{1,20} (-|[0-9]{1,15}(x[0-9]{1,15}){0,15}) [0-9a-f]{32}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PatchHeader:
    """What a patch is, without its numbers: enough for a shelf, a stack and a recipe."""

    digest: str
    recipe: Recipe
    before: Mapping[str, str]
    after: Mapping[str, str]
    ties: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    file_bytes: int

    @cached_property
    def name(self) -> str:
        """The name of the edit: the recipe's label, or else its method."""
        return self.recipe.label or self.recipe.slug


def metadata_of(
    recipe: Recipe,
    before: Mapping[str, str],
    after: Mapping[str, str],
    ties: Mapping[str, str],
    *,
    is_sparse: bool = False,
) -> dict[str, str]:
    """The texts of `__metadata__`, still without a digest.

    A patch without support is written in form 1, as it was before there was one.
    """
    return {
        "format": "pt",
        "rewind_patch": "2" if is_sparse else "1",
        "recipe": recipe.json(),
        "before": _canonical(before),
        "after": _canonical(after),
        "ties": _canonical(ties),
        "digest": NO_DIGEST,
    }


def head(metadata: Mapping[str, str], layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Length and JSON header for tensors of these dtypes and shapes, stored in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape) in layout.items():
        end = at + ITEM_BYTES[dtype] * _product(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    # Padded to a multiple of eight, so that every number of the file lies aligned in memory.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def digest_of(pieces: Iterable[Bytes]) -> str:
    """The digest of a file given as its pieces, the digest in its header being `NO_DIGEST`."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def with_digest(header: bytes, digest: str) -> bytes:
    """The header with another digest in the place of the present one."""
    return re.sub(rb'"digest":"[0-9a-f]{64}"', f'"digest":"{digest}"'.encode(), header, count=1)


def read_header(path: Path) -> PatchHeader:
    """The header of a patch file, checked for sense; the content is left to `check_content`.

    Raises `AssetMissing` when there is no such file and `BadInput` when it is no sound patch.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        return _header(_text(file, size), size)


def check_content(path: Path) -> PatchHeader:
    """The header of a patch file whose every bit has been checked against its digest."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        text = _text(file, size)
        header = _header(text, size)
        blank = struct.pack("<Q", len(text)) + with_digest(text, NO_DIGEST)
        if digest_of([blank, *_blocks(file)]) != header.digest:
            raise BadInput(
                "This patch file was altered: its content does not match its digest.",
                "Export the patch again.",
            )
    return header


def _canonical(texts: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(texts.items())), separators=(",", ":"))


def _product(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only opening may be re-worded
    except OSError as error:
        raise AssetMissing(
            f"The patch file {path.name} cannot be opened: {error.strerror or error}.",
            "Check the path, or export the patch again.",
        ) from error
    with file:
        yield file


def _blocks(file: io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block


def _text(file: io.BufferedIOBase, size: int) -> bytes:
    try:
        return tensor_header.text_of(file, size)
    except Unsound as unsound:
        raise _unsound(f"it {unsound.fault}") from None


def _header(text: bytes, size: int) -> PatchHeader:
    try:
        header = tensor_header.parsed(text, size - 8 - len(text))
        notes = header.notes
        digest, version, recipe_text = notes["digest"], notes["rewind_patch"], notes["recipe"]
        before, after, ties = (json.loads(notes[key]) for key in ("before", "after", "ties"))
    except Unsound as unsound:
        raise _unsound(f"it {unsound.fault}") from None
    except (ValueError, KeyError, RecursionError) as error:
        raise BadInput(
            "This file is no patch of this program, or a damaged one.",
            "A patch is what the shelf saves. Adapters are uploaded in reversible merging; a "
            "checkpoint is opened as a zip of its folder.",
        ) from error
    if version not in FORMS:
        told = f"it is written in form {version!s:.20}, and this program reads forms 1 and 2"
        raise _unsound(told)
    if not DIGEST.fullmatch(digest):
        raise _unsound("it has no digest")
    _check_names(header.tensors, before, after, ties)
    try:
        recipe = Recipe.from_json(recipe_text)
    except BadInput as error:
        raise _unsound("its recipe is not readable") from error
    return PatchHeader(digest, recipe, before, after, ties, header.tensors, size)


def _check_names(tensors: Mapping[str, TensorInfo], before: Any, after: Any, ties: Any) -> None:
    """Every tensor of the file belongs to a touched name, and every touched name is whole."""
    for texts in (before, after, ties):
        if not is_text_map(texts):
            raise _unsound("its fingerprints are not readable")
    fingerprints = [*before.values(), *after.values()]
    if before.keys() != after.keys() or not all(map(FINGERPRINT.fullmatch, fingerprints)):
        raise _unsound("its fingerprints are not readable")
    if len(tensors) > MOST_TENSORS:
        raise _unsound(f"it lists more than {MOST_TENSORS} tensors")
    for key in tensors:
        kind, _, name = key.partition("/")
        if kind not in ("flips", "rows", "support") or name not in before:
            raise _unsound(f'it holds "{key[:60]}", which is no part of a patch')
        if kind == "support" and f"flips/{name}" not in tensors:
            raise _unsound(f'it holds places of "{name[:60]}" and no bits for them')
    if not set(ties.values()) <= before.keys():
        raise _unsound("it ties a tensor that it does not touch")


def _unsound(reason: str) -> BadInput:
    return BadInput(f"This patch file is damaged: {reason}.", "Export the patch again.")
