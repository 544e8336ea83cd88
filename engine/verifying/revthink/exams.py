"""What a student knows: every relation asked forward and backward, greedily decoded.

The relations held out for the test are reported apart by how they stand to the questions that were
asked: the inverse was asked, the way around was asked, or neither ("new").
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from engine.core.shapes import Array, Bool, Tensor
from engine.verifying.revthink import fleet, months
from engine.verifying.revthink.extract import word
from engine.verifying.revthink.fleet import Plan, Shape

STANDINGS = ("inverse", "around", "new")


@dataclass(frozen=True)
class Exam:
    """Right answers of one student, in the order of `months.relations` of its cycle."""

    plan: Plan
    forward: Bool[Array, "r"]
    backward: Bool[Array, "r"]

    @cached_property
    def standings(self) -> tuple[str, ...]:
        """How each relation stands to the questions of this student's training."""
        return standings(self.plan)

    @cached_property
    def is_test(self) -> tuple[bool, ...]:
        """Which relations were held out for the test."""
        test = set(self.plan.split.test)
        return tuple(question in test for question in months.relations(self.plan.cycle))

    def rate(self, part: str = "test", *, backward: bool = False) -> tuple[float, int]:
        """Share of right answers and their number: "asked", "test", or a standing in the test."""
        pairs = list(zip(self.standings, self.is_test, strict=True))
        if part == "test":
            chosen = [is_test for _, is_test in pairs]
        elif part == "asked":
            chosen = [standing == "asked" for standing, _ in pairs]
        else:
            chosen = [is_test and standing == part for standing, is_test in pairs]
        right = (self.backward if backward else self.forward)[np.array(chosen)]
        return (float(right.mean()) if len(right) else 0.0), len(right)

    def figures(self) -> dict[str, float]:
        """The rates that are written down; a standing without relations is left out."""
        rates = {"asked": self.rate("asked")[0], "test": self.rate("test")[0]}
        for part in STANDINGS:
            share, count = self.rate(part)
            if count:
                rates[part] = share
        rates["backward, asked"] = self.rate("asked", backward=True)[0]
        rates["backward, test"] = self.rate("test", backward=True)[0]
        return {name: round(value, 4) for name, value in rates.items()}


def standings(plan: Plan) -> tuple[str, ...]:
    """How each relation stands to the questions of a plan."""
    known = frozenset(plan.questions())
    return tuple(months.standing(question, known) for question in months.relations(plan.cycle))


def texts(plan: Plan, *, backward: bool) -> list[str]:
    """The prompts of the exam; each relation in a surface drawn by the seed."""
    relations = months.relations(plan.cycle)
    surfaces = [(q, fleet.surface(plan.seed, index)) for index, q in enumerate(relations)]
    return [q.backward_question(v) if backward else q.text(v) for q, v in surfaces]


def examine(
    weights: Mapping[str, Tensor],
    plans: Sequence[Plan],
    shape: Shape,
    students_at_once: int = 16,
) -> Iterator[Exam]:
    """An exam of each student, a few students at a time; all of one cycle."""
    for first in range(0, len(plans), students_at_once):
        part = plans[first : first + students_at_once]
        some = {name: w[first : first + len(part)].detach() for name, w in weights.items()}
        right = [_right(some, part, shape, backward=backward) for backward in (False, True)]
        for plan, forward, backward in zip(part, *right, strict=True):
            yield Exam(plan, forward, backward)


def _right(
    weights: Mapping[str, Tensor], plans: Sequence[Plan], shape: Shape, *, backward: bool
) -> list[np.ndarray]:
    ids = torch.stack([fleet.prompts(texts(plan, backward=backward)) for plan in plans])
    device = weights[fleet.EMBEDDING].device
    generated = fleet.answer(weights, ids.to(device), shape).cpu().tolist()
    cycle = plans[0].cycle
    gold = [cycle.names[q.start] if backward else q.gold for q in months.relations(cycle)]
    return [
        np.array([word(fleet.decode(row)) == g for row, g in zip(rows, gold, strict=True)])
        for rows in generated
    ]
