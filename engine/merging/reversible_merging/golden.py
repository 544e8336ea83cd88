"""The golden cases: arrays from an independent loop over single positions, and PEFT's own merges.

    python -m pytest tests/merging -m golden

Tolerances: 1e-8 for the basis (1e-10 where it must give the adapters back), 1e-6 for the merges,
which were checked against a PEFT model whose weights are float32.
"""

from collections.abc import Callable, Iterator

import torch

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.merging import _baselines as merges
from engine.merging.reversible_merging import basis as rmm


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def factors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays["A"]), torch.from_numpy(arrays["B"])


def weights(arrays: Arrays) -> Tensor:
    return torch.from_numpy(arrays["weights"])


def _each_p(arrays: Arrays) -> Iterator[tuple[int, rmm.Basis]]:
    for p in arrays["ps"].tolist():
        yield p, rmm.fit(*factors(arrays), p)


def _reverted(arrays: Arrays) -> float:
    gaps = []
    for p, basis in _each_p(arrays):
        a, b = rmm.revert_all(basis)
        gaps += [apart(a, arrays[f"A_rec_p{p}"]), apart(b, arrays[f"B_rec_p{p}"])]
    return max(gaps)


def _exact(arrays: Arrays) -> float:
    a, b = factors(arrays)
    back = rmm.revert_all(rmm.fit(a, b, rmm.largest_p(len(a), a.shape[2])))
    return max(apart(back[0], arrays["A"]), apart(back[1], arrays["B"]))


def _errors(arrays: Arrays) -> float:
    a, b = factors(arrays)
    size = rmm.delta_gram(a, b).diagonal()
    gaps = []
    for p, basis in _each_p(arrays):
        gaps.append(apart(rmm.lost_energy(basis.energy, p), arrays[f"factor_sqerr_p{p}"]))
        relative = rmm.delta_error(*rmm.revert_all(basis), a, b) / size
        gaps.append(apart(relative, arrays[f"delta_relerr_p{p}"]))
    return max(gaps)


def _storage(arrays: Arrays) -> float:
    n, _, r = arrays["A"].shape
    return max(
        apart(rmm.storage(n, r, p), arrays[f"storage_ratio_p{p}"]) for p in arrays["ps"].tolist()
    )


def _spectrum(arrays: Arrays) -> float:
    energy = rmm.fit(*factors(arrays), 0).energy
    return apart(energy, arrays["singular_values"] ** 2)


def _gram(arrays: Arrays) -> float:
    return apart(rmm.delta_gram(*factors(arrays)), arrays["gram_delta"])


def _layer(arrays: Arrays) -> float:
    a, b = merges.layer_basis(*factors(arrays), int(arrays["layer_p"]))
    return max(apart(a, arrays["layer_A_rec"]), apart(b, arrays["layer_B_rec"]))


def _linear(arrays: Arrays) -> float:
    a, b = merges.separate(*factors(arrays), weights(arrays))
    return max(apart(a, arrays["linear_A"]), apart(b, arrays["linear_B"]))


def _cat(arrays: Arrays) -> float:
    a, b = merges.cat(*factors(arrays), weights(arrays))
    return apart(a @ b, arrays["cat_A"] @ arrays["cat_B"])


def _ties(election: merges.Election) -> Callable[[Arrays], float]:
    def check(arrays: Arrays) -> float:
        density = float(arrays["density"])
        a, b = merges.separate(
            *factors(arrays), weights(arrays), lambda x, w: merges.ties(x, w, density, election)
        )
        products = merges.deltas(*factors(arrays))
        combined = merges.ties(products, weights(arrays), density, election)
        return max(
            apart(a, arrays[f"ties_{election}_A"]),
            apart(b, arrays[f"ties_{election}_B"]),
            apart(combined, arrays[f"ties_{election}_delta"]),
        )

    return check


def _pruned(arrays: Arrays) -> float:
    products = merges.deltas(*factors(arrays))
    density = float(arrays["density"])
    return apart(
        merges.magnitude_prune(products, weights(arrays), density), arrays["magprune_delta"]
    )


def _arithmetic(arrays: Arrays) -> float:
    delta = merges.linear(merges.deltas(*factors(arrays)), weights(arrays))
    a, b = merges.truncated(delta, arrays["A"].shape[2])
    return max(apart(delta, arrays["ta_delta"]), apart(a @ b, arrays["svd_delta_rank_r"]))


def _knots(arrays: Arrays) -> float:
    linear = merges.knots(*factors(arrays), lambda x: merges.linear(x, weights(arrays)))
    density = float(arrays["density"])
    ties = merges.knots(*factors(arrays), lambda x: merges.ties(x, weights(arrays), density))
    return max(apart(linear, arrays["knots_linear"]), apart(ties, arrays["knots_ties_total"]))


def _tsv(arrays: Arrays) -> float:
    return apart(merges.tsv_merge(*factors(arrays)), arrays["tsvm_delta"])


def _iso(arrays: Arrays) -> float:
    """Within the range of the summed delta, which has rank 12 of 14, and by the singular values.

    What the published formula leaves outside the range is round-off of the machine that ran it.
    """
    published = torch.from_numpy(arrays["iso_c_delta"])
    total = torch.linalg.svd(merges.deltas(*factors(arrays)).sum(0), full_matrices=False)
    u, s, vh = merges.within_range(*total)
    found = merges.iso_c(*factors(arrays))
    within = apart(found, u @ (u.mT @ published @ vh.mT) @ vh)
    values = torch.linalg.svdvals(found)[: len(s)]
    return max(within, apart(values, torch.linalg.svdvals(published)[: len(s)]))


_BASIS: tuple[Check, ...] = (
    ("adapters rebuilt at each p", 1e-8, _reverted),
    ("adapters exact at the largest p", 1e-10, _exact),
    ("errors of factors and deltas", 1e-8, _errors),
    ("storage", 1e-12, _storage),
    ("squared singular values of every position", 1e-8, _spectrum),
    ("products of the deltas", 1e-8, _gram),
    ("layer basis", 1e-8, _layer),
)
CHECKS: dict[str, tuple[Check, ...]] = {
    "rmm_basic": _BASIS,
    "rmm_n_gt_r": _BASIS,
    "rmm_baselines": (
        ("linear, as PEFT", 1e-6, _linear),
        ("ties by total sign, factors and products", 1e-6, _ties("total")),
        ("ties by frequency, factors and products", 1e-6, _ties("frequency")),
        ("magnitude pruning of products", 1e-6, _pruned),
        ("task arithmetic and its SVD of rank r", 1e-6, _arithmetic),
        ("cat", 1e-6, _cat),
        ("KnOTS, linear and ties", 1e-6, _knots),
        ("TSV-M", 1e-6, _tsv),
        ("Iso-C, within the range of the sum", 1e-6, _iso),
    ),
}
