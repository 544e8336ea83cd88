"""What merging would cost, from the factors alone: no base model is needed, and no dense delta.

One pass over the layers gives the cosine map of the deltas, the energy of the basis, and the curve
of error against storage of every way to keep the adapters.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import torch

from engine.core.cache import LruCache
from engine.core.errors import BadInput
from engine.core.job import Progress
from engine.core.shapes import Array, Float, Tensor
from engine.merging import _baselines as merges
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.gauge import aligned
from engine.merging.reversible_merging.ways import REBUILDING


@dataclass(frozen=True)
class StoragePoint:
    """One budget of one way: storage relative to the adapters, and the relative squared error of
    the deltas, mean over the adapters."""

    way: str
    budget: int
    storage: float
    error: float


@dataclass(frozen=True)
class Survey:
    """`cosine` is of the adapters' whole deltas; `energy` the share of the factors' squared
    deviation from their mean that p components keep, p from 0; `errors[p]` those of each adapter
    rebuilt by RMM."""

    names: tuple[str, ...]
    cosine: Float[Array, "n n"]
    norms: Float[Array, " n"]
    energy: tuple[float, ...]
    errors: Float[Array, "p n"]
    points: tuple[StoragePoint, ...]
    modules: int
    megabytes: float

    def curve(self, way: str) -> list[StoragePoint]:
        """The points of one way, from small storage to large."""
        return sorted((p for p in self.points if p.way == way), key=lambda p: p.storage)


_SURVEYS: LruCache[Survey] = LruCache()


def surveyed(collection: Collection) -> Generator[Progress, None, Survey]:
    """`survey`, kept for a while by the digest of the collection."""
    steps = _SURVEYS.steps(collection.digest, lambda: survey(collection, done=0, total=1))
    return (yield from steps)


def survey(
    collection: Collection, ways: Sequence[str] = tuple(REBUILDING), done: int = 0, total: int = 0
) -> Generator[Progress, None, Survey]:
    """Layer after layer; yields at each. `done` and `total` place it in a longer run."""
    n = collection.n
    budgets = {way: list(REBUILDING[way].budgets(n, collection.rank)) for way in ways}
    errors = {(way, x): torch.zeros(n, dtype=torch.float64) for way in ways for x in budgets[way]}
    kept = dict.fromkeys(errors, 0.0)
    gram = torch.zeros(n, n, dtype=torch.float64)
    energy = torch.zeros(collection.largest_p + 2, dtype=torch.float64)
    for place, (module, a, b) in enumerate(collection.each()):
        a, b = a.double(), b.double()
        gram += rmm.delta_gram(a, b)
        energy += _lost(a, b, len(energy))
        for way in ways:
            for budget, found in _at_each(way, a, b, budgets[way]):
                errors[way, budget] += rmm.delta_error(*found, a, b)
                kept[way, budget] += REBUILDING[way].numbers(n, collection.shapes[module], budget)
        note = f"Weighing layer {place + 1} of {len(collection.modules)}"
        yield Progress(done, total or 1, note)
    size = gram.diagonal()
    relative = {key: _relative(value, size) for key, value in errors.items()}
    main = [way for way in ("rmm", "rmm aligned") if way in ways]
    return Survey(
        collection.names,
        cosine(gram).float().numpy(),
        size.clamp(min=0).sqrt().float().numpy(),
        tuple(float(1 - lost / energy[0]) if energy[0] else 1.0 for lost in energy[:-1]),
        torch.stack([relative[main[0], p] for p in budgets[main[0]]]).float().numpy()
        if main
        else torch.zeros(0, n).numpy(),
        tuple(
            StoragePoint(
                way, x, kept[way, x] / collection.numbers, float(relative[way, x].nanmean())
            )
            for way, x in errors
        ),
        len(collection.modules),
        collection.numbers * 2 / 1e6,
    )


def cosine(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Cosines from scalar products; 0 with an adapter that does nothing."""
    size = gram.diagonal().clamp(min=0).sqrt()
    both = size[:, None] * size
    return torch.where(both > 0, gram / both.clamp(min=1e-300), 0.0)


def _lost(a: Tensor, b: Tensor, count: int) -> Float[Tensor, " count"]:
    """Squared error of all factors of a layer at p = 0, 1, ...; zeros beyond its own rank."""
    values = rmm.fit(a, b, 0).energy.sum(0)
    total = values.flip(0).cumsum(0).flip(0)
    return torch.nn.functional.pad(total, (0, max(count - len(total), 0)))[:count]


def _at_each(
    way: str, a: Tensor, b: Tensor, budgets: Sequence[int]
) -> Generator[tuple[int, tuple[Tensor, Tensor]], None, None]:
    """The adapters after each budget; ways that nest are solved once, for the largest."""
    if way in ("rmm", "rmm aligned"):
        if way == "rmm aligned":
            a, b = aligned(a, b)
        most = rmm.largest_p(len(a), a.shape[2])
        whole = rmm.fit(a, b, most)
        for p in budgets:
            yield p, rmm.revert_all(whole.at(min(p, most)))
    elif way == "joint":
        u, cores, vh = merges.joint_subspace(a, b, max(budgets))
        for k in budgets:
            yield k, (u[:, :k] @ cores[:, :k, :k], vh[:k].expand(len(a), -1, -1))
    elif way == "ranks":
        left, right = merges.fewer_ranks(a, b, max(budgets))
        for rank in budgets:
            yield rank, (left[..., :rank], right[:, :rank])
    else:
        for budget in budgets:
            yield budget, REBUILDING[way].back(a, b, budget)


def _relative(errors: Float[Tensor, " n"], size: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Of an adapter whose delta is zero the relative error is not defined: NaN."""
    return torch.where(size > 0, errors / size.clamp(min=1e-300), torch.nan)


# ---------------------------------------------------------------------- the choice of p


def p_for_storage(collection: Collection, most: float) -> int:
    """The largest p whose basis takes at most this share of the adapters' size.

    Raises `BadInput` when even the mean alone takes more.
    """
    fitting = [p for p in range(collection.largest_p + 1) if storage_at(collection, p) <= most]
    if not fitting:
        raise BadInput(
            f"Even p = 0 takes {storage_at(collection, 0):.0%} of the adapters' size.",
            "Allow more, or merge more adapters at once.",
        )
    return max(fitting)


def p_for_error(energy: Sequence[float], most: float) -> int:
    """The smallest p that loses at most this share of the factors' energy."""
    return next((p for p, kept in enumerate(energy) if 1 - kept <= most), len(energy) - 1)


def storage_at(collection: Collection, p: int) -> float:
    """What the basis takes, relative to what the adapters hold."""
    numbers: Mapping[str, float] = {
        module: REBUILDING["rmm"].numbers(collection.n, shape, p)
        for module, shape in collection.shapes.items()
    }
    return sum(numbers.values()) / collection.numbers
