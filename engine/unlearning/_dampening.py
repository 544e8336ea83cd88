"""Selective synaptic dampening: weights that matter far more to the forget set are made smaller.

    selected  <=>  I_f > alpha I_D
    w  <-  w min((lambda I_D / I_f)^p, cap)      where selected

Foster et al. (arXiv 2308.07707), equations 6 and 7. A selected weight is multiplied and keeps its
sign; all others keep every bit. With lambda <= alpha the cap never acts, and every selected weight
loses at least 1 - (lambda / alpha)^p of itself. The exponent p and the cap are 1 in the paper; the
authors' code takes both as options (`exponent`, `lower_bound`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import BadInput
from engine.core.patch import State
from engine.core.precision import state_at_home
from engine.core.shapes import Bool, Shaped, Tensor
from engine.unlearning._importance import Importance

CAP = 1.0
AUTO_SHARE = 0.02
HISTOGRAM = (-4.0, 4.0, 80)
"""log10 of the ratio: from, to, and number of bins; what lies outside counts at the ends."""


@dataclass(frozen=True)
class Dampening:
    """alpha selects, lambda scales, the exponent bends; `cap` is the largest factor."""

    alpha: float = 10.0
    lam: float = 1.0
    cap: float = CAP
    exponent: float = 1.0

    def edit(self, state: State, forget: Importance, full: Importance) -> dict[str, Tensor]:
        """The new tensors of those that change, on the CPU; all from one unedited state.

        Raises `BadInput` when the importances do not compare or are not finite.
        """
        forget.provenance.check_comparable(full.provenance)
        edited = {}
        here = state_at_home({name: state[name] for name in forget.values})
        for name, weight in here.items():
            f, d = _pair(name, forget, full)
            new = self.dampened(weight, f, d)
            if new is not None:
                edited[name] = new
        return edited

    def selected(self, f: Shaped[Tensor, "*d"], d: Shaped[Tensor, "*d"]) -> Bool[Tensor, "*d"]:
        """Where the forget set matters more than alpha times what all data does; 0 > 0 is false."""
        return f > self.alpha * d

    def dampened(
        self, weight: Shaped[Tensor, "*d"], f: Shaped[Tensor, "*d"], d: Shaped[Tensor, "*d"]
    ) -> Shaped[Tensor, "*d"] | None:
        """One tensor after the edit, None where nothing is selected."""
        chosen = self.selected(f, d)
        if not bool(chosen.any()):
            return None
        # Taken on the selected entries only: elsewhere this may be 0 / 0.
        beta = (self.lam * d[chosen] / f[chosen]) ** self.exponent
        beta = beta.clamp(max=self.cap)
        new = weight.detach().clone()
        new[chosen] = (new[chosen] * beta).to(new.dtype)
        return new


def _pair(name: str, forget: Importance, full: Importance) -> tuple[Tensor, Tensor]:
    if name not in full.values:
        raise BadInput(
            f"The importances of all data lack {name}.", "Take them with the same layers editable."
        )
    pair = forget.values[name], full.values[name]
    for found in pair:
        if not bool(torch.isfinite(found).all()):
            raise BadInput(
                f"The importances of {name} are not finite.", "Take them anew, as float32."
            )
    return pair


def bound(samples: int, forget_samples: int) -> float:
    """N / N_f: from this alpha on nothing is selected, where terms are samples.

    N I_D = N_r I_r + N_f I_f >= N_f I_f, hence I_f / I_D <= N / N_f. For batches in the order of
    classes it holds with the numbers of batches; for mixed batches it does not.
    """
    return samples / forget_samples


@dataclass(frozen=True)
class Ratios:
    """How I_f / I_D is distributed over the weights with I_f > 0.

    `counts` are of bins of log10 between `edges`; `zero` counts the weights with I_f = 0;
    `quantiles` are the ratios above which the shares `shares` of all weights lie.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    zero: int
    shares: NDArray[np.float64]
    quantiles: NDArray[np.float64]

    def alpha_for(self, share: float) -> float:
        """The alpha that selects about this share of the weights."""
        return float(np.interp(share, self.shares, self.quantiles))


SHARES = np.array([0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5])


def ratios(forget: Importance, full: Importance) -> Ratios:
    """The distribution that alpha cuts through."""
    low, high, bins = HISTOGRAM
    parts, zero = [], 0
    for name in forget.values:
        f, d = (found.flatten() for found in _pair(name, forget, full))
        zero += int((f <= 0).sum())
        parts.append((f[f > 0] / d[f > 0].clamp(min=torch.finfo(d.dtype).tiny)).float())
    ratio = torch.cat(parts) if parts else torch.zeros(0)
    logs = ratio.double().log10().clamp(low, high).numpy()
    counts, edges = np.histogram(logs, bins, (low, high))
    weights = len(ratio) + zero
    ordered = ratio.sort(descending=True).values
    places = np.minimum((SHARES * weights).astype(int), max(0, len(ordered) - 1))
    quantiles = ordered[places].double().numpy() if len(ordered) else np.zeros(len(SHARES))
    return Ratios(edges, counts, zero, SHARES, quantiles)


def automatic_alpha(found: Ratios) -> float:
    """The alpha that selects 2 % of the weights. A heuristic of ours, in the spirit of adaptive SSD
    (arXiv 2402.10098), whose own rule is another.
    """
    return found.alpha_for(AUTO_SHARE)


@dataclass(frozen=True)
class Changed:
    """What an edit changed: numbers of weights, how far, and the share in each tensor."""

    weights: int
    editable: int
    relative_l2: float
    largest: float
    shares: Mapping[str, float]

    @property
    def share(self) -> float:
        """Of all editable weights."""
        return self.weights / self.editable if self.editable else 0.0

    @classmethod
    def between(cls, old: State, new: Mapping[str, Tensor]) -> "Changed":
        """Counts entries with other bits; `old` are the editable tensors."""
        count, total, moved, size, largest = 0, 0, 0.0, 0.0, 0.0
        shares = {}
        before_all = state_at_home(old)
        after_all = before_all | state_at_home({name: new[name] for name in old if name in new})
        for name, before in before_all.items():
            after = after_all[name]
            differs = int((after != before).sum())
            gap = (after.double() - before.double()).abs()
            count, total = count + differs, total + before.numel()
            moved += float(gap.square().sum())
            size += float(before.double().square().sum())
            largest = max(largest, float(gap.max())) if gap.numel() else largest
            shares[name] = differs / max(1, before.numel())
        return cls(count, total, (moved / size) ** 0.5 if size else 0.0, largest, shares)
