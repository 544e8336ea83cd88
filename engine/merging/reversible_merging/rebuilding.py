"""What adapters change in a model: as they are, after a merge, and after each way of keeping them.

A change is named `deltas`: W_new - W by module. What was rebuilt once is kept for a while.
"""

from collections.abc import Generator, Mapping

import torch

from engine.core.cache import LruCache
from engine.core.job import Progress
from engine.core.reversible import RoundTrip, compare
from engine.core.shapes import Float, Tensor
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.gauge import aligned
from engine.merging.reversible_merging.ways import MERGES, REBUILDING, Mix

Pairs = dict[str, tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]]
"""The factors of all adapters at each module, a_i b_i being the delta of adapter i."""

_REBUILT: LruCache[tuple[Pairs, tuple[float, ...]]] = LruCache()
_BASES: LruCache[rmm.Basis] = LruCache(400)  # one a module and way of a small collection


def own(collection: Collection, index: int) -> dict[str, Float[Tensor, "m d"]]:
    """W_new - W of each module, as the file of one adapter has it."""
    lora = collection.loras[index]
    found = {}
    for module in lora.layers:
        a, b = lora.factors(module)
        found[module] = a @ b
    return found


def products(
    pairs: Mapping[str, tuple[Tensor, Tensor]], index: int
) -> dict[str, Float[Tensor, "m d"]]:
    """The same for one adapter out of the factors of all: a_i b_i at every module."""
    return {module: a[index] @ b[index] for module, (a, b) in pairs.items()}


def merged(collection: Collection, merge: str, mix: Mix) -> dict[str, Float[Tensor, "m d"]]:
    """One set of deltas for all adapters, by one of `MERGES`."""
    return MERGES[merge].of(collection, mix)


def rebuilt(
    collection: Collection, way: str, budget: int, done: int, total: int
) -> Generator[Progress, None, tuple[Pairs, tuple[float, ...]]]:
    """All adapters after a way of keeping them, in float32, and the error of each.

    The error of adapter i is sum ||a_i b_i - A_i B_i||^2 / sum ||A_i B_i||^2 over all modules, in
    float64. `way` is a key of `REBUILDING`, `budget` what it counts in (p, or a rank).
    """
    key = (collection.digest, way, budget)
    return (yield from _REBUILT.steps(key, lambda: _rebuilt(collection, way, budget, done, total)))


def _rebuilt(
    collection: Collection, way: str, budget: int, done: int, total: int
) -> Generator[Progress, None, tuple[Pairs, tuple[float, ...]]]:
    pairs: Pairs = {}
    lost = torch.zeros(collection.n, dtype=torch.float64)
    size = torch.zeros_like(lost)
    for place, (module, a, b) in enumerate(collection.each()):
        a, b = a.double(), b.double()
        found = _back(collection, module, way, budget, a, b)
        lost += rmm.delta_error(*found, a, b)
        size += rmm.delta_gram(a, b).diagonal()
        pairs[module] = (found[0].float(), found[1].float())
        if place % 8 == 0:
            yield Progress(done, total, f"Fitting the basis, p = {budget}")
    return pairs, tuple((lost / size.clamp(min=1e-300)).tolist())


def _back(
    collection: Collection, module: str, way: str, budget: int, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """All adapters at one module. Of a small collection the basis is kept whole, for any p."""
    if not (way.startswith("rmm") and collection.is_small):
        return REBUILDING[way].back(a, b, budget)
    key, most = (collection.digest, module, way), rmm.largest_p(len(a), a.shape[2])
    pair = aligned(a, b) if way == "rmm aligned" else (a, b)
    whole = _BASES.get(key, lambda: rmm.fit(*pair, most))
    return rmm.revert_all(whole.at(min(budget, most)))


def round_trip_of(collection: Collection) -> RoundTrip:
    """The factors of one layer against those that come back at the largest p."""
    _, a, b = next(iter(collection.each()))
    back = rmm.revert_all(rmm.fit(a, b, rmm.largest_p(len(a), a.shape[2])))
    return compare((a, b), (back[0].float(), back[1].float()))
