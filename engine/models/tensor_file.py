"""Tensors as the bytes of a safetensors file, for what a person takes along.

file = TensorFile.of("pytorch_lora_weights.safetensors", tensors, {"format": "pt"})
file.read()             the tensors again
b"".join(file.pieces())
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save

from engine.core.named_file import NamedFile
from engine.core.shapes import Tensor
from engine.core.tensor_header import Unsound, notes_of


@dataclass(frozen=True)
class TensorFile(NamedFile):
    """A safetensors file that is not on disk yet."""

    @classmethod
    def of(
        cls, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> "TensorFile":
        """The file of these tensors; each is written on its own, shared memory or not."""
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
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
