"""How much of what is said of a picture is not in it (CHAIR), and how much of it is said at all.

    CHAIR_i = hallucinated mentions / all mentions
    CHAIR_s = texts with at least one hallucinated mention / all texts
    Cover   = different true objects mentioned / true objects, summed over the set

Empty texts count in CHAIR_s and Cover, so that silence is not a way to win both.
Rohrbach et al. 2018, https://arxiv.org/abs/1809.02156
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.shapes import Array, Float
from engine.metrics.intervals import ratio_interval


@dataclass(frozen=True)
class Told:
    """What one text names, as often as it does, and what is really there."""

    mentioned: tuple[str, ...]
    present: tuple[str, ...]


@dataclass(frozen=True)
class Rates:
    """The three rates of a set of texts."""

    chair_i: float
    chair_s: float
    cover: float


def counts(told: Sequence[Told]) -> Float[Array, "n 5"]:
    """For each text: false mentions, mentions, whether any is false, objects found, objects."""
    rows = []
    for one in told:
        false = sum(name not in one.present for name in one.mentioned)
        found = len(set(one.mentioned) & set(one.present))
        rows.append((false, len(one.mentioned), false > 0, found, len(set(one.present))))
    return np.array(rows, dtype=float).reshape(-1, 5)


def rates_of(table: Float[Array, "n 5"]) -> Rates:
    """The rates of a table of counts."""
    false, mentions, any_false, found, objects = table.sum(0)
    return Rates(
        float(false / max(mentions, 1)),
        float(any_false / max(len(table), 1)),
        float(found / max(objects, 1)),
    )


def chair(told: Sequence[Told]) -> Rates:
    """CHAIR and coverage of a set of texts."""
    return rates_of(counts(told))


def intervals(told: Sequence[Told], *, seed: int = 42) -> tuple[tuple[float, float], ...]:
    """95 % intervals of CHAIR_i, CHAIR_s and Cover over resampled sets of texts."""
    false, mentions, any_false, found, objects = counts(told).T
    parts = (false, mentions), (any_false, np.ones(len(told))), (found, objects)
    return tuple(ratio_interval(above, below, seed=seed) for above, below in parts)
