"""What an erasure shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.reversible import RoundTrip
from engine.models.tensor_file import TensorFile

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Residual:
    """Relative change of what the projections say, after one stage, for one group of texts.

    `group` is "erased" (distance to the guide: low means erased), "kept" or "held out" (distance
    to what the original says: low means unharmed; held-out texts took no part in the edit).
    """

    stage: str
    group: str
    value: float


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the map after one stage, falling."""

    stage: str
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Timing:
    """Our edit against the published formula taken projection by projection, on this model.

    `largest_difference` is that of the two edited weights, relative to the largest weight.
    """

    ours_seconds: float
    per_layer_seconds: float
    largest_difference: float


@dataclass(frozen=True)
class Erasure:
    """A run of the panel, as far as it has come.

    `undone` are drawn afresh after the edited ones, with the map left out; `undo` compares their
    pixels with the original's. `map_change` is M - I, at most 128 x 128: of larger maps each entry
    is the one of largest size in its block. Fingerprints are of the edited projections: a side-car
    leaves them alone.
    """

    prompts: tuple[str, ...]
    strength: float
    original: Pictures | None = None
    edited: Pictures | None = None
    undone: Pictures | None = None
    verdicts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    weights_before: str = ""
    weights_after: str = ""
    undo: RoundTrip | None = None
    map_change: NDArray[np.float32] | None = None
    norm: float = 0.0
    condition: float = 0.0
    is_side_car: bool = True
    spectra: tuple[Spectrum, ...] = ()
    residuals: tuple[Residual, ...] = ()
    timing: Timing | None = None
    notes: tuple[str, ...] = ()

    def with_pictures(self, name: str, pictures: Pictures) -> "Erasure":
        """With these pictures as "original", "edited" or "undone"."""
        fields: dict[str, Any] = {name: pictures}
        return replace(self, **fields)


@dataclass(frozen=True)
class Attacked:
    """One stage of the model and the pictures it gives to a prompt and to derived embeddings.

    `old` is the embedding derived on the model after UCE, `fresh` the one derived on this very
    stage. `smallest` is the smallest singular value of the stage's map.
    """

    stage: str
    smallest: float
    plain: NDArray[np.uint8] | None = None
    old: NDArray[np.uint8] | None = None
    fresh: NDArray[np.uint8] | None = None
    verdicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comeback:
    """The attack on every stage, from one noise."""

    prompt: str
    stages: tuple[Attacked, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """Files for other tools. `error` is the part of the whole edit that the weights miss to which
    the file leads when it is read back: 0 for none of it."""

    form: str
    files: Mapping[str, TensorFile]
    rank: int
    error: float
    note: str
