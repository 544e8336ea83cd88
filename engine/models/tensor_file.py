"""Tensors as the bytes of a safetensors file, for what a person takes along.

file = TensorFile.of("pytorch_lora_weights.safetensors", tensors, {"format": "pt"})
file.read()             the tensors again
b"".join(file.pieces())
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from engine.core import disk, patch_file
from engine.core.named_file import NamedFile
from engine.core.precision import state_at_home
from engine.core.shapes import Tensor
from engine.core.tensor_header import Unsound, notes_of
from engine.models._checks import read_header


@dataclass(frozen=True)
class TensorFile(NamedFile):
    """A safetensors file that is not on disk yet."""

    @classmethod
    def of(
        cls, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> "TensorFile":
        """The file of these tensors; each is written on its own, shared memory or not."""
        plain = {key: tensor.contiguous() for key, tensor in state_at_home(tensors).items()}
        return cls(name, _settled(save(plain, dict(metadata) if metadata else None)))

    def read(self) -> dict[str, Tensor]:
        """The tensors in the file. Raises `Unsound` where the bytes are no safetensors file."""
        try:
            return load(self.data)
        except SafetensorError:
            raise Unsound("cannot be read") from None

    @property
    def notes(self) -> Mapping[str, str]:
        """The notes in its header. Raises `Unsound` where the bytes are no safetensors file."""
        return notes_of(self.data)


def _settled(data: bytes) -> bytes:
    """The same file with its metadata in order: the library writes them in a random one."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    notes = header.pop("__metadata__", None)
    ordered = {"__metadata__": dict(sorted(notes.items())), **header} if notes else header
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


# ---------------------------------------------------------------------- on disk


class OpenTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for.

    Raises `AssetMissing` when the file is not there and `BadInput` when it is not sound.
    """

    def __init__(self, path: Path) -> None:
        self.infos = read_header(path)
        self._file = safe_open(path, "pt")
        self.metadata: Mapping[str, str] = self._file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.infos:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file in float32, all or nothing; the mapping is read one tensor at a time.

    Raises `AssetMissing` when it cannot be written.
    """
    layout = {name: ("F32", tuple(value.shape)) for name, value in tensors.items()}
    pieces = (tensors[name].detach().cpu().float().contiguous() for name in layout)
    buffers = (piece.reshape(-1).numpy().data.cast("B") for piece in pieces)
    disk.write(path, chain([patch_file.head(dict(metadata), layout)], buffers))


def zeros_on_disk(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """float32 zeros that lie in a new safetensors file and not in memory, to be added to."""
    head = patch_file.head({}, {name: ("F32", shape) for name, shape in shapes.items()})
    total = sum(4 * math.prod(shape) for shape in shapes.values())
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + total)
    at, tensors = len(head), {}
    for name, shape in shapes.items():
        tensors[name] = torch.from_numpy(np.memmap(path, np.float32, "r+", at, shape))
        at += 4 * math.prod(shape)
    return tensors
