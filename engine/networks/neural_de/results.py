"""What the panel shows: frozen values. A preview is a result not yet full."""

from dataclasses import dataclass

from engine.core.reversible import RoundTrip
from engine.core.shapes import Array, Float

# ---------------------------------------------------------------------- draw, reverse, hold


@dataclass(frozen=True)
class WayBack:
    """A solve forwards and then backwards by one method.

    `trajectory` are the states forwards and `back` those on the way back, from the end, both `n 2`;
    `gap` is |y - z| after each step where there are two streams, `misses` the distance of each
    state on the way back from the same state forwards. `start` and `returned` are the first twelve
    digits of the sha256 of the start and of what came back. `left_at` is the time at which
    the states left all bounds; what follows is not there.
    """

    method: str
    title: str
    trajectory: Float[Array, "n 2"]
    back: Float[Array, "m 2"]
    misses: Float[Array, " m"]
    gap: Float[Array, " k"]
    error: float
    start: str
    returned: str
    trip: RoundTrip | None = None
    left_at: float | None = None


@dataclass(frozen=True)
class Drawn:
    """A field that learns a drawn curve, and its ways back."""

    target: Float[Array, "n 2"]
    trajectory: Float[Array, "m 2"]
    losses: tuple[float, ...] = ()
    knows_time: bool = False
    crosses: bool = False
    places: Float[Array, "g 2"] | None = None
    arrows: Float[Array, "g 2"] | None = None
    fit: float | None = None
    ways: tuple[WayBack, ...] = ()
    parameters: int = 0
    weights: bytes = b""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pull:
    """One c of McCallum and Foster: error forwards and of the start walked back to, relative to
    the largest state; infinite where it left all bounds."""

    c: float
    forward_error: float
    return_error: float
    most_gap: float


@dataclass(frozen=True)
class Held:
    """A known field, forwards and backwards by three methods, and the trade-off of c."""

    field: str
    truth: Float[Array, "n 2"]
    times: Float[Array, " n"]
    ways: tuple[WayBack, ...] = ()
    pulls: tuple[Pull, ...] = ()
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------- gradients


@dataclass(frozen=True)
class Point:
    """One way to a gradient at one number of steps.

    `error` is the relative difference from autograd through the very same steps, `truth_error` that
    from the gradient of an accurate solve; `evaluations` are of the field, in both passes.
    """

    method: str
    title: str
    steps: int
    end: float
    kept_bytes: int
    evaluations: int
    error: float
    truth_error: float


@dataclass(frozen=True)
class Gradients:
    """The ways to a gradient against the number of steps."""

    sweep: str
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------- series


@dataclass(frozen=True)
class Window:
    """One stretch of a series: what was observed (NaN where not), the two fills and the answers."""

    times: Float[Array, " n"]
    observed: Float[Array, " n"]
    dropped: Float[Array, " n"]
    path_times: Float[Array, " m"]
    hermite: Float[Array, " m"]
    rectilinear: Float[Array, " m"]
    ahead: float
    truth: float
    guesses: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Learner:
    """A forecaster: its error on held-out stretches while it learns; baselines have one error."""

    name: str
    title: str
    parameters: int
    errors: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Series:
    """A series with gaps, learnt by a controlled equation and by a recurrent network."""

    title: str
    unit: str
    rows: int
    missing: float
    window: Window | None = None
    learners: tuple[Learner, ...] = ()
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------- noise


@dataclass(frozen=True)
class Refined:
    """A Brownian path asked for at finer and finer times, and what re-asking gives."""

    levels: tuple[Float[Array, "_ 2"], ...] = ()
    nodes: tuple[tuple[float, float, int], ...] = ()
    repeat_error: float = 0.0
    additivity_error: float = 0.0
    order_difference: float = 0.0
    queries: int = 0
    kept: int = 0
    made: int = 0


@dataclass(frozen=True)
class Generated:
    """Paths of a process and of the network that imitates it.

    `distances` are Wasserstein distances of the marginals, averaged over times, in units of the
    process's own spread, while it learns; `floor` is that of two draws of the process.
    """

    times: Float[Array, " n"]
    real: Float[Array, "p n"]
    fake: Float[Array, "p n"]
    real_bands: Float[Array, "3 n"]
    fake_bands: Float[Array, "3 n"]
    steps: tuple[int, ...] = ()
    distances: tuple[float, ...] = ()
    floor: float = 0.0
    largest_weight: float = 0.0
    kept_bytes: int = 0
    plain_bytes: int = 0
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------- formulas


@dataclass(frozen=True)
class Formula:
    """A field read as an expression of each component."""

    source: str
    reader: str
    expressions: tuple[str, ...] = ()
    latex: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    terms: int = 0
    fit: float | None = None
    refitted: float | None = None
    target: Float[Array, "n 2"] | None = None
    trajectory: Float[Array, "m 2"] | None = None
    notes: tuple[str, ...] = ()
