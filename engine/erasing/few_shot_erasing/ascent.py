"""The method itself: which parameters of a text encoder are trained, and the steps uphill."""

import re
from collections.abc import Callable, Iterator, Sequence

from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.erasing._learning import Adam
from engine.erasing.few_shot_erasing import PARAMETERS

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.98), 1e-6, 1e-8


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
    learning_rate: float,
    uphill: bool = True,
) -> Iterator[float]:
    """Take a step of Adam for each denoising error; yields the error before the step.

        loss = -error        theta <- Adam(theta, d loss / d theta)

    Nothing bounds the loss from below, so the number of steps is the regulariser. Weight decay is
    added to the gradient (Adam, not AdamW). `uphill` False is the control: ordinary fine-tuning.
    """
    adam = Adam(parameters, learning_rate, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    for error_of in errors:
        error = error_of()
        adam.descend(-error if uphill else error)
        yield float(error.detach())
