"""Fine-tuning of one arm: the same batches, rate and steps for all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.core import rng
from engine.networks._backbones import Batch, Classifier
from engine.networks._meft_models import Encoder
from engine.networks.meft.results import Predicted
from engine.networks.meft.tasks import Examples, Task
from engine.reversible.replay import accelerators, forked_noise

EVALUATED = 64  # at once


@dataclass(frozen=True)
class Plan:
    """AdamW with the betas, decay, warm-up and clipping of the authors' script."""

    steps: int = 40
    batch: int = 16
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    decay: float = 0.1
    warmup: float = 0.06
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Linear warm-up, then a linear fall to zero."""
        warm = max(1, int(self.warmup * self.steps))
        left = (self.steps - step) / max(1, self.steps - warm)
        return self.learning_rate * min(1.0, (step + 1) / warm, left)


def losses(
    network: Classifier, encoder: Encoder, task: Task, plan: Plan, seed: int
) -> Iterator[float]:
    """Trains the network; gives the loss of each step. Dropout draws from a fork of torch's
    generator, seeded by the step, so that arms see equal masks and torch's own stays."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=plan.learning_rate, betas=plan.betas, eps=plan.eps, weight_decay=plan.decay
    )
    network.train()
    for step, rows in enumerate(batches(len(task.train), plan, seed)):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        optimizer.zero_grad(set_to_none=True)
        labels = task.train.labels[rows].to(encoder.device)
        with forked_noise(accelerators(trained)), torch.enable_grad():
            torch.manual_seed(rng.generator(seed, "dropout", step).initial_seed())
            loss = F.cross_entropy(network(task.train.batch(encoder, rows)), labels)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, plan.clip)
        optimizer.step()
        yield float(loss.detach())
    network.eval()


def batches(count: int, plan: Plan, seed: int) -> Iterator[list[int]]:
    """Rows of each step, every row once before any comes again."""
    draw, order = rng.generator(seed, "batches"), list[int]()
    for _ in range(plan.steps):
        while len(order) < plan.batch:
            order += torch.randperm(count, generator=draw).tolist()
        yield order[: plan.batch]
        order = order[plan.batch :]


@torch.no_grad()
def probabilities(network: Classifier, encoder: Encoder, examples: Examples) -> torch.Tensor:
    """Of every class, for each example."""
    network.eval()
    rows = range(len(examples))
    parts = [rows[i : i + EVALUATED] for i in range(0, len(rows), EVALUATED)]
    found = [network(examples.batch(encoder, part)).softmax(-1) for part in parts]
    return torch.cat(found).cpu()


def accuracy(network: Classifier, encoder: Encoder, examples: Examples) -> float:
    """Share of examples whose most probable class is the right one."""
    found = probabilities(network, encoder, examples).argmax(-1)
    return float((found == examples.labels).float().mean())


@torch.no_grad()
def predicted(
    network: Classifier, encoder: Encoder, texts: list[str], classes: tuple[str, ...]
) -> tuple[Predicted, ...]:
    """The most probable class of each text."""
    batch: Batch = encoder.batch(texts)
    chances, places = network.eval()(batch).softmax(-1).max(-1)
    pairs = zip(texts, places.tolist(), chances.tolist(), strict=True)
    return tuple(Predicted(text, classes[place], chance) for text, place, chance in pairs)
