"""The golden cases of ununlearning: from first principles, as the paper publishes no code.

    python -m pytest tests/unlearning -m golden

`ununlearning_bayes_f64` (tolerance 1e-12): a table of 12 species with 4 attributes of 5 values, a
prior, and the posterior by two independent computations: mean probability of the truth, expected
accuracy with shared ties, posteriors with two hints, recovery; rates and area of a filter.
"""

import torch

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps
from engine.unlearning.ununlearning import bayes
from engine.unlearning.ununlearning.filters import Roc, roc

VALUES = 5


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def _ceiling(arrays: Arrays) -> bayes.Ceiling:
    table, prior = (torch.from_numpy(arrays[name]) for name in ("table", "prior"))
    return bayes.ceiling(table, prior, int(arrays["x_species"]), VALUES)


def _p_true(arrays: Arrays) -> float:
    return apart(_ceiling(arrays).p_true, arrays["p_true"])


def _accuracy(arrays: Arrays) -> float:
    return apart(_ceiling(arrays).accuracy, arrays["acc_expected"])


def _recovery(arrays: Arrays) -> float:
    chance = float(arrays["chance"])
    found = [bayes.recovery(float(a), chance) for a in _ceiling(arrays).accuracy]
    return apart(found, arrays["recovery"])


def _posteriors(arrays: Arrays) -> float:
    table, prior = (torch.from_numpy(arrays[name]) for name in ("table", "prior"))
    rows = list(bayes.posteriors(table, prior, int(arrays["x_species"]), VALUES, 2))
    return apart(torch.stack(rows), arrays["posterior_h2"])


def _roc(arrays: Arrays) -> Roc:
    names = ("filter_forbidden", "filter_score", "filter_thr")
    return roc(*(torch.from_numpy(arrays[name]) for name in names))


def _rates(arrays: Arrays) -> float:
    found = _roc(arrays)
    return max(
        apart(found.attacks, arrays["filter_tpr"]), apart(found.harmless, arrays["filter_fpr"])
    )


def _area(arrays: Arrays) -> float:
    return abs(_roc(arrays).area - float(arrays["filter_auc"]))


CHECKS: dict[str, tuple[Check, ...]] = {
    "ununlearning_bayes_f64": (
        ("probability of the truth by hints", 1e-12, _p_true),
        ("expected accuracy by hints", 1e-12, _accuracy),
        ("recovery by hints", 1e-12, _recovery),
        ("posteriors with two hints", 1e-12, _posteriors),
        ("rates of the filter", 1e-12, _rates),
        ("area under its curve", 1e-12, _area),
    )
}
