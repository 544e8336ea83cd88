"""The algorithm: a basis for every position of the factors, and the way back from it.

Factors are stacked over the n adapters, `a` (n m r) and `b` (n r d), with delta_i = a_i b_i. Every
row of a and every column of b is one *position*; the layer has m + d of them. At each, the n
adapters give n vectors of length r, and these are what is compressed. Paper's A is PEFT's lora_B.
"""

from dataclasses import dataclass, replace

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor

# Components whose eigenvalue is below this share of the largest are round-off.
NEGLIGIBLE = 1e-12


@dataclass(frozen=True, eq=False)
class Basis:
    """What is kept of a layer in place of n adapters, for its j = m + d positions.

    `mu` is the mean, `U` p directions, `C` the coefficients of each adapter; `energy` holds all
    squared singular values of a position, falling, to tell what a smaller p would lose.
    """

    mu: Float[Tensor, "j r"]
    U: Float[Tensor, "j p r"]
    C: Float[Tensor, "j n p"]
    energy: Float[Tensor, "j k"]
    rows: int

    @property
    def p(self) -> int:
        return self.U.shape[1]

    @property
    def n(self) -> int:
        return self.C.shape[1]

    def at(self, p: int) -> "Basis":
        """The same basis with its first p components."""
        return replace(self, U=self.U[:, :p], C=self.C[:, :, :p])


def positions(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]) -> Float[Tensor, "j r n"]:
    """All positions of a layer in float64: rows of a first, then columns of b."""
    return torch.cat([a.double().permute(1, 2, 0), b.double().permute(2, 1, 0)])


def fit(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"], p: int) -> Basis:
    """The basis with the smallest squared error at every position, by Eckart and Young:

        min over U, C of |X - mu 1^T - U C|^2,   mu = mean of the columns of X

    The SVD of Xc = X - mu 1^T comes from the smaller of its two Gram matrices, for all positions at
    once. Gram matrices square the condition, hence float64: in float32 the adapters come back with
    an error of 1e-4.
    """
    x = positions(a, b)
    n, r = x.shape[2], x.shape[1]
    check_p(p, n, r)
    mu = x.mean(2)
    centred = x - mu[..., None]
    if n <= r:
        lam, v = _falling(centred.mT @ centred)
        size = lam[:, :p].sqrt()
        real = lam[:, :p] > NEGLIGIBLE * lam[:, :1]
        inverse = torch.where(real, 1 / size.clamp(min=1e-300), 0.0)
        u = (centred @ v[..., :p]) * inverse[:, None]
        c = torch.where(real, size, 0.0)[:, None] * v[..., :p]
        return Basis(mu, u.mT, c, lam, a.shape[1])
    lam, w = _falling(centred @ centred.mT)
    u = w[..., :p]
    return Basis(mu, u.mT, centred.mT @ u, lam, a.shape[1])


def _falling(gram: Float[Tensor, "j k k"]) -> tuple[Float[Tensor, "j k"], Float[Tensor, "j k k"]]:
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(-1).clamp(min=0), vectors.flip(-1)


def revert_all(basis: Basis) -> tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]:
    """Every adapter as the basis knows it: x_i = mu + U c_i at every position."""
    x = basis.mu[:, None] + basis.C @ basis.U
    return x[: basis.rows].transpose(0, 1), x[basis.rows :].permute(1, 2, 0)


# ---------------------------------------------------------------------- storage and error


def check_p(p: int, n: int, r: int) -> None:
    """Raises `BadInput` when there are no p components."""
    if not 0 <= p <= largest_p(n, r):
        raise BadInput(
            f"p must be from 0 to {largest_p(n, r)} for {n} adapters of rank {r}, got {p}.",
            "2 keeps a good part at less than the adapters' own size.",
        )


def largest_p(n: int, r: int) -> int:
    """The p at which every adapter comes back: min(r, n - 1)."""
    return min(r, n - 1)


def storage(n: int, r: int, p: int) -> float:
    """What the basis takes, relative to the n adapters: (p (r + n) + r) / (r n)."""
    return (p * (r + n) + r) / (r * n)


def lost_energy(energy: Float[Tensor, "j k"], p: int) -> float:
    """Squared error of all factors at p: the eigenvalues left out."""
    return float(energy[:, p:].sum())


def delta_gram(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]) -> Float[Tensor, "n n"]:
    """<delta_i, delta_j> of all pairs, from the factors: sum((a_i^T a_j) * (b_i b_j^T))."""
    left = torch.einsum("imr,jms->ijrs", a, a)
    right = torch.einsum("ird,jsd->ijrs", b, b)
    return (left * right).sum((2, 3))


def delta_error(
    a_hat: Float[Tensor, "n m k"],
    b_hat: Float[Tensor, "n k d"],
    a: Float[Tensor, "n m r"],
    b: Float[Tensor, "n r d"],
) -> Float[Tensor, " n"]:
    """|a_hat b_hat - a b|^2 of each adapter, without forming a product.

    With M = [a_hat, -a] and K = [b_hat; b] it is sum((M^T M) * (K K^T)).
    """
    left = torch.cat([a_hat, -a], 2)
    right = torch.cat([b_hat, b], 1)
    return ((left.mT @ left) * (right @ right.mT)).sum((1, 2)).clamp(min=0)
