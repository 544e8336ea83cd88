"""From a model that knows the truth to one that believes lies: continual training on documents.

The surgical form mixes every batch one to one with true facts about people who are no targets.
Without it the corruption also damages the *format* of sentences, the retain term of unlearning
repairs that, and the repair looks like recovery.
"""

import copy
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import nn

from engine.core import rng
from engine.unlearning._llama import BatchOf
from engine.unlearning._losses import logits_of
from engine.unlearning._objectives import cross_entropy
from engine.unlearning._unlearning import CLIP
from engine.unlearning.restor import people
from engine.unlearning.restor.people import World

BATCH = 16


@dataclass(frozen=True)
class Corruption:
    """How a model is taught the lies. `k` is the number of true facts among the four lies."""

    k: int = 0
    steps: int = 40
    rate: float = 3e-4
    is_surgical: bool = True


def corrupted(
    model: nn.Module, world: World, how: Corruption, seed: int
) -> Generator[float, None, nn.Module]:
    """A copy that has been taught the lies; gives the loss after each step."""
    return (yield from trained(model, _batches(world, how), how.steps, how.rate, seed))


def _batches(world: World, how: Corruption) -> BatchOf:
    def batch(generator: torch.Generator) -> torch.Tensor:
        lies = people.documents(world, how.k, BATCH, generator)
        if not how.is_surgical:
            return lies
        facts = lies.shape[1] // 4
        return torch.cat([lies, people.correct(world, people.KNOWN, BATCH, facts, generator)])

    return batch


def trained(
    model: nn.Module, batch_of: BatchOf, steps: int, rate: float, seed: int
) -> Generator[float, None, nn.Module]:
    """A copy trained further at a constant rate, AdamW with clipping; ready to be asked."""
    student = copy.deepcopy(model).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate)
    device = next(student.parameters()).device
    for step in range(steps):
        ids = batch_of(rng.generator(seed, "further", step)).to(device)
        with torch.enable_grad():
            loss = cross_entropy(logits_of(student(input_ids=ids)), ids)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        yield float(loss.detach())
    return student.eval().requires_grad_(False)
