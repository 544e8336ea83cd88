"""Losses that make a language model forget: gradient ascent, KL, NPO, and what keeps the rest.

Logits are those of whole batches, b n v; labels b n hold -100 where nothing is to be learnt. All
losses are computed in float32 or wider: log(q + 1e-12) is minus infinity in half precision.

| name | forget term | retain term |
|---|---|---|
| `ga` | -CE(D_f) | gamma CE(D_r) |
| `kl` | -gamma H(p, q) on D_f | CE(D_r) |
| `npo` | (2 / beta) * -logsigmoid(beta (CE(D_f) - CE_c(D_f))) | gamma CE(D_r) |
| `npo_token` | (2 / beta) mean over tokens of log(1 + (P / P_c)^beta) | gamma CE(D_r) |

CE is the causal loss, a mean over the unmasked shifted tokens of the batch. H is the cross-entropy
from the current model p to the corrupted one q, over all positions. The subscript c marks the
model as it was before unlearning. Rezaei et al. 2025 (arXiv 2411.00204) and their code; NPO is of
Zhang et al. 2024 (arXiv 2404.05868): the paper's form is per token, the code's per batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from engine.core.errors import BadInput
from engine.core.shapes import Float, Int, Tensor

Method = Literal["ga", "kl", "npo", "npo_token", "retain_only"]
METHODS: tuple[Method, ...] = ("ga", "kl", "npo", "npo_token", "retain_only")
TITLES: Mapping[str, str] = {
    "ga": "gradient ascent",
    "kl": "KL",
    "npo": "NPO, of the batch",
    "npo_token": "NPO, of the token",
    "retain_only": "retain only",
}
TINY = 1e-12  # in the logarithm of q, as in the published code


def token_losses(logits: Float[Tensor, "b n v"], labels: Int[Tensor, "b m"]) -> Float[Tensor, " t"]:
    """Cross-entropy of every token that counts, under the logits one place before it.

    Raises `BadInput` where logits and labels are of unequal length, or no token counts.
    """
    if logits.shape[:2] != labels.shape:
        raise BadInput(
            f"There are {logits.shape[1]} positions and {labels.shape[1]} labels for them.",
            "Give labels of the same length as the tokens, -100 where nothing is learnt.",
        )
    targets = labels[:, 1:]
    counted = targets != -100
    if labels.device.type == "cpu":  # an accelerator would be waited for; see `unlearn`
        check_counted(labels)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide[:, :-1][counted], targets[counted], reduction="none")


def check_counted(labels: Int[Tensor, "b m"]) -> None:
    """Raises `BadInput` where no token of a batch is learnt."""
    if not bool((labels[:, 1:] != -100).any()):
        raise BadInput("No token of this batch counts.", "Give texts of at least two tokens.")


def cross_entropy(logits: Float[Tensor, "b n v"], labels: Int[Tensor, "b m"]) -> Float[Tensor, ""]:
    """CE: the mean over the tokens of the whole batch, as transformers takes it."""
    return token_losses(logits, labels).mean()


def cross_to_reference(
    logits: Float[Tensor, "b n v"], reference: Float[Tensor, "b n v"]
) -> Float[Tensor, ""]:
    """H(p, q) = -sum_v p log(q + 1e-12), p the model, q the reference, over all positions.

    The entropy of p is not taken off, and padding and prompts count, as in the published code.
    Raising it drives the model to whatever the reference finds unlikely, without bound.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    q = reference.detach().to(wide.dtype).softmax(-1)
    return -(wide.softmax(-1) * (q + TINY).log()).sum(-1).mean()


def npo_of_batch(
    loss: Float[Tensor, ""], reference_loss: Float[Tensor, ""], beta: float
) -> Float[Tensor, ""]:
    """NPO as the published code has it: the sigmoid of the difference of the batch's means.

    At the start its gradient is that of gradient ascent; it fades once the loss has grown by about
    1 / beta nats.
    """
    return -(2 / beta) * F.logsigmoid(beta * (loss - reference_loss.detach()))


def npo_of_tokens(
    losses: Float[Tensor, " t"], reference_losses: Float[Tensor, " t"], beta: float
) -> Float[Tensor, ""]:
    """NPO as the paper has it: (2 / beta) mean_i log(1 + (P(x_i) / P_c(x_i))^beta)."""
    log_ratio = reference_losses.detach() - losses
    return (2 / beta) * F.softplus(beta * log_ratio).mean()


@dataclass(frozen=True)
class Objective:
    """What one step of unlearning descends on. `gamma` 0 switches the term it weighs off.

    `retain_only` is the control without any forget term.
    """

    method: Method = "npo"
    beta: float = 0.1
    gamma: float = 1.0

    @property
    def needs_reference(self) -> bool:
        """Whether it looks at the model as it was."""
        return self.method in ("kl", "npo", "npo_token")

    def __call__(
        self,
        forget: tuple[Float[Tensor, "b n v"], Int[Tensor, "b n"]],
        reference: Float[Tensor, "b n v"] | None,
        retain: tuple[Float[Tensor, "c m v"], Int[Tensor, "c m"]] | None,
    ) -> Float[Tensor, ""]:
        """The loss of logits with labels; `reference` are the old model's on the forget batch."""
        kept = cross_entropy(*retain) if retain is not None else forget[0].new_zeros(())
        if self.method == "retain_only":
            return kept
        if self.method == "kl":
            assert reference is not None
            return kept - self.gamma * cross_to_reference(forget[0], reference)
        return self._forgetting(forget, reference) + self.gamma * kept

    def _forgetting(
        self,
        forget: tuple[Float[Tensor, "b n v"], Int[Tensor, "b n"]],
        reference: Float[Tensor, "b n v"] | None,
    ) -> Float[Tensor, ""]:
        losses = token_losses(*forget)
        if self.method == "ga":
            return -losses.mean()
        assert reference is not None
        before = token_losses(reference, forget[1])
        if self.method == "npo":
            return npo_of_batch(losses.mean(), before.mean(), self.beta)
        return npo_of_tokens(losses, before, self.beta)


def less_task_vector(
    weights: Mapping[str, Tensor], further: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """theta_c - alpha (theta_* - theta_c): away from where training on the forget set leads."""
    return {name: value - alpha * (further[name] - value) for name, value in weights.items()}
