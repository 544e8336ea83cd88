"""What the lab shows: frozen values with numpy arrays. A preview is a result not yet full."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.erasing._evaluation import ParetoPoint, Scores

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Row:
    """One model's pictures of the sheet's prompts, with the judge's words."""

    name: str
    pictures: Pictures
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """One counted picture: enough to count again. `number` gives its noise, with the seed."""

    model: str
    strength: float
    attack: str
    number: int
    group: str
    prompt: str
    should_show: str
    shows: bool | None
    judge: str


@dataclass(frozen=True)
class Comparison:
    """All models on one sheet, in one table, in one plane.

    `groups` names the group of each prompt of the sheet. `gate` says what is not scored and why.
    """

    concept: str
    anchor: str
    kept_words: tuple[str, ...]
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[Row, ...] = ()
    scores: tuple[Scores, ...] = ()
    points: tuple[ParetoPoint, ...] = ()
    seen: tuple[Seen, ...] = ()
    each: int = 0
    gate: str = ""
    notes: tuple[str, ...] = field(default=())
