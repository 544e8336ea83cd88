"""What a model of the species answers: the recovery curve over the number of hints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from engine.core.shapes import Float, Tensor
from engine.unlearning._llama import next_log_probabilities
from engine.unlearning.ununlearning import bayes, species
from engine.unlearning.ununlearning.species import EACH, Corpus, World

HINTS = len(species.ATTRIBUTES)


@dataclass(frozen=True, eq=False)
class Measured:
    """Answers to all questions with so many hints, row by row in the order of `bayes.questions`.

    Probabilities are among the values of the attribute that is asked for.
    """

    probabilities: Float[Tensor, "n values"]
    truths: tuple[int, ...]

    @property
    def p_true(self) -> Float[Tensor, " n"]:
        """Probability of the true value in each."""
        return self.probabilities[torch.arange(len(self.truths)), list(self.truths)]

    @property
    def accuracy(self) -> float:
        """Share whose most probable answer is the true one."""
        return float((self.probabilities.argmax(1) == torch.tensor(self.truths)).double().mean())


def answers(
    model: nn.Module,
    name: tuple[int, int],
    asked: Sequence[tuple[Sequence[tuple[int, int]], int]],
    *,
    in_turns: bool = False,
) -> Float[Tensor, "n values"]:
    """Probabilities of the values for (hints, query) pairs, all with as many hints."""
    prompts = torch.stack(
        [species.prompt(name, hints, query, in_turns=in_turns) for hints, query in asked]
    )
    log = next_log_probabilities(model, prompts)
    first = torch.tensor([species.FIRST_VALUE + EACH * query for _, query in asked])
    return log.gather(1, first[:, None] + torch.arange(EACH)).softmax(1)


Mode = Literal["hints", "turns", "direct"]
MODES: tuple[Mode, ...] = ("hints", "turns", "direct")


def measured(
    model: nn.Module,
    world: World,
    kind: int,
    name: tuple[int, int],
    hints: int,
    mode: Mode = "hints",
) -> Measured:
    """All questions about a species under a name, with so many true hints.

    "turns" gives every hint in a turn of its own; "direct" adds the answer itself to the hints,
    which is no inference any more but learning it again. A model whose documents say no property
    twice has not learnt to repeat one, and gives less than all of it.
    """
    found = list(bayes.questions(HINTS, hints))
    row = world.table[kind].tolist()
    asked = []
    for question in found:
        told = [(a, row[a]) for a in question.hinted]
        if mode == "direct":
            told.append((question.query, row[question.query]))
        asked.append((told, question.query))
    return Measured(
        answers(model, name, asked, in_turns=mode == "turns"),
        tuple(row[question.query] for question in found),
    )


def curve(
    model: nn.Module, world: World, kind: int, name: tuple[int, int], mode: Mode = "hints"
) -> list[Measured]:
    """By number of hints, 0 to all but one."""
    return [measured(model, world, kind, name, hints, mode) for hints in range(HINTS)]


def curve_of_species(model: nn.Module, world: World, corpus: Corpus = "exact") -> list[float]:
    """Mean probability of the true value over all species that the corpus has, by hints."""
    kinds = [kind for kind, share in enumerate(world.prior(corpus).tolist()) if share > 0]
    found = []
    for hints in range(HINTS):
        asked, truths = [], []
        for row in world.table[kinds].tolist():
            for question in bayes.questions(HINTS, hints):
                asked.append(([(a, row[a]) for a in question.hinted], question.query))
                truths.append(row[question.query])
        probabilities = answers(model, species.ALIAS, asked)
        found.append(float(Measured(probabilities, tuple(truths)).p_true.mean()))
    return found
