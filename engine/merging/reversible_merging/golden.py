"""The golden cases: arrays from an independent loop over single positions, and PEFT's own merges.

    python -m pytest tests/merging -m golden

Tolerances: 1e-8 for the basis (1e-10 where it must give the adapters back), 1e-6 for the merges,
which were checked against a PEFT model whose weights are float32.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps
from engine.core.shapes import Tensor
from engine.merging import _baselines as merges
from engine.merging.reversible_merging import basis as rmm

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "golden"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One comparison: the largest error."""

    name: str
    error: float
    tolerance: float
    seconds: float


@dataclass(frozen=True)
class GoldenResult:
    cases: tuple[Case, ...]


def run(*, seed: int = 0) -> Steps[GoldenResult]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    cases: list[Case] = []
    total = sum(len(checks) for checks in CHECKS.values())
    for name, checks in CHECKS.items():
        arrays = _arrays(name)
        for title, tolerance, check in checks:
            start = time.perf_counter()
            error = check(arrays)
            cases.append(Case(f"{name}: {title}", error, tolerance, time.perf_counter() - start))
            yield Progress(len(cases), total, title)
    return GoldenResult(tuple(cases))


def _arrays(name: str) -> Arrays:
    try:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except OSError as error:
        raise AssetMissing(
            "The golden arrays are not installed here.", "Check the repository out whole."
        ) from error


def factors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays["A"]), torch.from_numpy(arrays["B"])


def weights(arrays: Arrays) -> Tensor:
    return torch.from_numpy(arrays["weights"])


def _gap(found: Tensor | float, expected: np.ndarray) -> float:
    gap = torch.as_tensor(found, dtype=torch.float64) - torch.as_tensor(expected)
    return float(gap.abs().max())


def _each_p(arrays: Arrays) -> Iterator[tuple[int, rmm.Basis]]:
    for p in arrays["ps"].tolist():
        yield p, rmm.fit(*factors(arrays), p)


def _reverted(arrays: Arrays) -> float:
    gaps = []
    for p, basis in _each_p(arrays):
        a, b = rmm.revert_all(basis)
        gaps += [_gap(a, arrays[f"A_rec_p{p}"]), _gap(b, arrays[f"B_rec_p{p}"])]
    return max(gaps)


def _exact(arrays: Arrays) -> float:
    a, b = factors(arrays)
    back = rmm.revert_all(rmm.fit(a, b, rmm.largest_p(len(a), a.shape[2])))
    return max(_gap(back[0], arrays["A"]), _gap(back[1], arrays["B"]))


def _errors(arrays: Arrays) -> float:
    a, b = factors(arrays)
    size = rmm.delta_gram(a, b).diagonal()
    gaps = []
    for p, basis in _each_p(arrays):
        gaps.append(_gap(rmm.lost_energy(basis.energy, p), arrays[f"factor_sqerr_p{p}"]))
        relative = rmm.delta_error(*rmm.revert_all(basis), a, b) / size
        gaps.append(_gap(relative, arrays[f"delta_relerr_p{p}"]))
    return max(gaps)


def _storage(arrays: Arrays) -> float:
    n, _, r = arrays["A"].shape
    return max(
        _gap(rmm.storage(n, r, p), arrays[f"storage_ratio_p{p}"]) for p in arrays["ps"].tolist()
    )


def _spectrum(arrays: Arrays) -> float:
    energy = rmm.fit(*factors(arrays), 0).energy
    return _gap(energy, arrays["singular_values"] ** 2)


def _gram(arrays: Arrays) -> float:
    return _gap(rmm.delta_gram(*factors(arrays)), arrays["gram_delta"])


def _layer(arrays: Arrays) -> float:
    a, b = merges.layer_basis(*factors(arrays), int(arrays["layer_p"]))
    return max(_gap(a, arrays["layer_A_rec"]), _gap(b, arrays["layer_B_rec"]))


def _linear(arrays: Arrays) -> float:
    a, b = merges.separate(*factors(arrays), weights(arrays))
    return max(_gap(a, arrays["linear_A"]), _gap(b, arrays["linear_B"]))


def _cat(arrays: Arrays) -> float:
    a, b = merges.cat(*factors(arrays), weights(arrays))
    return _gap(a @ b, arrays["cat_A"] @ arrays["cat_B"])


def _ties(election: merges.Election) -> Callable[[Arrays], float]:
    def check(arrays: Arrays) -> float:
        density = float(arrays["density"])
        a, b = merges.separate(
            *factors(arrays), weights(arrays), lambda x, w: merges.ties(x, w, density, election)
        )
        products = merges.deltas(*factors(arrays))
        combined = merges.ties(products, weights(arrays), density, election)
        return max(
            _gap(a, arrays[f"ties_{election}_A"]),
            _gap(b, arrays[f"ties_{election}_B"]),
            _gap(combined, arrays[f"ties_{election}_delta"]),
        )

    return check


def _pruned(arrays: Arrays) -> float:
    products = merges.deltas(*factors(arrays))
    density = float(arrays["density"])
    return _gap(
        merges.magnitude_prune(products, weights(arrays), density), arrays["magprune_delta"]
    )


def _arithmetic(arrays: Arrays) -> float:
    delta = merges.linear(merges.deltas(*factors(arrays)), weights(arrays))
    a, b = merges.truncated(delta, arrays["A"].shape[2])
    return max(_gap(delta, arrays["ta_delta"]), _gap(a @ b, arrays["svd_delta_rank_r"]))


def _knots(arrays: Arrays) -> float:
    linear = merges.knots(*factors(arrays), lambda x: merges.linear(x, weights(arrays)))
    density = float(arrays["density"])
    ties = merges.knots(*factors(arrays), lambda x: merges.ties(x, weights(arrays), density))
    return max(_gap(linear, arrays["knots_linear"]), _gap(ties, arrays["knots_ties_total"]))


def _tsv(arrays: Arrays) -> float:
    return _gap(merges.tsv_merge(*factors(arrays)), arrays["tsvm_delta"])


def _iso(arrays: Arrays) -> float:
    return _gap(merges.iso_c(*factors(arrays)), arrays["iso_c_delta"])


Check = tuple[str, float, Callable[[Arrays], float]]
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
        ("Iso-C", 1e-6, _iso),
    ),
}
