"""What a student knows: every relation asked forward and backward, greedily decoded.

The relations held out for the test are reported apart by how they stand to the questions that were
asked: the inverse was asked, the way around was asked, or neither ("new").
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.core.shapes import Array, Bool, Tensor
from engine.verifying.revthink import fleet, months
from engine.verifying.revthink.extract import word
from engine.verifying.revthink.fleet import Plan, Shape

RELATIONS = months.relations()
STANDINGS = ("inverse", "around", "new")


@dataclass(frozen=True)
class Exam:
    """Right answers of one student, in the order of `months.relations`."""

    plan: Plan
    forward: Bool[Array, "r"]
    backward: Bool[Array, "r"]

    def standings(self) -> list[str]:
        """How each relation stands to the questions of this student's training."""
        asked = self.plan.questions()
        return [months.standing(question, asked) for question in RELATIONS]

    def rate(self, part: str = "test", *, backward: bool = False) -> tuple[float, int]:
        """Share of right answers and their number: "asked", "test", or a standing in the test."""
        test, standings = set(self.plan.split.test), self.standings()
        if part == "test":
            chosen = [question in test for question in RELATIONS]
        elif part == "asked":
            chosen = [standing == "asked" for standing in standings]
        else:
            chosen = [
                question in test and standing == part
                for question, standing in zip(RELATIONS, standings, strict=True)
            ]
        right = (self.backward if backward else self.forward)[np.array(chosen)]
        return (float(right.mean()) if len(right) else 0.0), len(right)

    def figures(self) -> dict[str, float]:
        """The rates that are written down; a standing without relations is left out."""
        found = {"asked": self.rate("asked")[0], "test": self.rate("test")[0]}
        for part in STANDINGS:
            share, count = self.rate(part)
            if count:
                found[part] = share
        found["backward, asked"] = self.rate("asked", backward=True)[0]
        found["backward, test"] = self.rate("test", backward=True)[0]
        return {name: round(value, 4) for name, value in found.items()}


def texts(seed: int, *, backward: bool) -> list[str]:
    """The prompts of the exam; each relation in a surface drawn by the seed."""
    asked = [(q, fleet.surface(seed, index)) for index, q in enumerate(RELATIONS)]
    return [q.backward_question(v) if backward else q.text(v) for q, v in asked]


def examine(
    weights: Mapping[str, Tensor],
    plans: Sequence[Plan],
    shape: Shape,
    students_at_once: int = 16,
) -> Iterator[Exam]:
    """An exam of each student, a few students at a time."""
    for first in range(0, len(plans), students_at_once):
        part = plans[first : first + students_at_once]
        some = {name: w[first : first + len(part)].detach() for name, w in weights.items()}
        right = [_right(some, part, shape, backward=backward) for backward in (False, True)]
        for plan, forward, backward in zip(part, *right, strict=True):
            yield Exam(plan, forward, backward)


def _right(
    weights: Mapping[str, Tensor], plans: Sequence[Plan], shape: Shape, *, backward: bool
) -> list[np.ndarray]:
    ids = torch.stack([fleet.prompts(texts(plan.seed, backward=backward)) for plan in plans])
    device = weights[fleet.EMBEDDING].device
    said = fleet.answer(weights, ids.to(device), shape).cpu().tolist()
    gold = [months.MONTHS[q.start] if backward else q.gold for q in RELATIONS]
    return [
        np.array([word(fleet.decode(row)) == g for row, g in zip(rows, gold, strict=True)])
        for rows in said
    ]


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds with the 95 % interval of Student's t."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean, mean
    from scipy.stats import t

    half = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean, mean - half, mean + half
