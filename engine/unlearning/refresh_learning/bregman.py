"""One objective for continual learning, of which well-known methods are special cases.

    L(theta) = CE(f(x), y) + a D_Phi(h(x), z) + b D_Psi(theta, theta_old)
    D_Phi(p, q) = Phi(p) - Phi(q) - <grad Phi(q), p - q>

A Bregman divergence is what a convex function has above its tangent; it is not symmetric. Here it
is computed from Phi alone, by automatic differentiation, and compared with the formula that each
method writes down for itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from engine.core.errors import BadInput
from engine.core.shapes import Float, Int, Tensor

Convex: TypeAlias = Callable[[Float[Tensor, "*d"]], Float[Tensor, ""]]
Name = Literal["none", "negative entropy", "squares", "fisher", "gaussian"]
PHI: tuple[Name, ...] = ("none", "negative entropy", "squares")
PSI: tuple[Name, ...] = ("none", "fisher", "gaussian")


def divergence(phi: Convex, p: Float[Tensor, "*d"], q: Float[Tensor, "*d"]) -> Float[Tensor, ""]:
    """D_Phi(p, q), the gradient of Phi taken at q."""
    with torch.enable_grad():
        at = q.detach().requires_grad_()
        (slope,) = torch.autograd.grad(phi(at), at)
    return phi(p) - phi(q) - (slope * (p - q)).sum()


def negative_entropy(p: Float[Tensor, "*d"]) -> Float[Tensor, ""]:
    """sum p log p, 0 log 0 being 0; of normalised vectors its divergence is KL(p || q)."""
    return torch.special.xlogy(p, p).sum()


def squares(p: Float[Tensor, "*d"]) -> Float[Tensor, ""]:
    """|p|^2; its divergence is |p - q|^2."""
    return p.square().sum()


def fisher_form(fisher: Float[Tensor, "*d"]) -> Convex:
    """theta -> 0.5 theta^T F theta with a diagonal F."""
    return lambda theta: 0.5 * (fisher * theta.square()).sum()


def gaussian_negative_entropy(moments: Float[Tensor, "2 d"]) -> Float[Tensor, ""]:
    """Negative entropy of independent Gaussians by their moments E[x] and E[x^2].

    In these coordinates, the expectation parameters of the family, D(q, p) = KL(q || p).
    """
    variance = moments[1] - moments[0].square()
    return -0.5 * (2 * torch.pi * torch.e * variance).log().sum()


def moments_of(mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> Float[Tensor, "2 d"]:
    """Expectation parameters of Gaussians."""
    return torch.stack([mean, variance + mean.square()])


@dataclass(frozen=True, eq=False)
class Numbers:
    """Live values to check the methods with: a batch's logits and labels, weights, posteriors."""

    logits: Float[Tensor, "n k"]
    stored: Float[Tensor, "n k"]
    labels: Int[Tensor, " n"]
    theta: Float[Tensor, " d"]
    theta_old: Float[Tensor, " d"]
    fisher: Float[Tensor, " d"]
    mean: Float[Tensor, " d"]
    variance: Float[Tensor, " d"]
    mean_old: Float[Tensor, " d"]
    variance_old: Float[Tensor, " d"]

    @classmethod
    def drawn(cls, generator: torch.Generator, *, samples: int = 6, classes: int = 5) -> "Numbers":
        """Random ones, in float64."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        weights = 9
        return cls(
            normal(samples, classes),
            normal(samples, classes),
            torch.randint(classes, (samples,), generator=generator),
            normal(weights),
            normal(weights),
            normal(weights).square(),
            normal(weights),
            normal(weights).square() + 0.1,
            normal(weights),
            normal(weights).square() + 0.1,
        )


# ---------------------------------------------------------------------- as the general equation


def replay(n: Numbers) -> Tensor:
    """ER: negative entropy, p the one-hot labels of the buffer, q the softmax, mean of samples."""
    labels = F.one_hot(n.labels, n.logits.shape[1]).to(n.logits.dtype)
    return divergence(negative_entropy, labels, n.logits.softmax(1)) / len(labels)


def dark_replay(n: Numbers) -> Tensor:
    """DER: squares on logits, the stored ones as q; mean over samples and classes, as the code."""
    return divergence(squares, n.logits, n.stored) / n.logits.numel()


def distillation(n: Numbers) -> Tensor:
    """LwF and FDR: negative entropy, p the old softmax and q the new; mean over samples."""
    found = divergence(negative_entropy, n.stored.softmax(1), n.logits.softmax(1))
    return found / len(n.logits)


def anchored(n: Numbers) -> Tensor:
    """Online EWC: Psi = 0.5 theta^T F theta."""
    return divergence(fisher_form(n.fisher), n.theta, n.theta_old)


def variational(n: Numbers) -> Tensor:
    """VCL: the negative entropy of the Gaussian posterior over weights."""
    new, old = moments_of(n.mean, n.variance), moments_of(n.mean_old, n.variance_old)
    return divergence(gaussian_negative_entropy, new, old)


def spread(n: Numbers) -> Tensor:
    """CPR: negative entropy towards the uniform answer; log k minus the entropy of the output."""
    p = n.logits.softmax(1)
    uniform = torch.full_like(p, 1 / p.shape[1])
    return divergence(negative_entropy, p, uniform) / len(p)


# ---------------------------------------------------------------------- as each method writes it


def _replay_own(n: Numbers) -> Tensor:
    return F.cross_entropy(n.logits, n.labels)


def _dark_own(n: Numbers) -> Tensor:
    return F.mse_loss(n.logits, n.stored)


def _distilled_own(n: Numbers) -> Tensor:
    old, new = n.stored.softmax(1), n.logits.log_softmax(1)
    return F.kl_div(new, old, reduction="batchmean")


def _anchored_own(n: Numbers) -> Tensor:
    return 0.5 * (n.fisher * (n.theta - n.theta_old).square()).sum()


def _variational_own(n: Numbers) -> Tensor:
    """sum 0.5 [log(s0 / s) + (s + (m - m0)^2) / s0 - 1], s variances."""
    ratio = (n.variance_old / n.variance).log()
    return 0.5 * (ratio + (n.variance + (n.mean - n.mean_old).square()) / n.variance_old - 1).sum()


def _spread_own(n: Numbers) -> Tensor:
    log = n.logits.log_softmax(1)
    entropy = -(log.exp() * log).sum(1).mean()
    return torch.log(torch.tensor(n.logits.shape[1], dtype=log.dtype)) - entropy


@dataclass(frozen=True)
class Special:
    """A method as a choice of Phi or Psi, the general computation, and its own formula."""

    title: str
    phi: Name
    psi: Name
    told: str
    general: Callable[[Numbers], Tensor]
    own: Callable[[Numbers], Tensor]

    def error(self, numbers: Numbers) -> float:
        """By how much the two computations differ."""
        return float((self.general(numbers) - self.own(numbers)).abs())


def _both(first: Callable[[Numbers], Tensor], second: Callable[[Numbers], Tensor]):  # type: ignore[no-untyped-def]
    return lambda numbers: first(numbers) + second(numbers)


SPECIAL: Mapping[str, Special] = {
    "er": Special(
        "ER", "negative entropy", "none", "p = labels of the buffer, q = softmax",
        replay, _replay_own,
    ),
    "der": Special(
        "DER", "squares", "none", "logits and stored logits", dark_replay, _dark_own
    ),
    "derpp": Special(
        "DER++", "squares", "none", "DER and ER on two draws from the buffer",
        _both(dark_replay, replay), _both(_dark_own, _replay_own),
    ),
    "lwf": Special(
        "LwF, FDR", "negative entropy", "none", "p = old softmax, q = new",
        distillation, _distilled_own,
    ),
    "ewc": Special("online EWC", "none", "fisher", "diagonal Fisher", anchored, _anchored_own),
    "vcl": Special(
        "VCL", "none", "gaussian", "posteriors over the weights", variational, _variational_own
    ),
    "cpr": Special(
        "CPR", "negative entropy", "none", "p = softmax, q = uniform", spread, _spread_own
    ),
}  # fmt: skip


def named(phi: str, psi: str, a: float, b: float) -> tuple[str, ...]:
    """The methods that a choice of functions and weights gives.

    Raises `BadInput` for functions that there are not.
    """
    for name, value, known in (("Phi", phi, PHI), ("Psi", psi, PSI)):
        if value not in known:
            raise BadInput(f'{name} cannot be "{value!s:.40}".', f"Choose {', '.join(known)}.")
    on_outputs, on_weights = a > 0 and phi != "none", b > 0 and psi != "none"
    if not (on_outputs or on_weights):
        return ("plain fine-tuning",)
    if on_outputs and on_weights:
        return ("a new combination",)
    wanted = (phi, "none") if on_outputs else ("none", psi)
    return tuple(s.title for s in SPECIAL.values() if (s.phi, s.psi) == wanted)


def level_sets(phi: str, size: int = 41) -> Float[Tensor, "size size"]:
    """D_Phi(p, q) over two classes: p along the rows from 0 to 1, q along the columns.

    Of squares the same plane; ends of q are kept off 0, where the tangent of the entropy stands
    upright.
    """
    function = negative_entropy if phi == "negative entropy" else squares
    ps = torch.linspace(0, 1, size, dtype=torch.float64)
    qs = torch.linspace(1e-3, 1 - 1e-3, size, dtype=torch.float64)
    rows = [
        torch.stack(
            [divergence(function, torch.stack([p, 1 - p]), torch.stack([q, 1 - q])) for q in qs]
        )
        for p in ps
    ]
    return torch.stack(rows)
