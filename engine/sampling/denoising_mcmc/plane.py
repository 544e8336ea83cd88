"""Denoising MCMC where everything is known: the chain in the plane, its samples, the price of eta.

The score is exact and so is the posterior of the noise level, so what is seen is the method and not
a network. Errors have intervals over chains: the samples of one chain are no independent draws.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import numpy as np
import torch

from engine.core.job import Progress, Steps, finish
from engine.core.settings import OneOf, Range
from engine.core.shapes import Float, Tensor
from engine.diffusion.chain import PICKS, Visit, exact_levels, noise_levels
from engine.diffusion.mixture import Mixture
from engine.diffusion.noise import Stream
from engine.metrics.distances import profile, sliced_w2
from engine.sampling.denoising_mcmc import INTEGRATORS
from engine.sampling.denoising_mcmc.integrators import Asks
from engine.sampling.denoising_mcmc.results import Chained, Side, Trace, Trade, Trades
from engine.sampling.denoising_mcmc.sampler import (
    Chain,
    Plan,
    counted,
    fewest,
    finish_from,
    from_noise,
)
from engine.sampling.denoising_mcmc.sampler import last as last_of

LEVELS, SIDE, VIEW = 200, 60, 3.0
SHOWN, FOLLOWED, LAGS = 400, 3, 40
EXACT = 8192  # independent draws that samples are compared with
ETAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class World:
    """A mixture with its score as something to ask, and the exact posterior of noise levels."""

    mixture: Mixture
    s_max: float

    def asks(self) -> Asks:
        def score(x: Float[Tensor, "b *d"], label: Float[Tensor, " b"], **_: Tensor) -> Tensor:
            return self.mixture.score(x, 1.0, label.numpy())

        return Asks(score)

    @property
    def shares(self) -> np.ndarray:
        weights = self.mixture.weights
        return (weights / weights.sum()).numpy()

    @cached_property
    def exact(self) -> Float[Tensor, "levels k"]:
        """The profile of independent draws, for the sliced Wasserstein distance."""
        return profile(self.mixture.sample(EXACT, torch.Generator().manual_seed(0)))

    def distance(self, x: Float[Tensor, "n d"]) -> float:
        """The sliced 2-Wasserstein distance of samples from the data, a coordinate."""
        return sliced_w2(profile(x), self.exact)


def seven_modes() -> World:
    """Modes of unequal weight around the origin, some close and one far."""
    rows = [
        (0.24, -1.6, 0.9), (0.16, -1.1, 1.4), (0.08, 0.2, 1.7), (0.2, 1.5, 0.8),
        (0.06, 1.8, -1.0), (0.16, 0.1, -1.5), (0.1, -1.5, -1.0),
    ]  # fmt: skip
    table = torch.tensor(rows, dtype=torch.float64)
    variances = torch.full((len(rows),), 0.06**2, dtype=torch.float64)
    return World(Mixture(table[:, 0], table[:, 1:], variances), 50.0)


def run(
    *,
    seed: int,
    integrator: Annotated[str, OneOf(INTEGRATORS)] = "kar1",
    nfe: Annotated[int, Range(4, 400)] = 10,
    share: Annotated[float, Range(0, 0.9)] = 0.2,
    eta: Annotated[float, Range(1e-4, 20)] = 0.03,
    chains: Annotated[int, Range(1, 2000)] = 100,
    rounds: Annotated[int, Range(1, 50)] = 4,
    burn_in: Annotated[int, Range(1, 500)] = 20,
    pick: Annotated[str, OneOf(PICKS)] = "draw",
    compare: bool = True,
) -> Steps[Chained]:
    """The chain live, then its samples and those from pure noise at equal total NFE; with
    `compare` all six integrators. `share` of the NFE goes to the chain. The score is exact,
    so it takes no model."""
    world = seven_modes()
    others = [name for name in INTEGRATORS if name != integrator and nfe > fewest(name)]
    names = [integrator, *(others if compare else ())]
    plan = Plan.split(integrator, nfe, share)
    total = burn_in + plan.skip + rounds + 2 * len(names)
    partial = _scene(world)
    yield Progress(0, total, "the world", partial)
    chain = chain_of(world, chains, seed, eta, pick)
    partial = replace(partial, burn_in=chain.on.nfe)
    visits: list[Visit] = []
    for done, (visit, _) in enumerate(zip(chain.walk(), range(burn_in), strict=False), 1):
        visits.append(visit)
        partial = replace(partial, trace=_trace(visits), burn_in=chain.on.nfe)
        yield Progress(done, total, "burn-in", partial)
    done = burn_in
    for name in names:
        shared = Plan.split(name, nfe, share)
        side = yield from _quietly(
            chained_side(world, chain, shared, rounds, visits), done, total, partial
        )
        partial = replace(partial, sides=(*partial.sides, side), trace=_trace(visits[-60:]))
        if name == integrator:
            leaving, correlation = mixing(visits, world)
            partial = replace(partial, leaving=leaving, autocorrelation=correlation)
        done += 1
        yield Progress(done, total, f"{name}, from the chain", partial)
        side = vanilla_side(world, shared, chains * rounds, seed)
        partial = replace(partial, sides=(*partial.sides, side), stuck=chain.stuck)
        done += 1
        yield Progress(done, total, f"{name}, from pure noise", partial)
    return partial


def eta(
    *,
    seed: int,
    integrator: Annotated[str, OneOf(INTEGRATORS)] = "kar1",
    nfe: Annotated[int, Range(4, 400)] = 10,
    share: Annotated[float, Range(0, 0.9)] = 0.2,
    chains: Annotated[int, Range(1, 2000)] = 20,
    rounds: Annotated[int, Range(1, 50)] = 20,
    burn_in: Annotated[int, Range(1, 500)] = 20,
    pick: Annotated[str, OneOf(PICKS)] = "draw",
) -> Steps[Trades]:
    """Error and mode coverage as eta grows, beside the integrator from pure noise; the score is
    exact, so it takes no model."""
    world = seven_modes()
    plan = Plan.split(integrator, nfe, share)
    trades = Trades(vanilla=vanilla_side(world, plan, chains * rounds, seed),
                   uncovered_floor=coverage_floor(world, chains * rounds))  # fmt: skip
    yield Progress(1, len(ETAS) + 1, "from pure noise", trades)
    for done, value in enumerate(ETAS, 2):
        chain, visits = chain_of(world, chains, seed, value, pick), []
        for visit, _ in zip(chain.walk(), range(burn_in), strict=False):
            visits.append(visit)
        steps = chained_side(world, chain, plan, rounds, visits)
        side = yield from _quietly(steps, done - 1, len(ETAS) + 1, trades)
        leaving, _ = mixing(visits, world)
        start = float(np.median(side.starts))
        trade = Trade(value, side.error, side.low, side.high, side.uncovered, start, leaving)
        trades = replace(trades, trades=(*trades.trades, trade))
        yield Progress(done, len(ETAS) + 1, f"eta {value:g}", trades)
    return trades


def chain_of(world: World, chains: int, seed: int, eta: float, pick: str) -> Chain:
    """Chains on an exact world, told their level by the exact posterior."""
    sigmas = noise_levels(LEVELS, s_max=world.s_max)
    like = torch.zeros(chains, world.mixture.means.shape[1], dtype=torch.float64)
    levels_of = exact_levels(world.mixture, sigmas)
    return finish(Chain.begun(world.asks(), like, sigmas, levels_of, seed=seed, eta=eta, pick=pick))


def chained_side(
    world: World, chain: Chain, plan: Plan, rounds: int, visits: list[Visit]
) -> Iterator[Side | None]:
    """Samples of all chains, `rounds` each; None while under way, then the side."""
    ends, starts, spent = [], [], 0
    for _ in range(rounds):
        before = chain.on.nfe
        start = chain.start(plan.skip)
        visits.extend(start.visits)
        ends.append(last_of(finish_from(chain.on, plan, start.x, start.sigma, chain.noise)))
        starts.append(start.sigma)
        spent += chain.on.nfe - before
        yield None
    yield _side(world, "chain", plan, spent // rounds, ends, np.concatenate(starts))


def vanilla_side(world: World, plan: Plan, count: int, seed: int) -> Side:
    """As many samples by the same integrator from pure noise."""
    on, noise = world.asks(), Stream(seed + 1)
    like = torch.zeros(count, world.mixture.means.shape[1], dtype=torch.float64)
    end = last_of(from_noise(on, plan, like, world.s_max, noise))
    return _side(world, "noise", replace(plan, skip=0), on.nfe, [end], np.full(1, world.s_max))


def _side(
    world: World, name: str, plan: Plan, nfe: int, ends: list[torch.Tensor], starts: np.ndarray
) -> Side:
    means = world.mixture.means
    squares = [torch.cdist(end, means).min(dim=1).values.square() for end in ends]
    each = torch.stack(squares).mean(0)
    reach = 1.96 * float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else 0.0
    mean = float(each.mean())
    everything = torch.cat(ends)
    shares = np.bincount(counted(everything, means).numpy(), minlength=len(means))
    shares = shares / shares.sum()
    return Side(
        name,
        plan.integrator,
        nfe,
        plan.skip,
        math.sqrt(mean),
        math.sqrt(max(mean - reach, 0.0)),
        math.sqrt(mean + reach),
        float(np.abs(shares - world.shares).sum() / 2),
        world.distance(everything),
        everything[:SHOWN, :2].numpy().astype(np.float32),
        tuple(float(share) for share in shares),
        tuple(float(sigma) for sigma in np.sort(starts)),
    )


def coverage_floor(world: World, count: int) -> float:
    """How far the mode weights of as many independent draws are from the true ones."""
    generator = np.random.default_rng(0)
    draws = generator.multinomial(count, world.shares, size=200) / count
    return float(np.abs(draws - world.shares).sum(1).mean() / 2)


def distance_floor(world: World, count: int, draws: int = 20) -> float:
    """The sliced Wasserstein distance of as many independent draws from the data."""
    generator = torch.Generator().manual_seed(1)
    return float(
        np.mean([world.distance(world.mixture.sample(count, generator)) for _ in range(draws)])
    )


def mixing(visits: list[Visit], world: World) -> tuple[float, tuple[float, ...]]:
    """Share of transitions that end nearer to another mode, and the autocorrelation of x."""
    x = torch.stack([visit.x for visit in visits])
    modes = torch.stack([counted(positions, world.mixture.means) for positions in x])
    leaving = float((modes[1:] != modes[:-1]).double().mean()) if len(modes) > 1 else 0.0
    centred = (x - x.mean((0, 1)))[..., 0]
    power = float((centred**2).mean())
    lags = range(min(LAGS, len(x) - 1))
    products = (float((centred[lag:] * centred[: len(x) - lag]).mean()) for lag in lags)
    return leaving, tuple(product / max(power, 1e-12) for product in products)


def _quietly(steps: Iterator[Side | None], done: int, total: int, partial: object) -> Steps[Side]:
    """The side at the end of its rounds, each of them told as progress."""
    ended: Side | None = None
    for side in steps:
        ended = side
        yield Progress(done, total, "sampling", partial)
    assert ended is not None
    return ended


def _scene(world: World) -> Chained:
    line = torch.linspace(-VIEW, VIEW, SIDE, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x.ravel(), y.ravel()], 1)
    density = world.mixture.log_density(points, 1.0, 0.12).exp()
    return Chained(
        density.reshape(SIDE, SIDE).numpy().astype(np.float32),
        world.mixture.means.numpy(),
        tuple(float(share) for share in world.shares),
        floor=float(np.sqrt(2 * world.mixture.variances[0].item())),
        uncovered_floor=coverage_floor(world, 400),
    )


def _trace(visits: list[Visit]) -> Trace:
    points = torch.stack([visit.x[:FOLLOWED] for visit in visits]).numpy().astype(np.float32)
    return Trace(points, np.stack([visit.sigma[:FOLLOWED] for visit in visits]))
