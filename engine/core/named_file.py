"""Files that are not on disk yet, under the names that other tools look for.

Wherever a result is saved, by a page, a client or the command line, they keep these names.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class NamedFile:
    """The bytes of a file. `name` may have folders before it: "unet/adapter_model.safetensors"."""

    name: str
    data: bytes

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the file, as `engine.results` asks for them."""
        yield self.data


@dataclass(frozen=True)
class TextFile(NamedFile):
    """A file of text in UTF-8."""

    @classmethod
    def of(cls, name: str, text: str) -> "TextFile":
        return cls(name, text.encode("utf-8"))

    @property
    def text(self) -> str:
        return self.data.decode("utf-8")
