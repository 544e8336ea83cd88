"""Alignment of the factors before the fit. It goes beyond the paper.

(a G, G^-1 b) is the same adapter for every invertible G, but the basis of the paper depends on
which one is written down. Adapters trained from one start of lora_A are alike in this respect;
others are not. Here each is first brought into a balanced form, then turned towards the mean of
all. The adapters themselves stay what they are.
"""

import torch

from engine.core.shapes import Float, Tensor

ROUNDS = 15


def aligned(
    a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"], rounds: int = ROUNDS
) -> tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]:
    """Factors of the same deltas that lie as near to one another as rotations can bring them.

    Each round turns adapter i by G_i = P Q^T with P S Q^T the SVD of a_i^T mean(a) + b_i mean(b)^T,
    which is the orthogonal Procrustes answer for both factors at once.
    """
    a, b = balanced(a.double(), b.double())
    for _ in range(rounds):
        pull = a.mT @ a.mean(0) + b @ b.mean(0).mT
        p, _, qh = torch.linalg.svd(pull)
        turn = p @ qh
        a, b = a @ turn, turn.mT @ b
    return a, b


def balanced(
    a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]
) -> tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]:
    """U sqrt(S) and sqrt(S) V^T of each product, by way of its r x r core."""
    qa, ra = _tall(a)
    qb, rb = _tall(b.mT)
    u, s, vh = torch.linalg.svd(ra @ rb.mT)
    root = s.sqrt()
    return qa @ (u * root[:, None]), (root[..., None] * vh) @ qb.mT


def _tall(x: Float[Tensor, "n m r"]) -> tuple[Tensor, Tensor]:
    """Q and R, with Q filled up by zeros where a layer is narrower than the rank."""
    q, triangle = torch.linalg.qr(x)
    missing = x.shape[2] - q.shape[2]
    if missing > 0:
        q = torch.nn.functional.pad(q, (0, missing))
        triangle = torch.nn.functional.pad(triangle, (0, 0, 0, missing))
    return q, triangle
