"""What a model of the people knows: answers to all facts, by word and by log-probability."""

from dataclasses import dataclass

import torch
from torch import nn

from engine.core.shapes import Bool, Float, Int, Tensor
from engine.unlearning._llama import next_log_probabilities
from engine.unlearning.restor import people
from engine.unlearning.restor.people import World


@dataclass(frozen=True, eq=False)
class Exam:
    """Answers to the facts about a group of people.

    `said` is the most probable token after five examples and the question. Log-probabilities are
    of the true value, of the lie, and the mean of the fourteen others.
    """

    said: Int[Tensor, " n"]
    is_true: Bool[Tensor, " n"]
    is_lie: Bool[Tensor, " n"]
    log_true: Float[Tensor, " n"]
    log_lie: Float[Tensor, " n"]
    log_random: Float[Tensor, " n"]

    def take(self, places: Int[Tensor, " m"]) -> "Exam":
        """Some of the facts."""
        return Exam(*(value[places] for value in vars(self).values()))


def examine(model: nn.Module, world: World, group: range) -> Exam:
    """All facts about a group; of people about whom no lies are told, the lie is another value."""
    who, what = people.facts_about(group)
    log = next_log_probabilities(model, people.prompts(world, who, what))
    truth, told = world.truth[who, what], world.told[who, what]
    lie = torch.where(truth == told, (truth + 1) % people.EACH, told)
    values = people.value_token(what[:, None], torch.arange(people.EACH)[None])
    among = log.gather(1, values)
    log_true, log_lie = (among.gather(1, v[:, None])[:, 0] for v in (truth, lie))
    others = (among.sum(1) - log_true - log_lie) / (people.EACH - 2)
    said = log.argmax(1)
    return Exam(
        said,
        said == people.value_token(what, truth),
        said == people.value_token(what, lie),
        log_true,
        log_lie,
        others,
    )


def of_context(world: World, group: range) -> float:
    """Accuracy of who answers with the commonest value among the five examples.

    Values repeat, so an answer may stand in the prompt by chance; this is what that is worth.
    """
    who, what = people.facts_about(group)
    found = people.prompts(world, who, what)[:, 2 : 4 * people.SHOTS : 4].mode(1).values
    return float((found == people.value_token(what, world.truth[who, what])).double().mean())


def split(count: int, generator: torch.Generator) -> tuple[Int[Tensor, " v"], Int[Tensor, " r"]]:
    """A tenth of the facts, which may choose settings, and the others, which are reported."""
    order = torch.randperm(count, generator=generator)
    chosen = max(1, count // 10)
    return order[:chosen].sort().values, order[chosen:].sort().values
