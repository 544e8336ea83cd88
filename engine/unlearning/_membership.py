"""Can one tell from the outputs that a sample was trained on?

The attack of the SSD paper: the entropy of the output, and a logistic regression that tells
training samples from test samples by it. The score is the share of the forget set that it takes for
training samples. Lower is not always better: compare with a model that never saw them.

The worst case: several statistics, each with its best threshold in its better direction, chosen on
one half of the samples and counted on the other; the strongest of them is what is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.shapes import Bool, Float, Int, Tensor
from engine.metrics.intervals import auroc

MOST_SAMPLES = 4000


def entropy(probabilities: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """-sum p log p of each row, where 0 log 0 is 0."""
    return -torch.special.xlogy(probabilities, probabilities).sum(1)


@dataclass(frozen=True)
class Logistic:
    """P(trained on) = sigmoid(coefficient x + intercept)."""

    coefficient: float
    intercept: float

    def says_member(self, statistic: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each value is taken for one of a training sample."""
        return self.coefficient * statistic + self.intercept > 0

    @classmethod
    def fit(
        cls, members: Float[Tensor, " n"], others: Float[Tensor, " m"], *, steps: int = 100
    ) -> "Logistic":
        """Newton's method on the balanced log loss plus half the squared coefficient (C = 1).

        The intercept is not penalised, as in scikit-learn.
        """
        if not (len(members) and len(others)):
            raise BadInput("Membership needs samples of both kinds.", "Give a test set.")
        x = torch.cat([members, others]).double()
        y = torch.cat([torch.ones(len(members)), torch.zeros(len(others))]).double()
        weight = torch.where(y == 1, len(x) / (2 * len(members)), len(x) / (2 * len(others)))
        design = torch.stack([x, torch.ones_like(x)], 1)
        penalty = torch.tensor([1.0, 0.0]).double()
        beta = torch.zeros(2).double()
        for _ in range(steps):
            p = torch.sigmoid(design @ beta)
            slope = design.T @ (weight * (p - y)) + penalty * beta
            curve = (design * (weight * p * (1 - p))[:, None]).T @ design + penalty.diag()
            step = torch.linalg.solve(curve + 1e-12 * torch.eye(2).double(), slope)
            beta = beta - step
            if float(step.abs().max()) < 1e-12:
                break
        return cls(float(beta[0]), float(beta[1]))


def attack(
    retain: Float[Tensor, "n k"], test: Float[Tensor, "m k"], forget: Float[Tensor, "f k"]
) -> float:
    """Share of the forget set that is taken for training samples; rows are probabilities."""
    fitted = Logistic.fit(entropy(retain), entropy(test))
    return float(fitted.says_member(entropy(forget)).double().mean())


def zero_retrain_forgetting(
    student: Float[Tensor, "n k"], random: Float[Tensor, "n k"], *, least: float = 1e-12
) -> float:
    """ZRF: 1 - JS' to the outputs of a network that was never trained.

    JS' is half the mean of m log(m/p) plus half that of m log(m/q), over samples *and* classes, as
    in the published code: the reverse of the usual divergence, divided by the number of classes.
    """
    p, q = student.clamp(min=least), random
    m = (p + q) / 2
    pair = (torch.special.xlogy(m, m) - m * other.log() for other in (p, q))
    return 1 - float(sum(part.mean() for part in pair)) / 2


# ---------------------------------------------------------------------- the worst case


def statistics(
    probabilities: Float[Tensor, "n k"], labels: Int[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    """What an attacker may look at, for each sample."""
    right = probabilities.gather(1, labels[:, None])[:, 0]
    others = probabilities.scatter(1, labels[:, None], -1).max(1).values
    tiny = torch.finfo(probabilities.dtype).tiny
    return {
        "entropy": entropy(probabilities),
        "loss": -right.clamp(min=tiny).log(),
        "confidence": probabilities.max(1).values,
        "margin": right - others,
    }


@dataclass(frozen=True)
class WorstCase:
    """The strongest attack: its statistic, and balanced accuracies of all on the counted half.

    0.5 is guessing. `areas` are the areas under the ROC curve, taken on the same half.
    """

    statistic: str
    accuracy: float
    accuracies: Mapping[str, float]
    areas: Mapping[str, float]
    samples: int


def worst_case(
    members: Mapping[str, Float[Tensor, " n"]], others: Mapping[str, Float[Tensor, " m"]], seed: int
) -> WorstCase:
    """Forgotten samples against unseen ones of the same kind, by every statistic."""
    accuracies, areas, chosen = {}, {}, {}
    for name, inside in members.items():
        mine, theirs = _halves(inside, seed, "in"), _halves(others[name], seed, "out")
        if min(map(len, (*mine, *theirs))) == 0:
            raise BadInput("The worst case needs at least two samples of each kind.")
        threshold, direction, fitted = _best_threshold(mine[0], theirs[0])
        chosen[name] = fitted
        accuracies[name] = _balanced(mine[1], theirs[1], threshold, direction)
        area = auroc(mine[1].numpy(), theirs[1].numpy())
        areas[name] = max(area, 1 - area)
    strongest = max(chosen, key=lambda name: chosen[name])
    count = len(next(iter(members.values())))
    return WorstCase(strongest, accuracies[strongest], accuracies, areas, count)


def _halves(values: Tensor, seed: int, role: str) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(values), generator=rng.generator(seed, "halves", role))
    return values[order[: len(order) // 2]], values[order[len(order) // 2 :]]


def _best_threshold(inside: Tensor, outside: Tensor) -> tuple[float, int, float]:
    """Threshold, direction (1: members lie below) and balanced accuracy on these samples."""
    inside, outside = inside.double().sort().values, outside.double().sort().values
    cuts = torch.cat([inside, outside]).unique()
    below_in = torch.searchsorted(inside, cuts, right=True) / len(inside)
    below_out = torch.searchsorted(outside, cuts, right=True) / len(outside)
    gap = (below_in - below_out).double()
    at = int(gap.abs().argmax())
    direction = 1 if gap[at] >= 0 else -1
    return float(cuts[at]), direction, 0.5 + float(gap[at].abs()) / 2


def _balanced(inside: Tensor, outside: Tensor, threshold: float, direction: int) -> float:
    gap = float((inside <= threshold).double().mean() - (outside <= threshold).double().mean())
    return 0.5 + direction * gap / 2
