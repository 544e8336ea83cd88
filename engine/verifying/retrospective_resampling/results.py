"""What the actions of REVERSE give: the story of one answer, rates of many, and a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.catalog import RoundTrip
from engine.core.shapes import Array, Float, UInt8
from engine.metrics.hallucination import Rates


@dataclass(frozen=True)
class Piece:
    """A word of the story. It was said at step `born` and taken back at step `struck`, or -1.

    `phrase` is its place in the list of phrases, or -1 for words outside of any.
    """

    text: str
    phrase: int
    born: int
    struck: int


@dataclass(frozen=True)
class Judged:
    """A phrase with the model's own doubt. `is_true` is None where nobody knows.

    `stands` says whether it is in the final answer.
    """

    text: str
    p_un: float
    stands: bool
    is_true: bool | None
    attempt: int
    temperature: float


@dataclass(frozen=True)
class Plain:
    """The answer of the same model when nothing is taken back."""

    text: str
    rates: Rates | None


@dataclass(frozen=True)
class Cost:
    """Tokens and attempts; `official_at_least` is what the published loop would forward for it.

    At least, because that loop also generates what comes behind a doubted phrase.
    """

    generated_tokens: int
    forward_tokens: int
    official_at_least: int
    attempts: int
    backtracks: int
    prompt_tokens: int


@dataclass(frozen=True)
class Telling:
    """One answer, word by word. `heights` is the length of the answer after every step."""

    picture: UInt8[Array, "h w 3"]
    clean: UInt8[Array, "h w 3"] | None
    present: tuple[str, ...] | None
    question: str
    tau: float
    pieces: tuple[Piece, ...] = ()
    phrases: tuple[Judged, ...] = ()
    heights: tuple[int, ...] = ()
    cost: Cost | None = None
    before: Plain | None = None
    text: str = ""
    tagged: str = ""
    success: bool = False
    rates: Rates | None = None
    hints: tuple[str, ...] = ()
    unknown_words: str = ""
    never_said: RoundTrip | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Point:
    """Rates of a set of trays at one setting, each with the ends of its 95 % interval."""

    name: str
    tau: float
    chair_i: float
    chair_i_low: float
    chair_i_high: float
    chair_s: float
    cover: float
    cover_low: float
    cover_high: float
    give_ups: float
    empty: float
    words: float
    generated_tokens: float
    forward_tokens: float
    trays: int


@dataclass(frozen=True)
class Curve:
    """The trade-off: REVERSE over tau, and what stands beside it."""

    points: tuple[Point, ...]
    baselines: tuple[Point, ...]
    p_un_right: Float[Array, " r"]
    p_un_wrong: Float[Array, " w"]
    auroc: float
    noise: float

    def at_equal_cover(self) -> "tuple[Beside, ...]":
        """Each baseline beside REVERSE where both cover as much.

        Whoever says less errs less, so that rates at equal tau compare nothing. A baseline that
        runs over tau is met at the cover of each point of REVERSE, one with a single point at its
        own cover; between two measured points the rate is a straight line, and beyond the last it
        is not told.
        """
        ours = [point for point in self.points if point.name == "REVERSE"]
        rows = []
        for name in dict.fromkeys(point.name for point in self.baselines):
            theirs = [point for point in self.baselines if point.name == name]
            for place in ours if len(theirs) > 1 else theirs:
                rates = _at_cover(ours, place.cover), _at_cover(theirs, place.cover)
                if not np.isnan(rates).any():
                    rows.append(Beside(name, place.cover, *rates))
        return tuple(rows)


@dataclass(frozen=True)
class Beside:
    """CHAIR_i of REVERSE (`ours`) and of the baseline `name` (`theirs`) at one cover."""

    name: str
    cover: float
    ours: float
    theirs: float


def _at_cover(points: Sequence[Point], cover: float) -> float:
    """CHAIR_i at a cover between those that were measured, else NaN."""
    ordered = sorted(points, key=lambda point: point.cover)
    covers, rates = ([getattr(p, name) for p in ordered] for name in ("cover", "chair_i"))
    return float(np.interp(cover, covers, rates, left=np.nan, right=np.nan))


@dataclass(frozen=True)
class Threshold:
    """What keeping phrases up to this tau would give."""

    tau: float
    precision: float
    kept: float


@dataclass(frozen=True)
class Calibration:
    """How well P(UN) tells wrong from right, and the largest tau that reaches the precision."""

    auroc: float
    tau: float | None
    target: float
    right: int
    wrong: int
    thresholds: tuple[Threshold, ...]
    p_un_right: Float[Array, " r"]
    p_un_wrong: Float[Array, " w"]
    source: str
