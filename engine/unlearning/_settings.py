"""The settings that several jobs of the family take, each declared once."""

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from engine.core.settings import Items, OneOf, Range, Text

MOST_PICKED, CLUSTERS, LARGEST_ALPHA = 2000, 4, 1e7
LAMBDA = 0.1
"""What the paper takes for faces; for CIFAR it takes 1, at which an alpha below 1 hardly dampens.
Chosen on the network that ships."""
WAYS = ("class", "cluster", "random", "picked", "uploaded")
UNITS = ("sorted", "mixed", "sample")

ForgetWay: TypeAlias = Annotated[str, OneOf(WAYS)]
ClassName: TypeAlias = Annotated[str, Text(100, 0, 'Try "bag".')]
Cluster: TypeAlias = Annotated[int, Range(0, CLUSTERS - 1)]
Count: TypeAlias = Annotated[int, Range(1, MOST_PICKED, "100 is the number of the paper.")]
Indices: TypeAlias = Annotated[
    Sequence[Annotated[int, Range(0, 2**31 - 1, "Indices are whole numbers from 0.")]],
    Items(MOST_PICKED),
]
IndexTable: TypeAlias = Annotated[str, Text(100_000, 0, "Give one index a line.")]
PictureSet: TypeAlias = Annotated[str, Text(200)]
Place: TypeAlias = Annotated[str, Text(500)]
Alpha: TypeAlias = Annotated[float, Range(0, LARGEST_ALPHA, "0 chooses automatically.")]
Lambda: TypeAlias = Annotated[
    float, Range(1e-6, LARGEST_ALPHA, "0.1 and 1 are the values of the paper.")
]
Unit: TypeAlias = Annotated[str, OneOf(UNITS)]
Chunk: TypeAlias = Annotated[int, Range(0, 4096, "0 chooses by the size of the model.")]
Layers: TypeAlias = Annotated[Sequence[Annotated[str, Text(200)]], Items(32)]
