"""Refresh learning: before every batch is learnt, the network is made to unlearn it a little.

    refresh = RefreshOptimizer(model, optimizer, loss)
    for batch in batches:
        refresh.step(batch)                       # unlearn, then learn
    refresh.end_of_task(batches)                  # the Fisher information that weighs the next task

With the Trainer of transformers:

    trainer = Trainer(model, args, train_dataset=data, callbacks=[trainer_callback(Refresh())])

As the published code has it, for every tensor p with the gradient G of the batch's loss

    u = 0.01 G,   v = u |p| / (|u| + 1e-20),   p <- p + delta (v + 0.001 xi) / (1 + 0.001 F)

so each tensor moves by the share delta of its own length, whatever the size of the gradient. The
paper's form is a step of natural-gradient ascent with matching noise:

    p <- p + delta F^-1 G + N(0, 2 delta F^-1)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from engine.core import rng
from engine.core.job import finish
from engine.core.shapes import Float, Shaped, Tensor
from engine.unlearning._importance import Provenance, Streaming, stream
from engine.unlearning._losses import Batch, Network, logits_of

if TYPE_CHECKING:
    from transformers import TrainerCallback

Form = Literal["code", "paper"]
Direction = Literal["unlearn", "random", "noise"]
Weighting = Literal["mammoth", "one"]
FORMS: tuple[Form, ...] = ("code", "paper")
DIRECTIONS: tuple[Direction, ...] = ("unlearn", "random", "noise")
RISKY = 3e-3  # from here on delta undoes more than a batch teaches
ASCENT, NEARLY_ZERO, NO_GRADIENT = 0.01, 1e-20, 1e-12
B = TypeVar("B")
Fisher = Mapping[str, Shaped[Tensor, "..."]]


@dataclass(frozen=True)
class Refresh:
    """How much is unlearnt, and in which direction.

    `direction` "random" and "noise" are controls: a random step of the same length, or no step but
    the noise. `damping` is added to F in the paper's form.
    """

    delta: float = 1e-5
    noise: float = 1e-3
    fisher_factor: float = 1e-3
    rounds: int = 1
    form: Form = "code"
    direction: Direction = "unlearn"
    damping: float = 1.0
    tau: float = 1e-5

    def change(
        self,
        weight: Shaped[Tensor, "*d"],
        gradient: Shaped[Tensor, "*d"],
        fisher: Shaped[Tensor, "*d"] | float,
        xi: Shaped[Tensor, "*d"],
        away: Shaped[Tensor, "*d"] | None = None,
    ) -> Shaped[Tensor, "*d"]:
        """What one round adds to a tensor; `xi` is standard normal, `away` a random direction."""
        if self.form == "paper":
            metric = fisher + self.damping
            return self.delta * gradient / metric + self.noise_of_paper(metric) * xi
        step = self._step(weight, gradient, away)
        return self.delta * (step + self.noise * xi) / (1 + self.fisher_factor * fisher)

    def _step(self, weight: Tensor, gradient: Tensor, away: Tensor | None) -> Tensor:
        """The direction, as long as the tensor itself; nothing where there is no gradient."""
        if self.direction == "noise":
            return torch.zeros_like(weight)
        length = weight.norm()
        # A bias before batch norm has no gradient but rounding noise, which must not be blown up.
        if gradient.norm() < NO_GRADIENT * length:
            return torch.zeros_like(weight)
        ascent = ASCENT * (gradient if self.direction == "unlearn" or away is None else away)
        return length / (ascent.norm() + NEARLY_ZERO) * ascent

    def noise_of_paper(self, metric: Tensor | float) -> Tensor | float:
        """The spread of N(0, 2 delta F^-1)."""
        return (2 * self.delta / metric) ** 0.5


def batch_loss(model: Network, batch: Batch) -> Float[Tensor, ""]:
    """The mean cross-entropy of a batch of inputs and labels; the buffer takes no part in it."""
    inputs, labels, *_ = batch
    return F.cross_entropy(logits_of(model(inputs)), labels)


class RefreshOptimizer(Generic[B]):
    """A training step that unlearns its batch a little before it learns it.

    `loss` is (model, batch) -> a number or one number a sample. `fisher` is by parameter name;
    where there is none, it counts as zero, as in the first task. The step after unlearning starts
    from where unlearning led; weights are not put back as in sharpness-aware minimisation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[nn.Module, B], Tensor],
        fisher: Fisher | None = None,
        *,
        how: Refresh | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.how, self.seed = how or Refresh(), seed
        self.fisher: dict[str, Tensor] = dict(fisher or {})
        self.count = 0

    def step(self, batch: B) -> Float[Tensor, ""]:
        """Unlearn, then learn; gives the loss that was learnt from."""
        self.unlearn(batch)
        self.optimizer.zero_grad()
        with torch.enable_grad():
            loss = self.loss(self.model, batch).mean()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def unlearn(self, batch: B, *, noise: Mapping[str, Tensor] | None = None) -> float:
        """Uphill on the batch; gives the relative length of the step, the largest of any tensor.

        Gradients that lie on the parameters, and buffers such as running means, stay as they are.
        `noise` stands in for drawn noise, by parameter name.
        """
        longest = 0.0
        for _ in range(self.how.rounds):
            longest = max(longest, self._climb(self._gradients(batch), noise))
        return longest

    def _gradients(self, batch: B) -> dict[str, Tensor]:
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        with kept_buffers(self.model), torch.enable_grad():
            loss = self.loss(self.model, batch).mean()
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {
            name: torch.zeros_like(named[name]) if g is None else g
            for name, g in zip(named, found, strict=True)
        }

    @torch.no_grad()
    def _climb(self, gradients: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None) -> float:
        draw = rng.generator(self.seed, "refresh", self.count)
        self.count += 1
        longest = 0.0
        for name, gradient in gradients.items():
            weight = self.model.get_parameter(name)
            xi = _like(weight, draw) if noise is None else noise[name]
            away = _like(weight, draw) if self.how.direction == "random" else None
            change = self.how.change(weight, gradient, self.fisher.get(name, 0.0), xi, away)
            # A bias that starts at zero has no length to compare with; it moves by noise alone.
            if length := float(weight.norm()):
                longest = max(longest, float(change.norm()) / length)
            weight.add_(change)
        return longest

    def end_of_task(
        self, batches: Sequence[Batch], *, batch_size: int = 0, weighting: Weighting = "mammoth"
    ) -> None:
        """F <- tau F + F_new: with tau 1e-5 this is nearly the last task's alone."""
        new = fisher_of(self.model, batches, batch_size=batch_size, weighting=weighting)
        tau = self.how.tau
        self.fisher = {n: tau * self.fisher.get(n, 0.0) + value for n, value in new.items()}


def _like(weight: Tensor, draw: torch.Generator) -> Tensor:
    return rng.noise(weight.shape, draw, device=weight.device, dtype=weight.dtype)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Running statistics come back to where they were."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


# ---------------------------------------------------------------------- Fisher information


def weighted_log_probability(model: Network, batch: Batch) -> Float[Tensor, " b"]:
    """sqrt(p) log p of the true label: its squared gradient is p (grad log p)^2, p held fixed."""
    inputs, labels, *_ = batch
    log = logits_of(model(inputs)).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return log.exp().detach().sqrt() * log


def log_probability(model: Network, batch: Batch) -> Float[Tensor, " b"]:
    """log p of the true label."""
    inputs, labels, *_ = batch
    return logits_of(model(inputs)).log_softmax(-1).gather(1, labels[:, None])[:, 0]


def fisher_of(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    batch_size: int = 0,
    weighting: Weighting = "mammoth",
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information, sample by sample, over batches x batch size.

    The divisor counts a ragged last batch as full, as the published code does; `batch_size` 0 is
    that of the first batch. "mammoth" weighs each sample with the probability of its label. The
    network stands in eval: the code has it in train, where single samples have no batch statistics.
    """
    listed = list(batches)
    loss = weighted_log_probability if weighting == "mammoth" else log_probability
    kind = next(model.parameters()).dtype
    how = Streaming(model, loss, Provenance("", loss.__name__), accumulate=kind)
    found = finish(stream(how, listed))
    divisor = len(listed) * (batch_size or len(listed[0][0]))
    return {name: value * (found.samples / divisor) for name, value in found.values.items()}


# ---------------------------------------------------------------------- transformers


def trainer_callback(
    how: Refresh | None = None, fisher: Fisher | None = None, *, seed: int = 0
) -> "TrainerCallback":
    """A callback for the Trainer of transformers that refreshes before every batch is learnt.

    The Trainer shows its callbacks no batch, so a hook at the entrance of the model sees it: each
    forward pass in training with labels is preceded by the step uphill on the same inputs. With
    gradient accumulation every small batch is unlearnt once.
    """
    from transformers import TrainerCallback

    class RefreshCallback(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
            entrance = _Entrance(RefreshOptimizer(model, optimizer, _loss_of_inputs, fisher,
                                                  how=how, seed=seed))  # fmt: skip
            self.hook = model.register_forward_pre_hook(entrance, with_kwargs=True)

        def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            self.hook.remove()

    return RefreshCallback()


class _Entrance:
    """Unlearns what is about to go through the model, unless it is that very pass."""

    def __init__(self, refresh: RefreshOptimizer[Mapping[str, Tensor]]) -> None:
        self.refresh, self.is_inside = refresh, False

    def __call__(self, model: nn.Module, args: tuple, inputs: dict) -> None:
        if self.is_inside or not (model.training and "labels" in inputs):
            return
        self.is_inside = True
        try:
            self.refresh.unlearn(inputs)
        finally:
            self.is_inside = False


def _loss_of_inputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The loss that a model of transformers returns with its labels."""
    loss: Tensor = model(**inputs).loss
    return loss
