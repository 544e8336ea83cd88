"""Looks a checkpoint over before one byte of it becomes a tensor.

Weights are read from safetensors files only. What a file is, is told by its content: a pickle
called `model.safetensors` is refused, and so is a header that claims a terabyte, tensors that
overlap or leave gaps, and a link that leads out of the folder. All checks read headers and
metadata, so a hostile file costs milliseconds and no memory.

The header itself is read in `engine.core.tensor_header`, as for every other file of tensors. Other
formats are guessed only when it is none: a sound header may begin with the bytes of a pickle.

The limits can be moved by environment variables, each named beside its default.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.core import disk, tensor_header
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.core.tensor_header import TensorInfo, Unsound, is_text_map, short

# First bytes of what people rename to .safetensors, and what it is.
FOREIGN = {
    b"\x80\x02": "a Python pickle", b"\x80\x03": "a Python pickle", b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle", b"PK\x03\x04": "a zip archive or a PyTorch .ckpt file",
    b"\x1f\x8b": "a gzip archive", b"GGUF": "a GGUF file", b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file", b"version https://git-lfs": "a git-lfs pointer without the file",
}  # fmt: skip

PARTS = (
    "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
)  # fmt: skip

SAFETENSORS_ONLY = (
    "Only safetensors files are read, as other formats can run code. Save the model with "
    "`save_pretrained(..., safe_serialization=True)`."
)


@dataclass(frozen=True)
class Limits:
    """What a checkpoint may weigh at most."""

    header_bytes: int
    tensors: int
    checkpoint_bytes: int
    files: int
    text_bytes: int

    @classmethod
    def from_environment(cls) -> "Limits":
        """Defaults hold SDXL in float32 and a 7B language model in half precision."""
        return cls(
            header_bytes=int(disk.number("REWIND_MAX_HEADER_MB", 25.0) * 1e6),
            tensors=int(disk.number("REWIND_MAX_TENSORS", 20_000.0)),
            checkpoint_bytes=int(disk.number("REWIND_MAX_CHECKPOINT_GB", 20.0) * 1e9),
            files=int(disk.number("REWIND_MAX_FILES", 500.0)),
            text_bytes=int(disk.number("REWIND_MAX_TEXT_MB", 25.0) * 1e6),
        )


def read_header(path: Path, limits: Limits | None = None) -> dict[str, TensorInfo]:
    """The tensors a safetensors file holds, checked against one another and the file's size.

    Raises `AssetMissing` (no such file), `BadInput` (not sound) or `OutOfBudget` (too large).
    """
    limits = limits or Limits.from_environment()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            tensors = dict(tensor_header.read(file, size, limits.header_bytes).tensors)
    except OSError as error:
        raise AssetMissing(
            f"{path.parent.name}/{path.name} cannot be read ({error.strerror}).",
            "Take the whole folder as the library that saved the model wrote it.",
        ) from None
    except Unsound as unsound:
        if kind := what_is(head_of(path)):
            message = f"{_called(path)} is {kind}, not a safetensors file."
            raise BadInput(message, SAFETENSORS_ONLY) from None
        refuse(path, unsound.fault)
    if len(tensors) > limits.tensors:
        raise OutOfBudget(
            f"{path.name} holds {len(tensors)} tensors; {limits.tensors} are allowed.",
            "Raise REWIND_MAX_TENSORS if the file is really meant.",
        )
    if complex_names := [name for name, info in tensors.items() if info.dtype == "C64"]:
        refuse(path, f"has the unknown number format C64 for {short(complex_names[0])}")
    return tensors


def weight_files(
    folder: Path, stem: str, limits: Limits | None = None
) -> dict[Path, dict[str, TensorInfo]]:
    """Checked headers of `stem.safetensors`, or of the shards its index names, by file.

    A shard must be a plain file name in the same folder and hold what the index says.
    """
    limits = limits or Limits.from_environment()
    index = folder / index_name(stem)
    if not index.is_file():
        single = folder / f"{stem}.safetensors"
        return {single: read_header(single, limits)}
    weight_map = read_json(index, limits).get("weight_map")
    if not is_text_map(weight_map) or not weight_map:
        refuse(index, "does not list which file holds which tensor")
    names = sorted(set(weight_map.values()))
    if len(names) > limits.files:
        raise OutOfBudget(f"{index.name} names {len(names)} files; {limits.files} are allowed.")
    shards = {}
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            refuse(index, f"names the file {short(name)}, which is not in the same folder")
        shards[folder / name] = read_header(folder / name, limits)
    _check_shards(index, weight_map, shards)
    return shards


def index_name(stem: str) -> str:
    """The file that lists the shards of a stem. A variant ("model.fp16") stands before the last
    ending, where diffusers and transformers put it: model.safetensors.index.fp16.json."""
    name, dot, variant = stem.partition(".")
    return f"{name}.safetensors.index{dot}{variant}.json"


def is_index(name: str) -> bool:
    """Whether a file of this name lists shards."""
    return re.fullmatch(r"[\w-]+\.safetensors\.index(\.\w+)?\.json", name) is not None


def check_folder(folder: Path, *, inside: Path | None = None) -> list[Path]:
    """All files below `folder`, after a look at number, total size and where links lead.

    `inside` is the folder that links may not leave (the cache of the Hub links to its blobs).
    """
    limits = Limits.from_environment()
    inside = (inside or folder).resolve()
    files, total = [], 0
    for path in _walk(folder):
        if not path.resolve().is_relative_to(inside):
            raise BadInput(
                f"{short(path.name)} in the model's folder is a link to somewhere else.",
                "Copy the file itself into the folder.",
            )
        if not path.is_file():
            continue
        files.append(path)
        if path.suffix == ".safetensors":
            total += path.stat().st_size
        if len(files) > limits.files:
            raise OutOfBudget(
                f"The model's folder holds more than {limits.files} files.",
                "Point at the checkpoint's own folder, or raise REWIND_MAX_FILES.",
            )
    check_size(total, limits)
    return files


def check_size(total_bytes: int, limits: Limits | None = None) -> None:
    """Raise `OutOfBudget` when the weights together are over the limit."""
    limits = limits or Limits.from_environment()
    if total_bytes > limits.checkpoint_bytes:
        raise OutOfBudget(
            f"The model weighs {total_bytes / 1e9:.3g} GB; "
            f"{limits.checkpoint_bytes / 1e9:.3g} GB are allowed.",
            "Pick a smaller model or a half-precision variant, or raise REWIND_MAX_CHECKPOINT_GB.",
        )


def read_json(path: Path, limits: Limits | None = None) -> dict[str, Any]:
    """A JSON object from a small text file."""
    limits = limits or Limits.from_environment()
    if not path.is_file():
        raise AssetMissing(
            f"The model has no {path.parent.name}/{path.name}.",
            "Take the whole folder as the library that saved the model wrote it.",
        )
    if path.stat().st_size > limits.text_bytes:
        refuse(path, f"is larger than {limits.text_bytes // 1_000_000} MB")
    try:
        return tensor_header.json_object(path.read_bytes())
    except Unsound as unsound:
        refuse(path, unsound.fault)


def head_of(path: Path) -> bytes:
    """The first bytes of a file, by which other formats are known. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(24)


def what_is(head: bytes) -> str:
    """Name of a known foreign format by its first bytes, or an empty text."""
    return next((kind for magic, kind in FOREIGN.items() if head.startswith(magic)), "")


def _check_shards(
    index: Path, weight_map: Mapping[str, str], shards: Mapping[Path, Mapping[str, TensorInfo]]
) -> None:
    shard_of = {name: path.name for path, tensors in shards.items() for name in tensors}
    if sum(map(len, shards.values())) != len(shard_of):
        refuse(index, "names files that hold the same tensor twice")
    if shard_of != weight_map:
        wrong = next(n for n in {**shard_of, **weight_map} if shard_of.get(n) != weight_map.get(n))
        refuse(index, f"and its files disagree about the tensor {short(wrong)}")


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder; links to folders are given, not followed."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in sorted(folders + files):
            path = Path(parent, name)
            if name in files or path.is_symlink():
                yield path


def refuse(path: Path, fault: str) -> NoReturn:
    raise BadInput(f"{_called(path)} {fault}.", "Export or download the model again.")


def _called(path: Path) -> str:
    """The file's name, with its folder where all parts of a checkpoint call their files alike."""
    return f"{path.parent.name}/{path.name}" if path.parent.name in PARTS else path.name
