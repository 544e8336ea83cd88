"""Guidance against the density that it is often said to sample.

Guidance with weight w follows the score  s_w = s_u + w (s_c - s_u).  At every single noise level
this is the score of the tilted density  p_u^(1-w) p_c^w,  but the tilted densities of different
noise levels are not noised versions of one another, so the flow does not end at the tilted one.
Here both ends are known, and so is how far apart they are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import Range, Text
from engine.core.shapes import Float, Tensor
from engine.diffusion import grids
from engine.diffusion.denoiser import Model
from engine.diffusion.mixture import Mixture
from engine.diffusion.solvers import solve
from engine.sampling.principles import WORLDS
from engine.sampling.principles.world import LONGEST_WORLD, VP, mixture, modes_of, window

SIDE, EDGE = 201, 4.0
"""The grid on which the tilted density is normalised, and half its side."""


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation in x and y of what was sampled, or of a density."""

    what: str
    mean_x: float
    mean_y: float
    std_x: float
    std_y: float


@dataclass(frozen=True)
class Guided:
    """Samples so far at VP time `t`, and the tilted density on a grid, `n n` over [-4, 4]^2.

    `divergence` is KL(guided | tilted) in nats with its 95 % interval; `plain` the same without
    guidance (w = 1), where both are the conditional density and only the error of the solver is
    left. `classifier_gap` is the largest difference between this field and classifier guidance.
    """

    of_class: str
    guidance_scale: float
    t: float
    samples: np.ndarray
    tilted: np.ndarray
    summaries: tuple[Summary, ...] = ()
    divergence: float | None = None
    interval: tuple[float, float] = (0.0, 0.0)
    plain: float | None = None
    classifier_gap: float | None = None


def guide(
    *,
    seed: int,
    world: Annotated[str, Text(LONGEST_WORLD)] = WORLDS["two classes"],
    of_class: Annotated[str, Text(100)] = "A",
    guidance_scale: Annotated[float, Range(0, 10)] = 3.0,
    particles: Annotated[int, Range(8, 5000)] = 800,
    steps: Annotated[int, Range(4, 256)] = 64,
) -> Steps[Guided]:
    """Sample one class of the world with guidance, and compare with the tilted density."""
    modes = modes_of(world)
    labels = sorted({mode.label for mode in modes})
    if of_class not in labels:
        raise BadInput(
            f'No mode of the world is of class "{str(of_class)[:20]}".',
            f"Its classes are {', '.join(labels)}; write one behind each mode.",
        )
    w = guidance_scale
    uncond = mixture(modes)
    cond = mixture(tuple(mode for mode in modes if mode.label == of_class))
    start = rng.batch_noise(particles, (2,), seed, "start", dtype=torch.float64)
    log_tilted, grid_values = tilted(uncond, cond, w)
    guided = Guided(of_class, w, 1.0, start.numpy(), grid_values)
    flow = Flow(uncond, cond, w, start)
    for done, t in enumerate(flow.follow(steps), 1):
        guided = replace(guided, t=float(t), samples=flow.z.numpy())
        yield Progress(done, 2 * steps, "following the guided field", guided)
    gaps = flow.log_density - log_tilted(flow.z)
    error = 1.96 * float(gaps.std()) / math.sqrt(len(gaps))
    kl = float(gaps.mean())
    plain = Flow(uncond, cond, 1.0, start)
    for done, _ in enumerate(plain.follow(steps), 1):
        yield Progress(steps + done, 2 * steps, "the same without guidance", guided)
    return replace(
        guided,
        summaries=(
            _summary("guided samples", flow.z),
            _moments("tilted density", grid_values),
            _summary("without guidance (w = 1)", plain.z),
        ),
        divergence=kl,
        interval=(kl - error, kl + error),
        plain=float((plain.log_density - tilted(uncond, cond, 1.0)[0](plain.z)).mean()),
        classifier_gap=classifier_gap(uncond, cond, flow.z),
    )


class Flow:
    """Points that follow the guided field, with the exact log density of where they are.

    In y = z / a and lambda, the guided flow is dy/dlambda = kappa s_w s, hence along it

        d log q / dlambda = - s^2 div s_w

    which is added up by the trapezoid rule over the steps of the solver; log q of z is that of y
    less 2 ln a.
    """

    def __init__(
        self, uncond: Mixture, cond: Mixture, w: float, start: Float[Tensor, "b 2"]
    ) -> None:
        self.uncond, self.cond, self.w, self.z = uncond, cond, w, start
        log_prior = -start.square().sum(1) / 2 - math.log(2 * math.pi)
        self._log_y = log_prior + 2 * math.log(float(VP.a(VP.t_max)))
        self._rate = self._fall(VP.t_max)
        self._t = VP.t_max

    @property
    def log_density(self) -> Float[Tensor, " b"]:
        return self._log_y - 2 * math.log(float(VP.a(self._t)))

    def follow(self, steps: int) -> Iterator[float]:
        """Walks to the data with Heun's method, yielding the time after each step."""

        def net(
            x: Float[Tensor, "b d"], label: Float[Tensor, " b"], **_: Tensor
        ) -> Float[Tensor, "b d"]:
            t = label.numpy()
            plain, pointed = (mix.eps(x, VP.a(t), VP.s(t)) for mix in (self.uncond, self.cond))
            return plain + self.w * (pointed - plain)

        grid = grids.uniform_lam(VP, steps)
        for step in solve("heun", Model(net, VP, "eps", "t"), self.z, grid):
            h = float(VP.lam(step.t) - VP.lam(self._t))
            self.z, self._t = step.z, float(step.t)
            rate = self._fall(self._t)
            self._log_y = self._log_y + h / 2 * (self._rate + rate)
            self._rate = rate
            yield self._t

    def _fall(self, t: float) -> Float[Tensor, " b"]:
        a, s = float(VP.a(t)), float(VP.s(t))
        plain, pointed = (score_divergence(mix, self.z, a, s) for mix in (self.uncond, self.cond))
        return -(s**2) * (plain + self.w * (pointed - plain))


def score_divergence(
    world: Mixture, x: Float[Tensor, "b d"], a: float, s: float
) -> Float[Tensor, " b"]:
    """div score = sum_k r_k (|x - a mu_k|^2 / V_k^2 - d / V_k) - |score|^2, V_k = a^2 v_k + s^2."""
    spread = a**2 * world.variances + s**2
    away = (x[:, None] - a * world.means).square().sum(-1)
    log_parts = torch.log(world.weights) - x.shape[1] / 2 * torch.log(spread) - away / (2 * spread)
    share = torch.softmax(log_parts, dim=1)
    inner = (share * (away / spread**2 - x.shape[1] / spread)).sum(1)
    return inner - world.score(x, a, s).square().sum(1)


def tilted(
    uncond: Mixture, cond: Mixture, w: float
) -> tuple[Callable[[Tensor], Tensor], np.ndarray]:
    """log p_u^(1-w) p_c^w, normalised by a sum over a grid, as a function and on that grid.

    Taken at t_min of the process, where the flow ends, and not at 0.
    """
    a, s = float(VP.a(VP.t_min)), float(VP.s(VP.t_min))

    def raw(x: Float[Tensor, "b 2"]) -> Float[Tensor, " b"]:
        return (1 - w) * uncond.log_density(x, a, s) + w * cond.log_density(x, a, s)

    values = raw(window(SIDE, EDGE))
    cell = 2 * math.log(2 * EDGE / (SIDE - 1))
    log_z = float(torch.logsumexp(values, 0)) + cell
    on_grid = torch.exp(values - log_z).reshape(SIDE, SIDE).numpy().astype(np.float32)
    return (lambda x: raw(x) - log_z), on_grid


def classifier_gap(
    uncond: Mixture, cond: Mixture, x: Float[Tensor, "b 2"], t: float = 0.3
) -> float:
    """The largest difference of s_c - s_u and the gradient of the exact classifier log p(c | z)."""
    a, s = float(VP.a(t)), float(VP.s(t))
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        log_class = cond.log_density(point, a, s) - uncond.log_density(point, a, s)
        (gradient,) = torch.autograd.grad(log_class.sum(), point)
    return float((gradient - cond.score(x, a, s) + uncond.score(x, a, s)).abs().max())


def _summary(what: str, x: Float[Tensor, "b 2"]) -> Summary:
    mean, std = x.mean(0), x.std(0)
    return Summary(what, float(mean[0]), float(mean[1]), float(std[0]), float(std[1]))


def _moments(what: str, values: np.ndarray) -> Summary:
    line = np.linspace(-EDGE, EDGE, SIDE)
    weights = values.astype(np.float64) / values.sum(dtype=np.float64)
    moments = []
    for marginal in (weights.sum(0), weights.sum(1)):
        mean = float(marginal @ line)
        moments.append((mean, math.sqrt(float(marginal @ (line - mean) ** 2))))
    (mean_x, std_x), (mean_y, std_y) = moments
    return Summary(what, mean_x, mean_y, std_x, std_y)
