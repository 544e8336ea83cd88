"""A Markov chain over pairs of a sample and its noise level, to start solvers near the data.

The target is p(x, sigma) = p_sigma(x) p(sigma), with p_sigma the data under noise of standard
deviation sigma and p(sigma) uniform on a fixed list of levels. One transition (Denoising Langevin
Gibbs) is

    x     <- x + eta / 2 score(x, sigma) + sqrt(eta) z       one step of Langevin at this level
    sigma <- the level of q(k | x)                           a classifier of noise levels

at one evaluation of the score. States with little noise lie close to the data; through large sigma
the chain leaves a mode. A solver that starts at such a state has only sigma to take back, not the
largest level. Reference: Kim and Ye, Denoising MCMC, ICML 2023, arXiv:2209.14593.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.core.shapes import Float, Int, Tensor
from engine.diffusion.denoiser import Model, combine
from engine.diffusion.mixture import Mixture
from engine.diffusion.moves import State
from engine.diffusion.noise import NoiseSource

LevelsOf = Callable[[State], Float[Tensor, "b k"]]
"""log q(k | x) up to a constant a row, over the list of levels."""

PICKS = ("argmax", "draw")


@dataclass(frozen=True)
class Visit:
    """The chain after transition `i`; `stuck` counts samples that were put back, as they broke."""

    i: int
    x: State
    sigma: NDArray[np.float64]
    nfe: int
    stuck: int = 0


def noise_levels(
    count: int = 1000, s_min: float = 0.01, s_max: float = 50.0
) -> NDArray[np.float64]:
    """The fixed list of levels, from s_max down to almost s_min."""
    return s_min * (s_max / s_min) ** np.linspace(1, 1e-3, count)


def exact_levels(world: Mixture, sigmas: NDArray[np.float64]) -> LevelsOf:
    """The true posterior of the level where the density is known: log p_sigma(x) for each."""
    variance = torch.from_numpy(np.asarray(sigmas) ** 2)[:, None] + world.variances
    log_weights = torch.log(world.weights / world.weights.sum())
    size = world.means.shape[1] * torch.log(2 * math.pi * variance)

    def levels_of(x: State) -> Float[Tensor, "b k"]:
        away = torch.cdist(x.flatten(1).to(world.means), world.means) ** 2
        parts = log_weights - 0.5 * (size + away[:, None] / variance)
        return torch.logsumexp(parts, dim=2)

    return levels_of


def langevin_gibbs(
    model: Model,
    x: State,
    sigma: NDArray[np.float64],
    sigmas: NDArray[np.float64],
    levels_of: LevelsOf,
    noise: NoiseSource,
    *,
    eta: float,
    pick: str = "argmax",
) -> Iterator[Visit]:
    """The chain from (x, sigma), one visit a transition, without end.

    The time of `model` is the noise level (`schedules.edm`). A sample whose step is not finite
    stays where it was.
    """
    if not eta > 0:
        raise SamplerError(f"eta must be above 0, got {eta:g}.", "0.5 to 0.8 is published.")
    if pick not in PICKS:
        raise SamplerError(f'There is no choice of level "{pick[:40]}".', "Use argmax or draw.")
    begun, i = model.nfe, 0
    while True:
        score = model(x, sigma).score
        moved = x + combine((eta / 2, score), (np.sqrt(eta), noise(x, i)))
        broken = ~torch.isfinite(moved).flatten(1).all(1)
        x = torch.where(broken.reshape(-1, *[1] * (x.ndim - 1)), x, moved)
        level = pick_level(levels_of(x), noise, i, pick)
        # read together: the host waits once a transition
        chosen, stuck = torch.stack([level, broken.to(level)]).cpu().numpy()
        sigma = sigmas[chosen]
        yield Visit(i, x, sigma, model.nfe - begun, int(stuck.sum()))
        i += 1


def pick_level(
    log_q: Float[Tensor, "b k"], noise: NoiseSource, step: int, pick: str
) -> Int[Tensor, " b"]:
    """The most probable level, or one drawn from q by its distribution function."""
    if pick == "argmax":
        return log_q.argmax(dim=1)
    below = torch.cumsum(torch.softmax(log_q.double(), dim=1), dim=1)
    u = torch.special.ndtr(noise(torch.zeros(len(log_q), dtype=torch.float64), step, "level"))
    drawn = (below < u.to(below.device)[:, None]).sum(dim=1)
    return drawn.clamp(max=log_q.shape[1] - 1)


@dataclass(frozen=True)
class Start:
    """Where a solver takes over: the state of least noise on the way, a sample each on its own."""

    x: State
    sigma: NDArray[np.float64]
    visits: tuple[Visit, ...]


def hand_over(
    chain: Iterator[Visit], x: State, sigma: NDArray[np.float64], skip: int
) -> Iterator[Start]:
    """The best start after each of `skip` transitions; the state before them competes too."""
    best, low, visits = x, np.asarray(sigma, dtype=np.float64), []
    for _ in range(skip):
        visit = next(chain)
        visits.append(visit)
        better = visit.sigma < low
        choose = torch.from_numpy(better).to(best.device).reshape(-1, *[1] * (best.ndim - 1))
        best, low = torch.where(choose, visit.x, best), np.where(better, visit.sigma, low)
        yield Start(best, low, tuple(visits))
    if not skip:
        yield Start(best, low, ())
