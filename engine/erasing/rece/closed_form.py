"""UCE and RECE as one d x d map on the prompt embedding, in float64.

All keys and values of the text cross-attention read the same context, a row of width d for each
token. UCE changes each projection W of them so that the rows of erased texts, C, give what the rows
of their guides, C*, gave, while kept rows P and W itself hold it back:

    W' = (ridge W + s_e W C*^T C + s_p W P^T P) B^-1,   B = ridge I + s_e C^T C + s_p P^T P

W stands on the left of every term, so it can be taken out, and what remains is the same for all:

    W' = W M,   M = I + U V,   U = (C* - C)^T,   V = s_e (B^-1 C^T)^T

One factorisation of B instead of one for each projection, and no projection is read at all. The
edited network fed with c is the original one fed with M c.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor

GRAM_ROWS, GRAM_BLOCKS, FEW_CHANNELS = 1280, 6, 512
Regulariser = Literal["zero", "standard", "surrogate_1st", "surrogate_2nd", "surrogate_both"]


@dataclass(frozen=True)
class Pair:
    """Token rows to erase and the rows that take their place, equally many of both."""

    old: Float[Tensor, "r d"]
    new: Float[Tensor, "r d"]


@dataclass(frozen=True)
class Scales:
    """How strongly an edit erases (s_e), keeps (s_p), and stays near the weights (ridge)."""

    erase: float
    preserve: float
    ridge: float


@dataclass(frozen=True)
class Factor:
    """One edit I + U V; `left` is U, `right` is V, r the number of erased token rows."""

    left: Float[Tensor, "d r"]
    right: Float[Tensor, "r d"]

    @cached_property
    def change(self) -> Float[Tensor, "d d"]:
        """M - I."""
        return self.left @ self.right

    @cached_property
    def map(self) -> Float[Tensor, "d d"]:
        return torch.eye(len(self.left), dtype=self.left.dtype) + self.change


def gram(rows: Float[Tensor, "*n d"]) -> Float[Tensor, "d d"]:
    """Sum of the outer products of all token rows, in float64: P^T P."""
    flat = rows.double().flatten(0, -2)
    return flat.T @ flat


def weight_gram(weights: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "d d"]:
    """Sum over projections of W^T W; once for each checkpoint.

    Where there are many channels, products of up to 1280 rows are taken in float32, or wider where
    the weights are, and summed in float64: their round-off averages out to 5e-8. Few channels cost
    nothing in float64. Only blocks on and right of the diagonal are computed, as the sum is
    symmetric.
    """
    width = weights[0].shape[1]
    kind = torch.float32 if width > FEW_CHANNELS else torch.float64
    total, side = torch.zeros(width, width, dtype=torch.float64), -(-width // GRAM_BLOCKS)
    for weight in weights:
        for rows in weight.to(torch.promote_types(weight.dtype, kind)).split(GRAM_ROWS):
            for first in range(0, width, side):
                block = slice(first, first + side)
                total[block, first:] += rows[:, block].T @ rows[:, first:]
    return total.triu() + total.triu(1).T


def redirect(pairs: Sequence[Pair], keep: Float[Tensor, "d d"], scales: Scales) -> Factor:
    """The UCE edit, technique "replace", as the factor of one map.

        B = ridge I + s_e sum C^T C + s_p K,   U = (C* - C)^T,   V = s_e (B^-1 C^T)^T

    `keep` is K, the Gram matrix of the rows to protect. Where C* equals C the map is exactly I.
    Gandikota et al. 2024, eq. 7.
    """
    old, new = _stacked(pairs)
    cholesky = _factorised(_system(old, keep, scales))
    right = scales.erase * torch.cholesky_solve(old.T, cholesky).T
    return Factor((new - old).T, right)


def redirect_orthogonal(
    weight: Float[Tensor, "o d"],
    pairs: Sequence[Pair],
    keep: Float[Tensor, "d d"],
    scales: Scales,
) -> Float[Tensor, "d d"]:
    """The edit of one projection by technique "tensor": its guide loses what it shares with C.

        target of pair i = W C* - alpha W C,   alpha = <W C, W C*> / |W C|^2

    over all tokens and channels of the pair, one number for each pair and projection. So
    M = I + U V - s_e sum alpha_i C_i^T C_i B^-1 differs from one projection to the next.
    """
    old, new = _stacked(pairs)
    cholesky = _factorised(_system(old, keep, scales))
    shift = new - old
    alphas = [_share(weight.double(), pair) for pair in pairs]
    lengths = torch.tensor([len(pair.old) for pair in pairs])
    alpha = torch.tensor(alphas, dtype=torch.float64).repeat_interleave(lengths)
    shift = shift - alpha[:, None] * old
    return Factor(shift.T, scales.erase * torch.cholesky_solve(old.T, cholesky).T).map


def _share(weight: Float[Tensor, "o d"], pair: Pair) -> float:
    shown, wanted = pair.old.double() @ weight.T, pair.new.double() @ weight.T
    return float((shown * wanted).sum() / shown.square().sum())


@dataclass(frozen=True)
class Layers:
    """All that RECE needs to know of the projections W (now) and W0 (original).

    `now` is sum W^T W, `cross` is sum W^T W0. After a map M on the right, W = W0 M, they are
    M^T G M and M^T G with G the Gram matrix of the originals: no projection is touched. `rest` is
    the Gram matrix of projections that the edit leaves alone, and that go on saying what they said.
    """

    now: Float[Tensor, "d d"]
    cross: Float[Tensor, "d d"]
    rest: Float[Tensor, "d d"] | float = 0.0

    def mapped(self, m: Float[Tensor, "d d"]) -> "Layers":
        return Layers(m.T @ self.now @ m, m.T @ self.cross, self.rest)

    def edited(self, factor: Factor) -> "Layers":
        """After one more map I + U V, at the rank of the factor: no product of d x d matrices."""
        u, v = factor.left, factor.right
        seen = self.now @ u
        both = seen.T + (u.T @ seen) @ v
        now = self.now + seen @ v + v.T @ both
        return Layers(now, self.cross + v.T @ (u.T @ self.cross), self.rest)


def derive(
    embedding: Float[Tensor, "*n d"],
    layers: Layers,
    reg: float,
    regulariser: Regulariser = "zero",
    target: Float[Tensor, "*n d"] | None = None,
) -> Float[Tensor, "*n d"]:
    """The embedding that makes the edited projections say what the original ones said.

        c' = argmin sum |W c' - W0 c|^2 + reg |c'|^2 = H^-1 X c
        H = reg I + sum W^T W,   X = sum W^T W0

    Gong et al. 2024, eq. 9 ("zero"). The authors' code has four more regularisers: "standard" pulls
    towards `target` instead of zero, the surrogates also weigh the change of the projections.
    """
    identity = torch.eye(len(layers.now), dtype=torch.float64)
    now, cross = layers.now + layers.rest, layers.cross + layers.rest
    offset: Float[Tensor, "*n d"] | float = 0.0
    match regulariser:
        case "zero":
            left, right = reg * identity + now, cross
        case "standard":
            if target is None:
                raise BadInput('The regulariser "standard" needs a target.', "Use zero.")
            left, right, offset = reg * identity + now, cross, reg * target.double()
        case "surrogate_1st":
            left, right = (1 + reg) * now, cross + reg * now
        case "surrogate_2nd":
            left, right = reg * identity + now, reg * identity + cross
        case _:
            left = reg * identity + (1 + reg) * now
            right = reg * identity + cross + reg * now
    wanted = embedding.double() @ right.T + offset
    return _solved(left, wanted)


def epochs(
    concepts: Sequence[Float[Tensor, "n d"]],
    guides: Sequence[Float[Tensor, "n d"]],
    keep: Float[Tensor, "d d"],
    layers: Layers,
    scales: Scales,
    *,
    count: int,
    reg: float,
    regulariser: Regulariser = "zero",
) -> Iterator[tuple[list[Float[Tensor, "n d"]], Factor]]:
    """RECE: derive the embedding of each concept that brings it back, erase these, and again.

    Yields the derived embeddings and the factor of each epoch. All token rows count here, the start
    token included, and there is no slicing. The new factor stands on the right of the map, nearest
    to the embedding. `layers` are those after the UCE edit; `W0` in them stays the original.
    """
    rows, wanted = torch.cat(list(concepts)), torch.cat(list(guides)).double()
    lengths = [len(concept) for concept in concepts]
    factor: Factor | None = None
    for _ in range(count):
        if factor is not None:
            layers = layers.edited(factor)
        # one system for all concepts
        derived = derive(rows, layers, reg, regulariser, wanted)
        factor = redirect([Pair(derived, wanted)], keep, scales)
        yield list(derived.split(lengths)), factor


def joined(factors: Sequence[Factor]) -> Factor:
    """One factor for several: the first stands on the left, the last meets the embedding.

    (I + U1 V1) (I + U2 V2) = I + [U1, (I + U1 V1) U2] [V1; V2]
    """
    left, right = factors[0].left, factors[0].right
    for factor in factors[1:]:
        left = torch.cat([left, factor.left + left @ (right @ factor.left)], dim=1)
        right = torch.cat([right, factor.right])
    return Factor(left, right)


def applied(
    weight: Float[Tensor, "o d"], factor: Factor, strength: float = 1.0
) -> Float[Tensor, "o d"]:
    """W + t (W U) V, at the rank of the factor where that is less work; see `mapped`."""
    wide = _wide(weight)
    if 2 * len(factor.right) < len(factor.left):
        a, b = wide @ factor.left.to(wide), factor.right.to(wide)
    else:
        a, b = wide, factor.change.to(wide)
    return torch.addmm(wide, a, b, alpha=strength).to(weight)


def mapped(
    weight: Float[Tensor, "o d"], m: Float[Tensor, "d d"], strength: float = 1.0
) -> Float[Tensor, "o d"]:
    """W + t W (M - I).

    Only the solve needs float64. This product is taken in float32, or wider where the weights are:
    its own round-off is 1e-7 and it is half the work.
    """
    wide = _wide(weight)
    change = m - torch.eye(len(m), dtype=m.dtype)
    return torch.addmm(wide, wide, change.to(wide), alpha=strength).to(weight)


def _wide(weight: Float[Tensor, "o d"]) -> Float[Tensor, "o d"]:
    return weight.detach().cpu().to(torch.promote_types(weight.dtype, torch.float32))


def at_strength(m: Float[Tensor, "d d"], strength: float) -> Float[Tensor, "d d"]:
    """I + t (M - I). The papers know t = 1 only; t between 0 and 1 is our extrapolation."""
    identity = torch.eye(len(m), dtype=m.dtype)
    return identity + strength * (m - identity)


def residual(
    m: Float[Tensor, "d d"],
    weights_gram: Float[Tensor, "d d"],
    rows: Float[Tensor, "*n d"],
    wanted: Float[Tensor, "*n d"],
) -> float:
    """Relative distance of what edited projections say of `rows` from W `wanted`, over all of them.

    sqrt( sum_l |W_l (M c - c*)|^2 / sum_l |W_l c*|^2 )  =  norms in the Gram matrix of the W
    """
    gap = rows.double() @ m.T - wanted.double()
    of_gap = ((gap @ weights_gram) * gap).sum().clamp(min=0)
    of_wanted = ((wanted.double() @ weights_gram) * wanted.double()).sum()
    return float((of_gap / of_wanted).sqrt())


def condition_number(
    pairs: Sequence[Pair], keep: Float[Tensor, "d d"], scales: Scales, rounds: int = 30
) -> float:
    """cond(B) by power iteration on B and on its inverse: how many digits the solve may lose."""
    system = _system(_stacked(pairs)[0], keep, scales)
    cholesky = _factorised(system)
    high = low = torch.ones(len(system), 1, dtype=torch.float64)
    for _ in range(rounds):
        high = system @ high / high.norm()
        low = torch.cholesky_solve(low / low.norm(), cholesky)
    return float(high.norm() * low.norm())


def _stacked(pairs: Sequence[Pair]) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r d"]]:
    old = torch.cat([pair.old for pair in pairs]).double()
    new = torch.cat([pair.new for pair in pairs]).double()
    return old, new


def _system(
    old: Float[Tensor, "r d"], keep: Float[Tensor, "d d"], scales: Scales
) -> Float[Tensor, "d d"]:
    identity = torch.eye(old.shape[-1], dtype=torch.float64)
    return scales.ridge * identity + scales.erase * gram(old) + scales.preserve * keep


def _factorised(system: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    cholesky, failed = torch.linalg.cholesky_ex(system)
    if int(failed) or not bool(torch.isfinite(cholesky).all()):
        raise BadInput(
            "The equations of this edit have no single solution: ridge is too small for so few "
            "token rows.",
            "Set ridge to 0.1 or more.",
        )
    return cholesky


def _solved(left: Float[Tensor, "d d"], wanted: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows x with left x = wanted, row by row."""
    flat = wanted.flatten(0, -2)
    solved, failed = torch.linalg.solve_ex(left, flat.T)
    if int(failed) or not bool(torch.isfinite(solved).all()):
        raise BadInput(
            "The embedding that brings the concept back is not unique with these settings.",
            "Raise reg to 0.1, or use the regulariser zero.",
        )
    return solved.T.reshape(wanted.shape)
