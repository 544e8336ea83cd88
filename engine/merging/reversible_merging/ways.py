"""All ways to keep n adapters in one place, by name: those that give each back, and those that
leave one set of weights.

A rebuilding way turns the factors of a layer into factors of every adapter again; its `budget` is
what it may keep (p, a rank, a subspace). A merge turns them into one pair of factors or one delta.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.merging import _baselines as merges
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging.collection import Collection, Shape
from engine.merging.reversible_merging.gauge import aligned
from engine.merging.reversible_merging.peft_modes import MODES, OF_ONE_RANK, merged_by_peft

Factors = tuple[Float[Tensor, "n m k"], Float[Tensor, "n k d"]]


@dataclass(frozen=True)
class Rebuilding:
    """`back` gives the adapters of one layer as they are after keeping only `budget`; `numbers` is
    what is kept of the layer then, in numbers."""

    title: str
    back: Callable[[Tensor, Tensor, int], Factors]
    numbers: Callable[[int, Shape, int], float]
    budgets: Callable[[int, int], range]
    unit: str


def _rmm(a: Tensor, b: Tensor, p: int) -> Factors:
    return rmm.revert_all(rmm.fit(a, b, min(p, rmm.largest_p(len(a), a.shape[2]))))


def _aligned(a: Tensor, b: Tensor, p: int) -> Factors:
    return _rmm(*aligned(a, b), p)


def _joint(a: Tensor, b: Tensor, k: int) -> Factors:
    u, cores, vh = merges.joint_subspace(a.double(), b.double(), k)
    return u @ cores, vh.expand(len(a), -1, -1)


def _int8(a: Tensor, b: Tensor, _: int) -> Factors:
    return merges.int8(a.double()), merges.int8(b.double())


def _rmm_numbers(n: int, shape: Shape, p: int) -> float:
    p = min(p, rmm.largest_p(n, shape.r))
    return float((shape.m + shape.d) * (p * (shape.r + n) + shape.r))


def _layer_numbers(n: int, shape: Shape, p: int) -> float:
    return float((p + 1) * shape.r * (shape.m + shape.d) + p * n)


def _joint_numbers(n: int, shape: Shape, k: int) -> float:
    k = min(k, shape.m, shape.d)
    return float(k * (shape.m + shape.d) + n * k * k)


def _rank_numbers(n: int, shape: Shape, rank: int) -> float:
    return float(n * min(rank, shape.r) * (shape.m + shape.d))


def _int8_numbers(n: int, shape: Shape, _: int) -> float:
    """Of numbers of two bytes: one byte each, and a scale of four bytes a row."""
    return n * (shape.r * (shape.m + shape.d) * 0.5 + (shape.m + shape.r) * 2)


REBUILDING: Mapping[str, Rebuilding] = {
    "rmm": Rebuilding("RMM", _rmm, _rmm_numbers, lambda n, r: range(min(r, n - 1) + 1), "p"),
    "rmm aligned": Rebuilding(
        "RMM, aligned", _aligned, _rmm_numbers, lambda n, r: range(min(r, n - 1) + 1), "p"
    ),
    "layer": Rebuilding(
        "layer basis",
        lambda a, b, p: merges.layer_basis(a.double(), b.double(), p),
        _layer_numbers,
        lambda n, r: range(n),
        "p'",
    ),
    "joint": Rebuilding(
        "joint subspace",
        _joint,
        _joint_numbers,
        lambda n, r: range(max(r // 2, 1), max(n * r // 2, r) + 1, max(r // 2, 1)),
        "k",
    ),
    "ranks": Rebuilding(
        "fewer ranks",
        lambda a, b, k: merges.fewer_ranks(a.double(), b.double(), k),
        _rank_numbers,
        lambda n, r: range(max(r // 8, 1), r + 1, max(r // 8, 1)),
        "rank",
    ),
    "int8": Rebuilding("8-bit numbers", _int8, _int8_numbers, lambda n, r: range(1), "bits"),
}


# ---------------------------------------------------------------------- merges


@dataclass(frozen=True)
class Mix:
    """Settings of a merge: the weight of every adapter, and what TIES and DARE keep.

    `scales` and `rank` are those of the adapters where a merge gets their factors as saved.
    """

    weight: float = 0.5
    density: float = 0.4
    seed: int = 0
    scales: tuple[float, ...] = ()
    rank: int = 0


@dataclass(frozen=True)
class Merge:
    """`merge` gives the delta of one layer, given its factors and its place among the layers.

    `separate` merges work on the factors one by one, the others on products. A merge `as_saved`
    gets the factors of the files, with `Mix.scales`; the others get them with the scales inside.
    """

    title: str
    merge: Callable[[Tensor, Tensor, Mix, int], Float[Tensor, "m d"]]
    separate: bool = False
    has_weight: bool = True
    as_saved: bool = False
    of_one_rank: bool = False

    def of(self, collection: Collection, mix: Mix) -> dict[str, Float[Tensor, "m d"]]:
        """The deltas of all layers."""
        found = {}
        for place, module in enumerate(collection.modules):
            if self.as_saved:
                a, b, scales = collection.as_saved(module)
                mix = replace(mix, scales=scales, rank=max(collection.ranks))
            else:
                a, b = collection.factors(module)
            found[module] = self.merge(a, b, mix, place)
        return found

    def check(self, collection: Collection) -> None:
        """Raises `BadInput` for adapters that PEFT does not merge in this mode."""
        if self.of_one_rank and not collection.has_one_rank:
            raise BadInput(
                f"{self.title} takes adapters of one rank; these have "
                f"{', '.join(map(str, collection.ranks))}.",
                "Take PEFT cat or one of PEFT's svd modes, or a merge of products.",
            )


def _weights(a: Tensor, mix: Mix) -> Float[Tensor, " n"]:
    return torch.full((len(a),), mix.weight, dtype=a.dtype)


def _average(a: Tensor, b: Tensor, mix: Mix, place: int) -> Tensor:
    return a.mean(0) @ b.mean(0)


def _factors_apart(
    inner: Callable[[Tensor, Tensor, Mix, int], Tensor], a: Tensor, b: Tensor, mix: Mix, place: int
) -> Tensor:
    """A separate merge in PEFT's way: the factors one by one, sqrt of the weight on each."""
    left, right = merges.separate(a, b, _weights(a, mix), lambda x, w: inner(x, w, mix, place))
    return left @ right


def _products(
    inner: Callable[[Tensor, Tensor, Mix, int], Tensor], a: Tensor, b: Tensor, mix: Mix, place: int
) -> Tensor:
    return inner(merges.deltas(a, b), _weights(a, mix), mix, place)


def _linear(x: Tensor, w: Tensor, mix: Mix, place: int) -> Tensor:
    return merges.linear(x, w)


def _ties(x: Tensor, w: Tensor, mix: Mix, place: int) -> Tensor:
    return merges.ties(x, w, mix.density)


def _dare(x: Tensor, w: Tensor, mix: Mix, place: int) -> Tensor:
    # The two factors of a layer differ in shape, and so draw from streams of their own.
    return merges.linear(merges.dropped(x, mix.density, mix.seed, place, *x.shape), w)


def _dare_ties(x: Tensor, w: Tensor, mix: Mix, place: int) -> Tensor:
    kept = merges.dropped(x, mix.density, mix.seed, place, *x.shape)
    return merges.disjoint_mean(kept, merges.elected(kept), w)


def _knots(a: Tensor, b: Tensor, mix: Mix, place: int) -> Tensor:
    return merges.knots(a, b, lambda x: merges.ties(x, _weights(a, mix), mix.density))


def _scaled(merge: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda a, b, mix, place: mix.weight * merge(a, b)


def _by_peft(mode: str) -> Merge:
    inner = merged_by_peft(mode)

    def merge(a: Tensor, b: Tensor, mix: Mix, place: int) -> Tensor:
        seed = mix.seed * 1000 + place
        return inner(a, b, mix.weight, mix.density, seed, mix.scales, mix.rank)

    is_separate = mode in OF_ONE_RANK
    return Merge(f"PEFT {mode}", merge, is_separate, as_saved=True, of_one_rank=is_separate)


MERGES: Mapping[str, Merge] = {
    "average": Merge("factor average (p = 0)", _average, True, False),
    "linear": Merge("task arithmetic, factors", partial(_factors_apart, _linear), True),
    "sum": Merge("task arithmetic, products", partial(_products, _linear)),
    "ties": Merge("TIES, factors", partial(_factors_apart, _ties), True),
    "ties products": Merge("TIES, products", partial(_products, _ties)),
    "dare": Merge("DARE, factors", partial(_factors_apart, _dare), True),
    "dare ties": Merge("DARE and TIES, factors", partial(_factors_apart, _dare_ties), True),
    "dare products": Merge("DARE, products", partial(_products, _dare)),
    "knots": Merge("KnOTS and TIES", _knots),
    "tsv": Merge("TSV-M", _scaled(merges.tsv_merge)),
    "iso": Merge("Iso-C", _scaled(merges.iso_c)),
    **{f"peft {mode}": _by_peft(mode) for mode in MODES},
}


def merge_named(name: object) -> Merge:
    """The merge of a name. Raises `BadInput` that lists them."""
    if name not in MERGES:
        raise BadInput(
            f'There is no merge called "{str(name)[:40]}".', f"Choose {', '.join(MERGES)}."
        )
    return MERGES[str(name)]
