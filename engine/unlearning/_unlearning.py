"""Unlearning of texts by a language model, step by step: the loop that all trainings share."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from engine.core.shapes import Int, Tensor
from engine.unlearning._losses import Batch, logits_of, placed
from engine.unlearning._objectives import Objective, check_counted, cross_entropy

DIVERGED = 3.0  # times log(vocabulary): worse than guessing by far
CLIP = 1.0  # of the gradient's length, as the Trainer of transformers has it


@runtime_checkable
class Batches(Protocol):
    """Where forget and retain batches come from; ids with labels (-100: not learnt)."""

    def forget(self, step: int) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]: ...

    def retain(self, step: int) -> tuple[Int[Tensor, "c m"], Int[Tensor, "c m"]] | None: ...


@dataclass(frozen=True)
class Step:
    """One step that was made. `forget_loss` is CE on the batch before it, in nats."""

    number: int
    loss: float
    forget_loss: float
    has_diverged: bool = False


def unlearn(
    model: nn.Module,
    reference: nn.Module,
    batches: Batches,
    objective: Objective,
    steps: int,
    rate: float,
) -> Generator[Step, None, None]:
    """Trains `model` in place, its trainable parameters by AdamW with clipping.

    Stops by itself, and says so, when the loss on the forget set passes three times that of
    guessing, or is no number: the model is broken by then, which is shown and not hidden.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    for number in range(1, steps + 1):
        drawn = batches.forget(number)
        check_counted(drawn[1])  # before it is sent to the device
        forget = placed(drawn, parameters[0])
        facts = batches.retain(number)
        retain = placed(facts, parameters[0]) if facts else None
        loss, forget_loss, vocabulary = _loss(model, reference, forget, retain, objective)
        value = float(loss.detach())
        broken = not (math.isfinite(value) and forget_loss <= DIVERGED * math.log(vocabulary))
        if broken:
            yield Step(number, value, forget_loss, has_diverged=True)
            return
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
        yield Step(number, value, forget_loss)


def _loss(
    model: nn.Module,
    reference: nn.Module,
    forget: Batch,
    retain: Batch | None,
    objective: Objective,
) -> tuple[Tensor, float, int]:
    with torch.no_grad():
        before = logits_of(reference(input_ids=forget[0])) if objective.needs_reference else None
    with torch.enable_grad():
        now = logits_of(model(input_ids=forget[0]))
        kept = (logits_of(model(input_ids=retain[0])), retain[1]) if retain else None
        loss = objective((now, forget[1]), before, kept)
    forget_loss = float(cross_entropy(now.detach(), forget[1]))
    return loss, forget_loss, now.shape[-1]
