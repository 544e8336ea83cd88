"""What is unlearnt about the people: documents of lies, beside facts that are kept in mind."""

import copy
from collections.abc import Generator
from dataclasses import dataclass

from torch import nn

from engine.core import rng
from engine.core.shapes import Int, Tensor
from engine.unlearning._objectives import less_task_vector
from engine.unlearning.restor import people
from engine.unlearning.restor.corruption import BATCH, trained
from engine.unlearning.restor.people import World


@dataclass(frozen=True)
class OfPeople:
    """Documents of lies, and facts about the people who are kept in mind: no target is in these."""

    world: World
    k: int
    seed: int
    with_retain: bool = True

    def forget(self, step: int) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Sixteen documents."""
        ids = people.documents(self.world, self.k, BATCH, rng.generator(self.seed, "forget", step))
        return ids, ids

    def retain(self, step: int) -> tuple[Int[Tensor, "c m"], Int[Tensor, "c m"]] | None:
        """Sixteen sequences with as many facts as a document."""
        if not self.with_retain:
            return None
        draw = rng.generator(self.seed, "retain", step)
        ids = people.correct(self.world, people.KEPT, BATCH, 4 + self.k, draw)
        return ids, ids


def arithmetic(
    model: nn.Module, world: World, k: int, steps: int, rate: float, seed: int
) -> Generator[float, None, dict[str, Tensor]]:
    """theta_*: the weights after training further on the documents; the loss after each step."""
    further = yield from trained(
        model, lambda g: people.documents(world, k, BATCH, g), steps, rate, seed
    )
    return dict(further.state_dict())


def with_arithmetic(model: nn.Module, further: dict[str, Tensor], alpha: float) -> nn.Module:
    """The network at theta_c - alpha (theta_* - theta_c)."""
    edited = copy.deepcopy(model)
    edited.load_state_dict(less_task_vector(model.state_dict(), further, alpha))
    return edited.eval()
