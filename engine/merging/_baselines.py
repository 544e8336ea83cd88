"""Ways to merge adapters that keep one set of weights, to stand beside the reversible one.

Adapters come as stacked factors `a` (n m r) and `b` (n r d), scalings folded in: the delta of
adapter i is a_i b_i. "Separate" merges work on the factors one by one, as PEFT's `linear`, `ties`,
`dare_*` do; "combined" ones on the products. Those that need all n products of a layer form them
for that layer alone.

PEFT's conventions are followed where it has the method: the square root of a weight goes on both
factors, its sign on lora_A (our `b`); TIES trims each tensor to its largest values, elects the sign
by the unweighted sum ("total") or by counts ("frequency"), ties count as plus, and the sum of the
agreeing values is divided by their number.
"""

from collections.abc import Callable
from typing import Literal

import torch

from engine.core.rng import generator
from engine.core.shapes import Float, Tensor

Election = Literal["total", "frequency"]
Stack = Float[Tensor, "n *d"]
Pair = tuple[Float[Tensor, "m k"], Float[Tensor, "k d"]]
Svd = tuple[Float[Tensor, "m l"], Float[Tensor, " l"], Float[Tensor, "l d"]]

# Singular values of the stacked deltas below this count as zero (KnOTS).
KNOTS_SMALLEST = 1e-5


# ---------------------------------------------------------------------- on stacks of tensors


def linear(stack: Stack, weights: Float[Tensor, " n"]) -> Float[Tensor, "*d"]:
    """sum_i w_i x_i."""
    return (stack * _spread(weights, stack)).sum(0)


def trimmed(stack: Stack, density: float) -> Stack:
    """Each tensor with all but its largest `density` share of values set to zero."""
    flat = stack.flatten(1)
    kept = int(density * flat.shape[1])
    if kept >= flat.shape[1]:
        return stack
    mask = torch.zeros_like(flat)
    if kept:
        mask.scatter_(1, flat.abs().topk(kept).indices, 1.0)
    return (flat * mask).view_as(stack)


def dropped(stack: Stack, density: float, seed: int, *role: str | int) -> Stack:
    """DARE: each value kept with probability `density` and divided by it."""
    kept = torch.rand(stack.shape, generator=generator(seed, "dare", *role)) < density
    return stack * kept.to(stack) / density


def elected(stack: Stack, election: Election = "total") -> Float[Tensor, "*d"]:
    """The majority's sign of every value: of the sum, or of the signs' sum."""
    votes = stack.sum(0) if election == "total" else stack.sign().sum(0)
    return torch.where(votes >= 0, 1.0, -1.0).to(stack)


def disjoint_mean(
    stack: Stack, signs: Float[Tensor, "*d"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "*d"]:
    """Weighted values that agree with the sign, over their number."""
    agree = stack.sign() == signs
    total = (stack * agree * _spread(weights, stack)).sum(0)
    return total / agree.sum(0).clamp(min=1).to(stack)


def ties(
    stack: Stack, weights: Float[Tensor, " n"], density: float, election: Election = "total"
) -> Float[Tensor, "*d"]:
    """TIES-merging (Yadav et al. 2023): trim, elect signs, mean of those that agree."""
    kept = trimmed(stack, density)
    return disjoint_mean(kept, elected(kept, election), weights)


def magnitude_prune(
    stack: Stack, weights: Float[Tensor, " n"], density: float
) -> Float[Tensor, "*d"]:
    """Trim, then sum."""
    return linear(trimmed(stack, density), weights)


def _spread(weights: Float[Tensor, " n"], stack: Stack) -> Tensor:
    return weights.to(stack).view(-1, *[1] * (stack.ndim - 1))


# ---------------------------------------------------------------------- separate: factor by factor


def separate(
    a: Float[Tensor, "n m r"],
    b: Float[Tensor, "n r d"],
    weights: Float[Tensor, " n"],
    merge: Callable[[Stack, Tensor], Tensor] = linear,
) -> Pair:
    """Both factors merged apart: sqrt|w| on each, the sign on `b`, as in PEFT."""
    root = weights.abs().sqrt()
    return merge(a, root), merge(b, root * weights.sign())


def cat(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"], weights: Float[Tensor, " n"]) -> Pair:
    """Ranks side by side: the weighted sum of the products, exactly, at n times the rank."""
    scaled = b * weights.to(b)[:, None, None]
    return a.transpose(0, 1).flatten(1), scaled.flatten(0, 1)


# ---------------------------------------------------------------------- combined: on the products


def deltas(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]) -> Float[Tensor, "n m d"]:
    """The products of one layer."""
    return a @ b


def truncated(delta: Float[Tensor, "m d"], rank: int) -> Pair:
    """The nearest product of this rank, with the singular values shared evenly."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def knots(
    a: Float[Tensor, "n m r"],
    b: Float[Tensor, "n r d"],
    merge: Callable[[Stack], Tensor],
) -> Float[Tensor, "m d"]:
    """KnOTS (Stoica et al. 2024): one SVD of [delta_1 ... delta_n] = U S [V_1 ... V_n], then a
    merge of the S V_i, which share their basis, multiplied by U.

    The SVD comes from the factors: all deltas side by side have at most n r directions.
    """
    n, r = len(a), a.shape[2]
    columns = a.transpose(0, 1).flatten(1)
    # [delta_1 ... delta_n] = [a_1 ... a_n] blockdiag(b_i); its left side from an m x m Gram.
    q, triangle = torch.linalg.qr(columns)
    core = torch.stack([triangle[:, i * r : (i + 1) * r] @ b[i] for i in range(n)])
    side_by_side = core.transpose(0, 1).flatten(1)
    u, s, vh = torch.linalg.svd(side_by_side, full_matrices=False)
    kept = s > KNOTS_SMALLEST
    rotated = (s[kept, None] * vh[kept]).unflatten(1, (n, -1)).transpose(0, 1)
    return q @ (u[:, kept] @ merge(rotated))


def tsv_merge(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]) -> Float[Tensor, "m d"]:
    """TSV-M (Gargiulo et al. 2025): the leading singular triples of each task, made orthogonal
    across tasks by polar factors, put together again."""
    n, share = len(a), min(a.shape[1], b.shape[2]) // len(a)
    triples = [within_range(*_svd_of_product(a[i], b[i])) for i in range(n)]
    u = torch.cat([u[:, :share] for u, _, _ in triples], 1)
    s = torch.cat([s[:share] for _, s, _ in triples])
    v = torch.cat([vh[:share].mT for _, _, vh in triples], 1)
    return (polar(u) * s) @ polar(v).mT


def iso_c(a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]) -> Float[Tensor, "m d"]:
    """Iso-C (Marczak et al. 2025): the summed delta with all singular values set to their mean.

    The released formula, mean(s) U V^T over all min(m, d) values, raises those that are zero as
    well. Their directions are whatever round-off left, and differ between processors. They are left
    out here, and the mean stays that over all values: within the range of the sum nothing differs.
    """
    delta = deltas(a, b).sum(0)
    u, s, vh = within_range(*torch.linalg.svd(delta, full_matrices=False))
    return s.sum() / min(delta.shape) * (u @ vh)


def polar(matrix: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """The nearest matrix with orthonormal columns (or rows); zero on the null space of `matrix`."""
    u, _, vh = within_range(*torch.linalg.svd(matrix, full_matrices=False))
    return u @ vh


def within_range(u: Float[Tensor, "m k"], s: Float[Tensor, " k"], vh: Float[Tensor, "k d"]) -> Svd:
    """An SVD without the triples whose singular value is zero to round-off.

    Their vectors are an arbitrary basis of the null space. The bound is that of LAPACK and numpy
    for the rank of a matrix: max(m, d) units of round-off of the largest value.
    """
    least = max(len(u), vh.shape[1]) * torch.finfo(s.dtype).eps * s[:1]
    rank = int((s > least).sum())
    return u[:, :rank], s[:rank], vh[:rank]


def _svd_of_product(a: Float[Tensor, "m r"], b: Float[Tensor, "r d"]) -> Svd:
    """SVD of a b by way of its core, r x r unless the layer is narrower."""
    qa, ra = torch.linalg.qr(a)
    qb, rb = torch.linalg.qr(b.mT)
    u, s, vh = torch.linalg.svd(ra @ rb.mT, full_matrices=False)
    return qa @ u, s, vh @ qb.mT


# ---------------------------------------------------------------------- competitors in storage


def layer_basis(
    a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"], p: int
) -> tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]:
    """PCA over tasks of each layer's factors as one long vector, p components after the mean."""
    n = len(a)
    flat = torch.cat([a.flatten(1), b.flatten(1)], 1)
    mean = flat.mean(0)
    centred = flat - mean
    _, vectors = torch.linalg.eigh(centred @ centred.mT)
    top = vectors[:, n - p :] if p else vectors[:, :0]
    kept = mean + top @ (top.mT @ centred)
    size = a[0].numel()
    return kept[:, :size].view_as(a), kept[:, size:].view_as(b)


def joint_subspace(
    a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"], k: int
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "n k l"], Float[Tensor, "l d"]]:
    """One column space, one row space and a small core for each task: delta_i ~ U C_i V^T.

    U and V are the leading singular vectors of the deltas side by side and on top of one another,
    found from Gram matrices of the factors' own size; C_i = U^T delta_i V.
    """
    left, right = _balanced(a, b)
    u, v = _leading(left, k), _leading(right.mT, k)
    cores = (u.mT @ a) @ (b @ v)
    return u, cores, v.mT


def _balanced(
    a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"]
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "k d"]]:
    """L and R with L L^T = sum delta_i delta_i^T and R^T R = sum delta_i^T delta_i."""
    left = [x @ _root(y @ y.mT) for x, y in zip(a, b, strict=True)]
    right = [_root(x.mT @ x) @ y for x, y in zip(a, b, strict=True)]
    return torch.cat(left, 1), torch.cat(right, 0)


def _root(gram: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def _leading(matrix: Float[Tensor, "m k"], count: int) -> Float[Tensor, "m c"]:
    """The first left singular vectors."""
    u, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :count]


def fewer_ranks(
    a: Float[Tensor, "n m r"], b: Float[Tensor, "n r d"], rank: int
) -> tuple[Float[Tensor, "n m k"], Float[Tensor, "n k d"]]:
    """Each adapter cut to a smaller rank on its own."""
    cut = []
    for x, y in zip(a, b, strict=True):
        u, s, vh = _svd_of_product(x, y)
        root = s[:rank].sqrt()
        cut.append((u[:, :rank] * root, root[:, None] * vh[:rank]))
    return torch.stack([x for x, _ in cut]), torch.stack([y for _, y in cut])


def int8(stack: Stack) -> Stack:
    """Each row rounded to 255 steps between plus and minus its largest value."""
    step = stack.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (stack / step).round() * step
