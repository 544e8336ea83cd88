"""What the lab shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.core.catalog import RoundTrip
from engine.core.patch import Patch
from engine.metrics.intervals import Rate
from engine.unlearning._card import Card
from engine.unlearning._compare import Agreement, Relearning


@dataclass(frozen=True)
class Row:
    """One way of forgetting. What is held against the reference is None where there is none.

    `agreement` is of unseen pictures that are kept, `agreement_forgotten` of the forgotten ones;
    `similarity` is the CKA of each layer with the reference's. `stored_seconds` is the cost where
    importances of all data are there already.
    """

    name: str
    card: Card
    agreement: Agreement | None = None
    agreement_forgotten: Agreement | None = None
    similarity: Mapping[str, float] = field(default_factory=dict)
    relearning: Relearning | None = None
    attack_success: Rate | None = None
    first_seconds: float = 0.0
    stored_seconds: float | None = None
    undo: RoundTrip | None = None
    patch: Patch | None = None


@dataclass(frozen=True)
class Point:
    """A row in the plane: accuracy on the forgotten (lower) against the kept (higher)."""

    name: str
    forget: Rate
    retain: Rate
    is_best: bool = False


@dataclass(frozen=True)
class Laboratory:
    """All ways on one sheet. `reference` names what distances are taken from."""

    name: str
    reference: str = ""
    forget_samples: int = 0
    rows: tuple[Row, ...] = ()
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfClass:
    """One class in both networks."""

    name: str
    first: Rate | None
    second: Rate | None
    is_forgotten: bool


@dataclass(frozen=True)
class OfPicture:
    """A picture on which the two differ most, with the answer and the probability of the truth."""

    picture: NDArray[np.uint8]
    truth: str
    first: str
    second: str
    first_probability: float
    second_probability: float
    is_forgotten: bool


@dataclass(frozen=True)
class OfLayer:
    """One layer: CKA of its outputs, and how far its weights are apart, relative to the first's."""

    name: str
    similarity: float
    weight_distance: float


@dataclass(frozen=True)
class Order:
    """A sequence of applying and undoing, and what came of it."""

    steps: tuple[str, ...]
    outcome: str
    is_exact: bool


@dataclass(frozen=True)
class Pair:
    """Two ways compared by class, by picture and by layer, and the orders of both edits."""

    first: str
    second: str
    agreement: Agreement | None = None
    classes: tuple[OfClass, ...] = ()
    pictures: tuple[OfPicture, ...] = ()
    layers: tuple[OfLayer, ...] = ()
    orders: tuple[Order, ...] = ()
