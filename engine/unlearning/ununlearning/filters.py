"""Filters around a model, what they stop, and what they cost harmless names.

| filter | blocks | knows |
|---|---|---|
| "name" | prompts in which the two syllables of the name stand side by side | the name |
| "knowledge" | prompts whose hints make the forbidden species likely | the forbidden profile |
| "output" | answers that are the forbidden value, where the species is likely | the same |

A filter that understands hints has to hold exactly the knowledge that was to be gone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from engine.core.shapes import Bool, Float, Tensor
from engine.metrics.intervals import auroc
from engine.unlearning.ununlearning import bayes, species
from engine.unlearning.ununlearning.species import World

Kind = Literal["none", "name", "knowledge", "output"]
KINDS: tuple[Kind, ...] = ("none", "name", "knowledge", "output")


@dataclass(frozen=True)
class Asked:
    """A prompt as a filter sees it, and the model's answer to it."""

    name: tuple[int, int]
    hints: tuple[tuple[int, int], ...]
    query: int
    answer: int


def score(world: World, kind: Kind, asked: Asked) -> float:
    """How forbidden a prompt is, 0 to 1; it is blocked from the threshold on."""
    if kind == "none":
        return 0.0
    if kind == "name":
        return float(asked.name == species.NAME)
    likely = bayes.species_posterior(world.table, world.prior(), asked.hints)
    found = float(likely[world.forbidden])
    if kind == "output" and asked.answer != int(world.profile[asked.query]):
        return 0.0
    return found


def is_blocked(world: World, kind: Kind, asked: Asked, threshold: float) -> bool:
    """Whether the filter stops this prompt, or this answer."""
    return kind != "none" and score(world, kind, asked) >= threshold


@dataclass(frozen=True, eq=False)
class Roc:
    """Rates of blocked attacks and of blocked harmless prompts at every threshold."""

    thresholds: Float[Tensor, " t"]
    attacks: Float[Tensor, " t"]
    harmless: Float[Tensor, " t"]
    area: float


def roc(
    is_attack: Bool[Tensor, " n"], scores: Float[Tensor, " n"], thresholds: Float[Tensor, " t"]
) -> Roc:
    """True and false positive rates of score >= threshold, and the area under the curve.

    The area is the chance that an attack scores above a harmless prompt, ties counted half.
    """
    blocked = scores[None] >= thresholds[:, None]
    attacks, harmless = scores[is_attack], scores[~is_attack]
    return Roc(
        thresholds,
        blocked[:, is_attack].double().mean(1),
        blocked[:, ~is_attack].double().mean(1),
        auroc(attacks.numpy(), harmless.numpy()),
    )


def asked_by_refusal(blocked: Callable[[int], bool], values: int) -> float | None:
    """What yes-or-no questions give away: the share of the truth among what is refused.

    The attacker proposes every value in turn and reads "blocked" as yes. Gives 1 over the number of
    proposals that were blocked where the true one is among them, None where none was.
    """
    refused = [value for value in range(values) if blocked(value)]
    return 1 / len(refused) if refused else None


THRESHOLDS = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
