"""A world in which the score is known exactly: mixtures of round Gaussians, in float64.

With p0 = sum_k w_k N(mu_k, v_k I), the noisy density of any affine process is again a mixture,

    p_t = sum_k w_k N(a mu_k, (a^2 v_k + s^2) I)

so score, clean estimate and log density need no network: solvers can be measured against the truth.
Reference: Lai et al., The Principles of Diffusion Models, arXiv:2510.21890.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.diffusion.denoiser import Model
from engine.diffusion.schedules import Level, Path


@dataclass(frozen=True)
class Mixture:
    """Weights (k), means (k, d) and variances (k) of the components; weights are normalised."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    variances: Float[Tensor, " k"]

    def __post_init__(self) -> None:
        if not bool((self.variances > 0).all()):
            raise BadInput("Every variance of a mixture must be above 0.")
        if not bool((self.weights >= 0).all()) or not float(self.weights.sum()) > 0:
            raise BadInput("The weights of a mixture must not be negative, nor all be 0.")

    def log_density(
        self, x: Float[Tensor, "b d"], a: Level = 1.0, s: Level = 0.0
    ) -> Float[Tensor, " b"]:
        """log p_t(x) at signal a and noise s."""
        return torch.logsumexp(self._log_parts(x, a, s), dim=1)

    def score(
        self, x: Float[Tensor, "b d"], a: Level = 1.0, s: Level = 0.0
    ) -> Float[Tensor, "b d"]:
        """The gradient of log p_t at x: the pull of each component, weighted by responsibility."""
        share = torch.softmax(self._log_parts(x, a, s), dim=1)[..., None]
        return -(share * self._away(x, a) / self._spread(x, a, s)[..., None]).sum(dim=1)

    def eps(self, x: Float[Tensor, "b d"], a: Level, s: Level) -> Float[Tensor, "b d"]:
        """The noise that a perfectly trained network would predict."""
        return -_column(s, x) * self.score(x, a, s)

    def model(self, path: Path) -> Model:
        """This world as a perfect network on `path`."""

        def net(
            x: Float[Tensor, "b d"], label: Float[Tensor, " b"], **_: Tensor
        ) -> Float[Tensor, "b d"]:
            t = label.cpu().numpy()
            return self.eps(x, path.a(t), path.s(t))

        return Model(net, path, "eps", "t")

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count d"]:
        """Draws from p0."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[which] + self.variances[which].sqrt()[:, None] * noise

    def _away(self, x: Float[Tensor, "b d"], a: Level) -> Float[Tensor, "b k d"]:
        return x[:, None] - _column(a, x)[..., None] * self.means

    def _spread(self, x: Float[Tensor, "b d"], a: Level, s: Level) -> Float[Tensor, "b k"]:
        return _column(a, x) ** 2 * self.variances + _column(s, x) ** 2

    def _log_parts(self, x: Float[Tensor, "b d"], a: Level, s: Level) -> Float[Tensor, "b k"]:
        variance = self._spread(x, a, s)
        distance = self._away(x, a).square().sum(dim=-1)
        log_weights = torch.log(self.weights / self.weights.sum())
        size = x.shape[1] * torch.log(2 * math.pi * variance)
        return log_weights - 0.5 * (size + distance / variance)


def _column(level: Level, x: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
    rows = np.broadcast_to(np.asarray(level, dtype=np.float64), (len(x),)).copy()
    return torch.from_numpy(rows)[:, None]


def three_modes() -> Mixture:
    """The small world of the convergence experiments."""
    return Mixture(
        torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
        torch.tensor([[-1.5, 0.0], [1.0, 1.2], [0.8, -1.0]], dtype=torch.float64),
        torch.tensor([0.05, 0.08, 0.1], dtype=torch.float64),
    )


def ring(count: int = 8, variance: float = 0.01) -> Mixture:
    """Equal components on the unit circle."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    ones = torch.ones(count, dtype=torch.float64)
    return Mixture(ones, torch.stack([angle.cos(), angle.sin()], dim=1), variance * ones)
