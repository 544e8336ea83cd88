"""The header of a safetensors file, read and checked before one byte of it becomes a tensor.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: for each tensor its number format, shape and place; notes in `__metadata__`
    tensors   one after the other, without gaps

https://github.com/huggingface/safetensors#format

Checkpoints, adapters, patches and uploads are all read here. What is wrong is said by `Unsound` in
words that continue "the file ..."; who asked knows what to call the file. Needs no torch.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

# safetensors' names of number formats, with bytes per number.
_NAMES = {
    1: "BOOL U8 I8 F8_E4M3 F8_E5M2",
    2: "I16 U16 F16 BF16",
    4: "I32 U32 F32",
    8: "I64 U64 F64 C64",
}
ITEM_BYTES = {name: size for size, names in _NAMES.items() for name in names.split()}
LARGEST_HEADER = 32 << 20
MOST_DIMENSIONS = 16


class Unsound(Exception):
    """The file is no sound safetensors file; `fault` continues the sentence "the file ..."."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass(frozen=True)
class TensorInfo:
    """One line of a header: `start` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its tensors in the order of the header, and its notes."""

    tensors: Mapping[str, TensorInfo]
    notes: Mapping[str, str]


def read(file: io.BufferedIOBase, size: int, longest: int = LARGEST_HEADER) -> Header:
    """The header of an opened file of `size` bytes. Raises `Unsound`."""
    text = text_of(file, size, longest)
    return parsed(text, size - 8 - len(text))


def notes_of(data: bytes) -> Mapping[str, str]:
    """The notes in the bytes of a file. Raises `Unsound`."""
    return read(io.BytesIO(data), len(data)).notes


def text_of(file: io.BufferedIOBase, size: int, longest: int = LARGEST_HEADER) -> bytes:
    """The JSON text of an opened file, whose tensors come next. Raises `Unsound`."""
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > size - 8:
        raise Unsound("is cut short, or is no safetensors file")
    if length > longest:
        raise Unsound(f"claims a header of {length / 1e6:.0f} MB")
    return file.read(length)


def parsed(text: bytes, data_bytes: int) -> Header:
    """The header in a JSON text before so many bytes of tensors. Raises `Unsound`."""
    entries = json_object(text)
    notes = entries.pop("__metadata__", {})
    if not is_text_map(notes):
        raise Unsound("has metadata that is not text")
    tensors = {name: _tensor_info(name, entry) for name, entry in entries.items()}
    _check_places(tensors, data_bytes)
    return Header(tensors, notes)  # type: ignore[arg-type]  # just checked


def json_object(text: bytes) -> dict[str, object]:
    """A strict JSON object: no key twice, no constant that is not JSON. Raises `Unsound`."""
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Unsound("is not sound JSON in its text part") from None
    if not isinstance(value, dict):
        raise Unsound("is not a JSON object in its text part")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _tensor_info(name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Unsound(f"describes the tensor {short(name)} incompletely")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise Unsound(f"has the unknown number format {short(dtype)} for {short(name)}")
    if not _is_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise Unsound(f"has an impossible shape for the tensor {short(name)}")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise Unsound(f"has impossible offsets for the tensor {short(name)}")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise Unsound(f"has offsets that do not fit the shape of {short(name)}")
    return TensorInfo(dtype, tuple(shape), start, end)


def _check_places(tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    """Tensors must follow one another without overlap or gap and end where the file ends."""
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != end:
            fault = "overlaps another tensor" if info.start < end else "leaves a gap before it"
            raise Unsound(f"is damaged: {short(name)} {fault}")
        end = info.end
    if end != data_bytes:
        raise Unsound(f"has {data_bytes} bytes of tensors where its header announces {end}")


def _is_counts(value: object) -> bool:
    """A list of whole numbers from 0 up to 2^53; True is a number in Python, but not here."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= 2**53 for n in value)


def is_text_map(value: object) -> bool:
    """Whether it is a mapping of texts to texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def short(text: object) -> str:
    """A name out of a file, fit for a sentence: one line, no markup, at most 60 characters."""
    plain = "".join(c if c.isprintable() and c not in "<>&" else "?" for c in str(text)[:61])
    return plain if len(plain) <= 60 else f"{plain[:57]}..."
