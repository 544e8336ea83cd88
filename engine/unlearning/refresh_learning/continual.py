"""Learning one task after the other: Split Fashion-MNIST, and the ways to forget less.

Five tasks of two classes each. All ways take the same learning steps on the same batches in the
same order; refresh learning adds steps uphill, which cost time but are no learning steps.

| way | the loss of a step beside the batch's own |
|---|---|
| `sgd` | nothing |
| `joint` | nothing, but the batches are of all tasks at once |
| `ewc` | lambda sum F (theta - theta_old)^2, F over all tasks so far |
| `er` | beta CE on a draw from the buffer |
| `der` | alpha MSE to the logits that the buffer stored |
| `derpp` | both, on two draws |

`joint` is an upper bound after many epochs only: in a single one, replay sees samples more often.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.unlearning._losses import Batch, logits_of
from engine.unlearning._samples import garments
from engine.unlearning.refresh_learning.networks import CLASSES, Kind, new_network
from engine.unlearning.refresh_learning.refresh import (
    Refresh,
    RefreshOptimizer,
    batch_loss,
    fisher_of,
)

Way = Literal["sgd", "joint", "ewc", "er", "der", "derpp"]
WAYS: tuple[Way, ...] = ("sgd", "joint", "ewc", "er", "der", "derpp")
TITLES: Mapping[str, str] = {
    "sgd": "SGD", "joint": "all tasks at once", "ewc": "online EWC", "er": "ER", "der": "DER",
    "derpp": "DER++",
}  # fmt: skip
TASKS, EACH = 5, 2


@dataclass(frozen=True)
class Course:
    """Settings of a run; those of DER++ on MNIST by default, with a buffer of 200."""

    way: Way = "derpp"
    network: Kind = "mlp"
    epochs: int = 1
    train: int = 500
    test: int = 300
    batch: int = 10
    replay: int = 32
    buffer: int = 200
    rate: float = 0.03
    weight_decay: float = 1e-4
    alpha: float = 0.2
    beta: float = 1.0
    anchor: float = 90.0


@dataclass(frozen=True, eq=False)
class Tasks:
    """Pictures in [0, 1] and labels of each task, for training and for testing."""

    train: tuple[Batch, ...]
    test: tuple[Batch, ...]

    @property
    def everything(self) -> Batch:
        """The training data of all tasks."""
        return tuple(torch.cat(parts) for parts in zip(*self.train, strict=True))


@cache
def tasks(train: int, test: int) -> Tasks:
    """Classes 0 and 1, then 2 and 3, and so on; the first pictures of each class.

    Raises `BadInput` where a class has not as many.
    """
    return Tasks(_parts("train", train), _parts("test", test))


def _parts(part: Literal["train", "test"], count: int) -> tuple[Batch, ...]:
    found = garments(part)
    places = [(found.labels == label).nonzero()[:, 0] for label in range(CLASSES)]
    least = min(map(len, places))
    if count > least:
        raise BadInput(f"Each class has {least} {part} pictures, not {count}.", "Take fewer.")
    chosen = [
        torch.cat([places[EACH * task + i][:count] for i in range(EACH)]) for task in range(TASKS)
    ]
    return tuple((found.pixels[p].float() / 255, found.labels[p]) for p in chosen)


@dataclass
class Buffer:
    """Reservoir sampling: every sample seen so far is kept with equal probability."""

    size: int
    generator: torch.Generator
    seen: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def add(self, batch: Batch, logits: Float[Tensor, "b k"]) -> None:
        """Samples with the logits that the network had for them before it learnt this batch."""
        for row in zip(*batch, logits.detach(), strict=True):
            if self.seen < self.size:
                for kept, value in zip(self._columns(), row, strict=True):
                    kept.append(value.clone())
            else:
                place = int(torch.randint(self.seen + 1, (), generator=self.generator))
                if place < self.size:
                    for kept, value in zip(self._columns(), row, strict=True):
                        kept[place] = value.clone()
            self.seen += 1

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Some of what is kept: inputs, labels, logits."""
        order = torch.randperm(len(self.labels), generator=self.generator)[:count].tolist()
        inputs, labels, logits = (
            torch.stack([column[i] for i in order]) for column in self._columns()
        )
        return inputs, labels, logits

    def _columns(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return self.inputs, self.labels, self.logits

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Stage:
    """After some steps: which task is learnt, and after a task the accuracies on all of them."""

    task: int
    step: int
    by_class: Float[Tensor, " tasks"] | None = None
    by_task: Float[Tensor, " tasks"] | None = None


class Learner:
    """A network that goes through the tasks, with or without refresh learning."""

    def __init__(self, course: Course, how: Refresh | None, seed: int) -> None:
        self.course, self.seed = course, seed
        self.data = tasks(course.train, course.test)
        self.model = new_network(course.network, seed)
        self.buffer = Buffer(course.buffer, rng.generator(seed, "buffer"))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=course.rate, weight_decay=course.weight_decay
        )
        self.refresh = None
        if how is not None:
            self.refresh = RefreshOptimizer(
                self.model, self.optimizer, batch_loss, how=how, seed=seed
            )  # fmt: skip
        self.anchor: dict[str, Tensor] = {}
        self.importance: dict[str, Tensor] = {}
        self.relative_steps: list[float] = []

    def run(self) -> Iterator[Stage]:
        """All tasks; a stage after every step, with accuracies after every task."""
        parts = self.data.train if self.course.way != "joint" else (self.data.everything,) * TASKS
        if self.course.way == "joint":
            parts = parts[:1]
        for task, data in enumerate(parts):
            step = 0
            for batch in self._batches(data, task):
                self._learn(batch)
                step += 1
                yield Stage(task, step)
            self._finish_task(data)
            at = TASKS - 1 if self.course.way == "joint" else task
            yield Stage(at, step, *accuracies(self.model, self.data))

    def _batches(self, data: Batch, task: int) -> Iterator[Batch]:
        for epoch in range(self.course.epochs):
            order = torch.randperm(
                len(data[0]), generator=rng.generator(self.seed, "order", task, epoch)
            )
            for places in order.split(self.course.batch):
                yield tuple(part[places] for part in data)

    def _learn(self, batch: Batch) -> None:
        self.model.train()
        if self.refresh is not None:
            self.relative_steps.append(self.refresh.unlearn(batch))
        with torch.enable_grad():
            logits = logits_of(self.model(batch[0]))
            loss = F.cross_entropy(logits, batch[1]) + self._beside()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.course.way in ("er", "der", "derpp"):
            self.buffer.add(batch, logits)

    def _beside(self) -> Float[Tensor, ""]:
        """What the way adds to the loss of a batch; runs with gradients on."""
        how, found = self.course, torch.zeros(())
        if how.way == "ewc" and self.importance:
            for name, parameter in self.model.named_parameters():
                gap = (parameter - self.anchor[name]).square()
                found = found + how.anchor * (self.importance[name] * gap).sum()
        if len(self.buffer) and how.way in ("der", "derpp"):
            inputs, _, stored = self.buffer.draw(how.replay)
            found = found + how.alpha * F.mse_loss(logits_of(self.model(inputs)), stored)
        if len(self.buffer) and how.way in ("er", "derpp"):
            inputs, labels, _ = self.buffer.draw(how.replay)
            found = found + how.beta * F.cross_entropy(logits_of(self.model(inputs)), labels)
        return found

    def _finish_task(self, data: Batch) -> None:
        """The Fisher information of what was just learnt, where something asks for it."""
        size = self.course.batch
        batches = [
            tuple(part[start : start + size] for part in data)
            for start in range(0, len(data[0]), size)
        ]
        if self.refresh is not None and self.refresh.how.fisher_factor:
            self.refresh.end_of_task(batches)
        if self.course.way == "ewc":
            new = fisher_of(self.model, batches)
            self.importance = {n: self.importance.get(n, 0.0) + v for n, v in new.items()}
            self.anchor = {n: p.detach().clone() for n, p in self.model.named_parameters()}


@torch.no_grad()
def accuracies(
    model: nn.Module, data: Tasks
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    """On every task's test pictures: among all classes, and among the two of the task."""
    model.eval()
    by_class, by_task = [], []
    for task, (inputs, labels) in enumerate(data.test):
        logits = torch.cat([logits_of(model(part)) for part in inputs.split(500)])
        own = logits[:, EACH * task : EACH * (task + 1)]
        by_class.append((logits.argmax(1) == labels).double().mean())
        by_task.append((own.argmax(1) + EACH * task == labels).double().mean())
    return torch.stack(by_class), torch.stack(by_task)


def backward_transfer(matrix: Float[Tensor, "times tasks"]) -> float:
    """Mean over all tasks but the last of final minus just-learnt accuracy; below 0: forgotten."""
    just = matrix.diagonal()[:-1]
    return float((matrix[-1, :-1] - just).mean())


def forgetting(matrix: Float[Tensor, "times tasks"]) -> Float[Tensor, " tasks"]:
    """By how much each task's accuracy fell from its best to the end; the last has fallen by 0."""
    best = torch.stack([matrix[task:, task].max() for task in range(matrix.shape[1])])
    return best - matrix[-1]
