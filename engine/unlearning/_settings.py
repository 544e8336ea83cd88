"""The settings that several jobs of the family take, each declared once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from engine.core.errors import AssetMissing
from engine.core.settings import Items, OneOf, Range, Text
from engine.models import picture_sets

MOST_PICKED, CLUSTERS, LARGEST_ALPHA = 2000, 4, 1e7
LAMBDA = 0.1
"""What the paper takes for faces; for CIFAR it takes 1, at which an alpha below 1 hardly dampens.
Chosen on the network that ships."""
WAYS = ("class", "cluster", "random", "picked", "uploaded")
UNITS = ("sorted", "mixed", "sample")


@dataclass(frozen=True)
class ZipFile:
    """A set of pictures as a zip: kept on this machine, and told by its digest."""

    endings: tuple[str, ...] = (".zip",)

    def read(self, path: Path) -> str:
        """The source of the set. Raises an `EngineError` where it is none."""
        if not path.is_file():
            raise AssetMissing(f"There is no zip called {path.name[:80]}.", "Look at its path.")
        return picture_sets.receive(path)


@dataclass(frozen=True)
class TableFile:
    """Indices as a CSV, told by its text."""

    endings: tuple[str, ...] = (".csv", ".txt")

    def read(self, path: Path) -> str:
        """The text of the file. Raises `AssetMissing` where it cannot be read."""
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise AssetMissing(f"{path.name[:80]} is no table.", "Give a CSV in UTF-8.") from None


ForgetWay: TypeAlias = Annotated[str, OneOf(WAYS)]
ClassName: TypeAlias = Annotated[str, Text(100, 0, 'Try "bag".')]
Cluster: TypeAlias = Annotated[int, Range(0, CLUSTERS - 1)]
Count: TypeAlias = Annotated[int, Range(1, MOST_PICKED, "100 is the number of the paper.")]
Indices: TypeAlias = Annotated[
    Sequence[Annotated[int, Range(0, 2**31 - 1, "Indices are whole numbers from 0.")]],
    Items(MOST_PICKED),
]
IndexTable: TypeAlias = Annotated[str, Text(100_000, 0, "Give one index a line."), TableFile()]
PictureSet: TypeAlias = Annotated[str, Text(200), ZipFile()]
Place: TypeAlias = Annotated[str, Text(500)]
Alpha: TypeAlias = Annotated[float, Range(0, LARGEST_ALPHA, "0 chooses automatically.")]
Lambda: TypeAlias = Annotated[
    float, Range(1e-6, LARGEST_ALPHA, "0.1 and 1 are the values of the paper.")
]
Cap: TypeAlias = Annotated[float, Range(0, 1, "1 is the value of the paper.")]
Exponent: TypeAlias = Annotated[float, Range(0.1, 10, "1 is the value of the paper.")]
Unit: TypeAlias = Annotated[str, OneOf(UNITS)]
BatchSize: TypeAlias = Annotated[
    int, Range(1, 4096, "The published code takes 64 for a class and 128 for random pictures.")
]
Chunk: TypeAlias = Annotated[int, Range(0, 4096, "0 chooses by the size of the model.")]
Layers: TypeAlias = Annotated[Sequence[Annotated[str, Text(200)]], Items(32)]
