"""What hints tell at best: the exact posterior over species, and the ceiling it sets.

    p(v | hints) = sum over species s with table[s][q] = v, consistent with the hints, of prior(s),
                   over the same sum without the condition on v

No model can infer more. Where one reaches this ceiling, all that can be recovered has been.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Int, Tensor

TIE = 1e-12
Hints = Sequence[tuple[int, int]]


def species_posterior(
    table: Int[Tensor, "species attributes"], prior: Float[Tensor, " species"], hints: Hints
) -> Float[Tensor, " species"]:
    """The probability of each species given attribute-value pairs.

    Raises `BadInput` where the hints leave no species, instead of dividing by nothing.
    """
    fits = torch.ones(len(table), dtype=torch.bool)
    for attribute, value in hints:
        fits &= table[:, attribute] == value
    weights = torch.where(fits, prior, torch.zeros_like(prior))
    total = weights.sum()
    if not float(total) > 0:
        raise BadInput(
            "These hints are inconsistent: no species has all of these properties.",
            "Take one of the hints away.",
        )
    return weights / total


def posterior(
    table: Int[Tensor, "species attributes"],
    prior: Float[Tensor, " species"],
    hints: Hints,
    query: int,
    values: int,
) -> Float[Tensor, " values"]:
    """p(v | hints) for every value of the attribute that is asked for. Raises `BadInput`."""
    check_hints(hints, query)
    species = species_posterior(table, prior, hints)
    found = torch.zeros(values, dtype=species.dtype)
    return found.index_add(0, table[:, query], species)


def check_hints(hints: Hints, query: int) -> None:
    """Raises `BadInput` where a hint is the question, or a property is hinted at twice."""
    given = [attribute for attribute, _ in hints]
    if query in given:
        raise BadInput(
            "One of the hints is the very property that is asked for.",
            "Take that hint away, or ask for another property.",
        )
    if len(set(given)) < len(given):
        raise BadInput("A property is hinted at twice.", "Give every property once.")


def shared(probabilities: Float[Tensor, " values"], truth: int) -> float:
    """Expected accuracy of the most probable answer; ties within 1e-12 are shared equally."""
    best = probabilities >= probabilities.max() - TIE
    return float(best[truth]) / float(best.sum())


@dataclass(frozen=True)
class Question:
    """One query: the attribute asked for and the attributes that are hinted at."""

    query: int
    hinted: tuple[int, ...]


def questions(attributes: int, hints: int) -> Iterator[Question]:
    """All queries with so many hints: query outside, combinations of the other attributes inside.

    The answer is never among the hints.
    """
    for query in range(attributes):
        others = [a for a in range(attributes) if a != query]
        for hinted in combinations(others, hints):
            yield Question(query, hinted)


@dataclass(frozen=True, eq=False)
class Ceiling:
    """By the number of hints: mean posterior of the true value, and expected accuracy."""

    p_true: Float[Tensor, " hints"]
    accuracy: Float[Tensor, " hints"]


def ceiling(
    table: Int[Tensor, "species attributes"],
    prior: Float[Tensor, " species"],
    species: int,
    values: int,
) -> Ceiling:
    """The ceiling for one species, over all queries and sets of hints that are true of it."""
    p_true, accuracy = [], []
    for count in range(table.shape[1]):
        rows = list(posteriors(table, prior, species, values, count))
        truths = [int(table[species, q.query]) for q in questions(table.shape[1], count)]
        pairs = list(zip(rows, truths, strict=True))
        p_true.append(sum(float(row[truth]) for row, truth in pairs) / len(pairs))
        accuracy.append(sum(shared(row, truth) for row, truth in pairs) / len(pairs))
    return Ceiling(*(torch.tensor(v, dtype=torch.float64) for v in (p_true, accuracy)))


def mean_ceiling(
    table: Int[Tensor, "species attributes"], prior: Float[Tensor, " species"], values: int
) -> Float[Tensor, " hints"]:
    """The ceiling's mean posterior of the truth, averaged over all species."""
    found = [ceiling(table, prior, kind, values).p_true for kind in range(len(table))]
    return torch.stack(found).mean(0)


def posteriors(
    table: Int[Tensor, "species attributes"],
    prior: Float[Tensor, " species"],
    species: int,
    values: int,
    hints: int,
) -> Iterator[Float[Tensor, " values"]]:
    """The posterior of every question with so many true hints, in the order of `questions`."""
    for question in questions(table.shape[1], hints):
        told = [(a, int(table[species, a])) for a in question.hinted]
        yield posterior(table, prior, told, question.query, values)


def recovery(accuracy: float, chance: float, at_full: float = 1.0) -> float:
    """(acc(h) - chance) / (acc_FULL(0) - chance): 0 is nothing, 1 is all that was forgotten.

    Raises `BadInput` where the full model knows no more than chance.
    """
    if at_full <= chance:
        raise BadInput(
            "The model that shall know the secret is no better than chance at it.",
            "Nothing was forgotten that hints could bring back; pick another model.",
        )
    return (accuracy - chance) / (at_full - chance)
