"""What SGMSE+ is trained on."""

import torch

from engine.core.shapes import Complex, Float, Tensor


def denoising_score_matching(
    score: Complex[Tensor, "b 1 f t"], noise: Complex[Tensor, "b 1 f t"], std: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Mean over the batch of 1/2 sum |s score + noise|^2; a perfect score is -noise / s."""
    error = std[:, None, None, None] * score + noise
    return torch.mean(0.5 * error.abs().pow(2).flatten(1).sum(dim=1))
