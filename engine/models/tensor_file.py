"""Tensors as the bytes of a safetensors file, for what a person takes along.

file = TensorFile.of("pytorch_lora_weights.safetensors", tensors, {"format": "pt"})
file.read()             the tensors again
b"".join(file.pieces())
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from safetensors.torch import load, save

from engine.core.shapes import Tensor


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file that is not on disk yet."""

    name: str
    data: bytes

    @classmethod
    def of(
        cls, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> "TensorFile":
        """The file of these tensors; each is written on its own, shared memory or not."""
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        return cls(name, save(plain, dict(metadata) if metadata else None))

    def read(self) -> dict[str, Tensor]:
        """The tensors in the file."""
        return load(self.data)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the file, as `engine.results` asks for them."""
        yield self.data
