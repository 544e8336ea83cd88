"""What an SPM run shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.core.reversible import RoundTrip
from engine.models.tensor_file import TensorFile

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Curve:
    """The losses of one training, by iteration.

    `was_resumed` iterations had been made by a run before this one.
    """

    concept: str
    erase: NDArray[np.float32]
    anchor: NDArray[np.float32]
    iterations: int
    was_resumed: int = 0


@dataclass(frozen=True)
class Gate:
    """How far one prompt opens one membrane.

    `gamma` is by the chosen metric; `cos` and `tokens` are its two parts, `centred` the cosine
    after the empty text's embedding was taken off both.
    """

    prompt: str
    membrane: str
    cos: float
    tokens: float
    centred: float
    gamma: float


@dataclass(frozen=True)
class TokenGate:
    """What one token of a prompt adds to the cosine, and whether the concept has it."""

    prompt: str
    membrane: str
    place: int
    token: str
    is_shared: bool
    share: float


@dataclass(frozen=True)
class Row:
    """The pictures of one way to open the membranes, drawn from one noise.

    `change` is the mean |difference| to the original's picture, of 255, by prompt.
    """

    way: str
    pictures: Pictures
    verdicts: tuple[str, ...]
    change: tuple[float, ...]
    sha256: str


@dataclass(frozen=True)
class Transported:
    """A run: the trainings, the gates, and one row of pictures for each way.

    `undo` compares the pixels drawn after the membranes were taken off with the original's.
    Fingerprints are of the layers that carry them: a side-car leaves these alone.
    """

    prompts: tuple[str, ...]
    concepts: tuple[str, ...]
    curves: tuple[Curve, ...] = ()
    gates: tuple[Gate, ...] = ()
    tokens: tuple[TokenGate, ...] = ()
    rows: tuple[Row, ...] = ()
    parameters: int = 0
    layers: int = 0
    kilobytes: float = 0.0
    weights_before: str = ""
    weights_after: str = ""
    undo: RoundTrip | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gates:
    """The gates alone; no picture is drawn."""

    gates: tuple[Gate, ...]
    tokens: tuple[TokenGate, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transferred:
    """One file on two checkpoints: pictures of each, with and without the membranes."""

    prompts: tuple[str, ...]
    concepts: tuple[str, ...]
    home: str
    away: str
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """Files for other tools. `error` is the part of the whole edit that the weights miss to which
    the files lead when they are read back: 0 for none of it."""

    form: str
    files: Mapping[str, TensorFile] = field(default_factory=dict)
    parameters: int = 0
    error: float = 0.0
    note: str = ""
