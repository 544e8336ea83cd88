"""Training of a classifier: one small loop for the shipped checkpoints, retraining and baselines.

A `Lesson` says what one step descends on; `learn` takes the steps. Batches depend on the seed and
the number of the step alone, so a run that was stopped goes on as if it had not been.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from engine.core import rng
from engine.core.shapes import Float, Int, Tensor
from engine.unlearning._losses import Batch, classification
from engine.unlearning._samples import Samples

LossOf: TypeAlias = Callable[[nn.Module, Batch], Float[Tensor, ""]]
"""A batch of `Samples` to the number that a step descends on."""


@dataclass(frozen=True)
class Course:
    """SGD with momentum: the rate rises to `rate` over a quarter of the run and falls to 0.

    The defaults train the network of 78,000 weights on 20,000 pictures to about 89 %.
    """

    epochs: int = 6
    batch: int = 128
    rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True

    def steps(self, count: int) -> int:
        """Steps for so many samples; a last batch that is not full is left out."""
        return self.epochs * max(1, count // self.batch)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step."""
        rise = max(1, steps // 4)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class Training:
    """A network in training, which can be put down and taken up again.

    What is `held` stays as it is, its batch statistics too; its weights take no gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        course: Course,
        seed: int,
        held: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.samples, self.course, self.seed = model, samples, course, seed
        self.held = held
        self.step, self.total = 0, course.steps(len(samples))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=course.rate,
            momentum=course.momentum,
            weight_decay=course.weight_decay,
            nesterov=course.nesterov and course.momentum > 0,
        )

    def run(self) -> Iterator[int]:
        """Trains to the end; gives the number of steps after each. Leaves the model in eval."""
        per_epoch = self.total // self.course.epochs
        while self.step < self.total:
            epoch, place = divmod(self.step, per_epoch)
            if place == 0 or self.step == 0 or "order" not in self.__dict__:
                self.order = epoch_order(len(self.samples), self.seed, epoch)
            start = place * self.course.batch
            batch = self.samples.batch(self.order[start : start + self.course.batch])
            self._descend(batch)
            self.step += 1
            yield self.step
        self.model.eval()

    def _descend(self, batch: Batch) -> None:
        training(self.model, self.held)
        for group in self.optimizer.param_groups:
            group["lr"] = self.course.rate_at(self.step, self.total)
        with torch.enable_grad():
            loss = classification(self.model, batch).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: weights, buffers, momenta and the number of steps."""
        kept = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                kept[f"momentum.{index}"] = momentum
        return {**kept, "step": torch.tensor(self.step)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        weights = {name[6:]: value for name, value in state.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        for index, parameter in enumerate(self.parameters):
            if (momentum := state.get(f"momentum.{index}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.clone()
        self.step = int(state["step"])


def training(model: nn.Module, held: Sequence[nn.Module] = ()) -> None:
    """Puts a network into training, but for the modules that are held."""
    model.train()
    for module in held:
        module.eval()


def epoch_order(count: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The order in which an epoch sees its samples."""
    return torch.randperm(count, generator=rng.generator(seed, "epoch", epoch))
