"""The method itself: which parameters of a text encoder are trained, and the steps uphill."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.erasing._learning import Adam
from engine.erasing.few_shot_erasing import PARAMETERS


@dataclass(frozen=True)
class Optimizer:
    """Who takes the steps, by the names of torch.optim, with the defaults of the published code.

    Adadelta and Adagrad have no betas.
    """

    name: str = "Adam"
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-8

    def of(self, parameters: Sequence[Float[Tensor, "..."]]) -> Callable[[Tensor], None]:
        """A function that takes one step down a loss."""
        told = {"eps": self.eps, "weight_decay": self.weight_decay}
        if self.name in ("Adam", "AdamW"):
            is_apart = self.name == "AdamW"
            adam = Adam(
                parameters, self.learning_rate, betas=self.betas, decoupled=is_apart, **told
            )
            return adam.descend
        theirs = getattr(torch.optim, self.name)(parameters, lr=self.learning_rate, **told)

        def descend(loss: Tensor) -> None:
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            theirs.step()

        return descend


def trainable(names: Sequence[str], parameters: str, layers: int) -> list[str]:
    """The names, of all in a text encoder with this many layers, that are trained.

    "all" is everything, embeddings too; "mlp-only" and "attn-only" the feed-forward parts or the
    attention of every layer, "mlp-attn" both; "mlp-final-attn", the published setting, the
    feed-forward parts of every layer and the attention of the last.

    The published code writes the last layer as "11.self_attn.", which on encoders of another depth
    means no layer, or not the last one; here it is the last.
    """
    if parameters not in PARAMETERS:
        raise ValueError(f"unknown parameters {parameters!r}; choose one of {PARAMETERS}")
    found = [name for name in names if _is_trained(name, parameters, layers - 1)]
    if not found:
        raise ModelMismatch(
            "This text encoder has no layers called mlp or self_attn.",
            "Pick a model with a CLIP text encoder.",
        )
    return found


def part_of(name: str) -> tuple[int, str] | None:
    """Layer and part ("mlp" or "self_attn") of a parameter; None outside the two."""
    found = re.search(r"layers\.(\d+)\.(mlp|self_attn)\.", name)
    return (int(found[1]), found[2]) if found else None


def _is_trained(name: str, parameters: str, last: int) -> bool:
    layer, part = part_of(name) or (-1, "")
    match parameters:
        case "all":
            return True
        case "mlp-only":
            return part == "mlp"
        case "attn-only":
            return part == "self_attn"
        case "mlp-attn":
            return part != ""
        case _:
            return part == "mlp" or (part == "self_attn" and layer == last)


def climb(
    parameters: Sequence[Float[Tensor, "..."]],
    errors: Iterator[Callable[[], Float[Tensor, ""]]],
    *,
    optimizer: Optimizer,
    uphill: bool = True,
) -> Iterator[float]:
    """Take a step for each denoising error; yields the error before the step.

        loss = -error        theta <- Adam(theta, d loss / d theta)

    Nothing bounds the loss from below, so the number of steps is the regulariser. Weight decay is
    added to the gradient (Adam, not AdamW). `uphill` False is the control: ordinary fine-tuning.
    """
    descend = optimizer.of(parameters)
    for error_of in errors:
        error = error_of()
        descend(-error if uphill else error)
        yield float(error.detach())
