"""Losses of single samples: what makes one implementation of unlearning serve all models.

A loss gives one number for each sample of a batch and is never reduced here, so that gradients can
be taken for samples as well as for batches.

| loss | batch | of one sample |
|---|---|---|
| `classification` | inputs, label | cross-entropy |
| `causal_language` | ids, labels (-100: not learnt) | mean cross-entropy of its tokens |
| `Denoising` | latents, condition or none, sample's id | mean square of the error of the noise |
| `label_free` | inputs | sum of the squared outputs (LFSSD, arXiv 2402.19308) |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F

from engine.core import rng
from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Int, Tensor

Batch: TypeAlias = tuple[Tensor, ...]
Network: TypeAlias = Callable[..., object]
"""A module, or a module with other weights; it is only ever called."""
Loss: TypeAlias = Callable[[Network, Batch], Float[Tensor, " b"]]


def logits_of(output: object) -> Float[Tensor, "b *d"]:
    """The logits in what a model returns: its `logits`, or the tensor itself.

    Raises `ModelMismatch` for an output without any.
    """
    found = getattr(output, "logits", output)
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        raise ModelMismatch(
            "This model returns no logits, so it has no loss to take gradients of.",
            "Load a classifier or a language model, not a bare encoder.",
        )
    return found


def placed(batch: Batch, like: Tensor) -> Batch:
    """A batch on the device of a parameter, real numbers in its number format."""
    return tuple(
        part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)
        for part in batch
    )


def classification(model: Network, batch: Batch) -> Float[Tensor, " b"]:
    """Cross-entropy of each sample's label."""
    inputs, labels, *_ = batch
    return F.cross_entropy(logits_of(model(inputs)), labels, reduction="none")


def label_free(model: Network, batch: Batch) -> Float[Tensor, " b"]:
    """Squared length of each sample's outputs; needs no labels."""
    return logits_of(model(batch[0])).square().flatten(1).sum(1)


def causal_language(model: Network, batch: Batch) -> Float[Tensor, " b"]:
    """Mean over the tokens of each sequence; label -100 marks what does not count."""
    ids, labels = batch[:2]
    logits = logits_of(model(input_ids=ids))[:, :-1]
    targets = labels[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets).sum(1) / (targets != -100).sum(1).clamp(min=1)


@dataclass(frozen=True)
class Denoising:
    """The loss of a diffusion UNet, with step and noise drawn from each sample's id.

    Equal ids get equal noise, so that the share of a sample in the importance of the whole data is
    the same as in that of the forget set, and the bound on alpha holds. `draw` picks which of the
    draws this is; average several by giving a sample several times with different draws.
    """

    alphas_cumprod: Float[Tensor, " t"]
    seed: int = 0
    draw: int = 0

    def __call__(self, model: Network, batch: Batch) -> Float[Tensor, " b"]:
        """Batch: latents b c h w, condition b n d unless the network takes none, ids b."""
        latents, *condition, ids = batch
        timesteps, noise = self._drawn(ids, latents)
        kept = self.alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        told = {"encoder_hidden_states": condition[0]} if condition else {}
        output = model(noisy, timesteps, **told)
        predicted = getattr(output, "sample", output)
        if not isinstance(predicted, torch.Tensor):
            raise ModelMismatch("This model predicts no noise.", "Load a diffusion UNet.")
        return (noise - predicted).square().flatten(1).mean(1)

    def _drawn(self, ids: Int[Tensor, " b"], latents: Tensor) -> tuple[Tensor, Tensor]:
        steps, noises = [], []
        for one in ids.tolist():
            generator = rng.generator(self.seed, "denoising", self.draw, int(one))
            steps.append(torch.randint(len(self.alphas_cumprod), (), generator=generator))
            noises.append(rng.noise(latents.shape[1:], generator))
        return torch.stack(steps).to(latents.device), torch.stack(noises).to(latents)
