"""What the panel shows: frozen values with numpy arrays. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.core.recipe import Plain


@dataclass(frozen=True)
class Checked:
    """A method's term by the general equation and by its own formula, on the same numbers."""

    title: str
    phi: str
    psi: str
    told: str
    general: float
    own: float
    error: float


@dataclass(frozen=True)
class Equation:
    """What a choice of Phi, Psi, a and b amounts to, and all methods checked with live numbers.

    `levels` is D_Phi(p, q) over two classes, p along the rows and q along the columns, None where
    Phi is "none". `value` is a D_Phi + b D_Psi on these numbers.
    """

    phi: str
    psi: str
    a: float
    b: float
    names: tuple[str, ...]
    value: float
    checked: tuple[Checked, ...] = ()
    levels: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with the 95 % interval of Student's t."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Run:
    """One arm with one seed. `matrix` is accuracy on each task (columns) after each task (rows).

    Rows that are not there yet are NaN. `by_task` is the same when the task is known.
    """

    seed: int
    matrix: NDArray[np.float64]
    by_task: NDArray[np.float64]
    final: float
    transfer: float
    forgetting: NDArray[np.float64]
    steps: int
    extra_steps: int
    relative_step: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Arm:
    """All seeds of one arm: without refresh, with it, or a control."""

    key: str
    title: str
    runs: tuple[Run, ...] = ()
    final: Mean | None = None
    transfer: Mean | None = None


@dataclass(frozen=True)
class Paired:
    """An arm minus the plain one, seed by seed. `is_significant`: the interval leaves out 0."""

    key: str
    differences: tuple[float, ...]
    mean: Mean
    is_significant: bool


@dataclass(frozen=True)
class Landscape:
    """Loss on test pictures along a filter-normalised random direction, of the first seed."""

    places: NDArray[np.float64]
    losses: Mapping[str, NDArray[np.float64]]
    gradient_norms: Mapping[str, float]


@dataclass(frozen=True)
class Refreshed:
    """A run of the panel, as far as it has come."""

    way: str
    delta: float
    seeds: int
    arms: tuple[Arm, ...] = ()
    paired: tuple[Paired, ...] = ()
    landscape: Landscape | None = None
    relative_steps: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """Accuracy matrices as CSV, and the card with all settings."""

    texts: Mapping[str, str]
