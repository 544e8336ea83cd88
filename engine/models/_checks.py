"""Looks a checkpoint over before one byte of it becomes a tensor.

Weights are read from safetensors files only. What a file is, is told by its content: a pickle
called `model.safetensors` is refused, and so is a header that claims a terabyte, tensors that
overlap or leave gaps, and a link that leads out of the folder. All checks read headers and
metadata, so a hostile file costs milliseconds and no memory.

Format: 8 bytes little-endian length n, n bytes of JSON, then the tensors without gaps.
https://github.com/huggingface/safetensors#format

The limits can be moved by environment variables, each named beside its default.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.core.errors import AssetMissing, BadInput, OutOfBudget

BYTES_PER_ELEMENT = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

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
            header_bytes=int(_number("REWIND_MAX_HEADER_MB", 25.0) * 1e6),
            tensors=int(_number("REWIND_MAX_TENSORS", 20_000.0)),
            checkpoint_bytes=int(_number("REWIND_MAX_CHECKPOINT_GB", 20.0) * 1e9),
            files=int(_number("REWIND_MAX_FILES", 500.0)),
            text_bytes=int(_number("REWIND_MAX_TEXT_MB", 25.0) * 1e6),
        )


@dataclass(frozen=True)
class TensorInfo:
    """One line of a header: `start` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path, limits: Limits | None = None) -> dict[str, TensorInfo]:
    """The tensors a safetensors file holds, checked against one another and the file's size.

    Raises `AssetMissing` (no such file), `BadInput` (not sound) or `OutOfBudget` (too large).
    """
    limits = limits or Limits.from_environment()
    raw, size = _header_bytes(path, limits)
    entries = _parse_header(path, raw)
    if len(entries) > limits.tensors:
        raise OutOfBudget(
            f"{path.name} holds {len(entries)} tensors; {limits.tensors} are allowed.",
            "Raise REWIND_MAX_TENSORS if the file is really meant.",
        )
    tensors = {name: _tensor_info(path, name, entry) for name, entry in entries.items()}
    _check_layout(path, tensors, size - 8 - len(raw))
    return tensors


def weight_files(
    folder: Path, stem: str, limits: Limits | None = None
) -> dict[Path, dict[str, TensorInfo]]:
    """Checked headers of `stem.safetensors`, or of the shards its index names, by file.

    A shard must be a plain file name in the same folder and hold what the index says.
    """
    limits = limits or Limits.from_environment()
    index = folder / f"{stem}.safetensors.index.json"
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
            refuse(index, f"names the file {_short(name)}, which is not in the same folder")
        shards[folder / name] = read_header(folder / name, limits)
    _check_shards(index, weight_map, shards)
    return shards


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
                f"{_short(path.name)} in the model's folder is a link to somewhere else.",
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
    return _json_object(path, path.read_bytes())


def what_is(head: bytes) -> str:
    """Name of a known foreign format by its first bytes, or an empty text."""
    return next((kind for magic, kind in FOREIGN.items() if head.startswith(magic)), "")


def _header_bytes(path: Path, limits: Limits) -> tuple[bytes, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(24)
            if kind := what_is(head):
                raise BadInput(
                    f"{_called(path)} is {kind}, not a safetensors file.", SAFETENSORS_ONLY
                )
            length = int.from_bytes(head[:8], "little")
            if size < 10 or length > size - 8:
                refuse(path, "is cut short, or is no safetensors file")
            if length > limits.header_bytes:
                refuse(path, f"claims a header of {length / 1e6:.0f} MB")
            file.seek(8)
            return file.read(length), size
    except OSError as error:
        raise AssetMissing(
            f"{path.parent.name}/{path.name} cannot be read ({error.strerror}).",
            "Take the whole folder as the library that saved the model wrote it.",
        ) from None


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    entries = _json_object(path, raw)
    if not is_text_map(entries.pop("__metadata__", {})):
        refuse(path, "has metadata that is not text")
    return entries


def _json_object(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        refuse(path, "is not sound JSON in its text part")
    if not isinstance(value, dict):
        refuse(path, "is not a JSON object in its text part")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _tensor_info(path: Path, name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"describes the tensor {_short(name)} incompletely")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_PER_ELEMENT:
        refuse(path, f"has the unknown number format {_short(dtype)} for {_short(name)}")
    if not _is_counts(shape) or len(shape) > 16:
        refuse(path, f"has an impossible shape for the tensor {_short(name)}")
    if not _is_counts(offsets) or len(offsets) != 2:
        refuse(path, f"has impossible offsets for the tensor {_short(name)}")
    start, end = offsets
    if end - start != math.prod(shape) * BYTES_PER_ELEMENT[dtype]:
        refuse(path, f"has offsets that do not fit the shape of {_short(name)}")
    return TensorInfo(dtype, tuple(shape), start, end)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], room: int) -> None:
    """Tensors must follow one another without overlap or gap and end where the file ends."""
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != end:
            fault = "overlaps another tensor" if info.start < end else "leaves a gap before it"
            refuse(path, f"is damaged: {_short(name)} {fault}")
        end = info.end
    if end != room:
        refuse(path, f"has {room} bytes of tensors where its header announces {end}")


def _check_shards(
    index: Path, weight_map: Mapping[str, str], shards: Mapping[Path, Mapping[str, TensorInfo]]
) -> None:
    held = {name: path.name for path, tensors in shards.items() for name in tensors}
    if sum(map(len, shards.values())) != len(held):
        refuse(index, "names files that hold the same tensor twice")
    if held != weight_map:
        wrong = next(n for n in {**held, **weight_map} if held.get(n) != weight_map.get(n))
        refuse(index, f"and its files disagree about the tensor {_short(wrong)}")


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder; links to folders are given, not followed."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in sorted(folders + files):
            path = Path(parent, name)
            if name in files or path.is_symlink():
                yield path


def _is_counts(value: object) -> bool:
    """A list of whole numbers from 0 up to 2^53; True is a number in Python, but not here."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= 2**53 for n in value)


def is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def refuse(path: Path, fault: str) -> NoReturn:
    raise BadInput(f"{_called(path)} {fault}.", "Export or download the model again.")


def _called(path: Path) -> str:
    """The file's name, with its folder where all parts of a checkpoint call their files alike."""
    return f"{path.parent.name}/{path.name}" if path.parent.name in PARTS else path.name


def _short(text: object) -> str:
    """A name out of a file, fit for a sentence: one line, no markup, at most 60 characters."""
    plain = "".join(c if c.isprintable() and c not in "<>&" else "?" for c in str(text)[:61])
    return plain if len(plain) <= 60 else f"{plain[:57]}..."


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise BadInput(f"{variable} must be a positive number, got {_short(text)}.")
    return value
