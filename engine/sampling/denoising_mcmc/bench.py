"""Measures the claim on 8 x 8 pictures of 32 known modes, with every integrator and three budgets.

The world: blobs, weights from a Dirichlet distribution, spread 0.02 a pixel, and the exact score
and posterior of the level. Sixty chains of ten samples each and 600 samples from pure noise, for
each of three seeds; the interval is over all chains. A fixed eta of 0.1 and a share of 0.4 for all
integrators and budgets: nothing is tuned on the result. Tables by eta and by integrator stand
beside the claim, also where pure noise wins.
"""

import math
import time

import numpy as np
import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import Plain
from engine.diffusion.mixture import Mixture
from engine.sampling.denoising_mcmc import INTEGRATORS
from engine.sampling.denoising_mcmc.plane import (
    World,
    chain_of,
    chained_side,
    coverage_floor,
    mixing,
    vanilla_side,
)
from engine.sampling.denoising_mcmc.results import Side
from engine.sampling.denoising_mcmc.sampler import Plan

PIXELS, MODES, CHAINS, ROUNDS, BURN_IN, SEEDS = 64, 32, 60, 10, 20, 3
ETA, SHARE, PICK = 0.1, 0.4, "argmax"
BUDGETS, ETAS = (10, 40), (0.01, 0.1, 1.0)


def run(*, seed: int = 0) -> Steps[Measured]:
    """Three seeds of the claim's setting, then the tables."""
    begun = time.perf_counter()
    world, done = blobs(5), 0
    total = SEEDS + len(INTEGRATORS) * len(BUDGETS) + len(ETAS)
    pairs = []
    for k in range(SEEDS):
        pairs.append(both(world, "kar1", 10, ETA, seed + k))
        done += 1
        yield Progress(done, total, f"the claim, seed {seed + k}")
    ours, theirs = (_joined([pair[i] for pair in pairs]) for i in (0, 1))
    by_budget: dict[str, Plain] = {}
    for name in INTEGRATORS:
        for nfe in BUDGETS:
            chain, noise = both(world, name, nfe, ETA, seed)
            by_budget[f"{name}, {nfe} NFE"] = _row(chain, noise)
            done += 1
            yield Progress(done, total, f"{name}, {nfe} NFE")
    by_eta: dict[str, Plain] = {}
    for eta in ETAS:
        chain, noise = both(world, "kar1", 10, eta, seed)
        by_eta[f"eta {eta:g}"] = _row(chain, noise) | {
            "median start level": round(float(np.median(chain.starts)), 3),
            "transitions that leave a mode": round(_leaving(world, eta, seed), 3),
        }
        done += 1
        yield Progress(done, total, f"eta {eta:g}")
    return Measured.of(
        ours[0],
        theirs[0],
        (ours[1], ours[2]),
        seed=seed,
        begun=begun,
        figures={
            "interval from pure noise": [round(theirs[1], 4), round(theirs[2], 4)],
            "spread of the data a pixel": 0.02,
            "floor of uncovered weight": round(coverage_floor(world, CHAINS * ROUNDS), 3),
            "evaluations a chain before its first sample": 37 + BURN_IN,
            "by integrator, total NFE a sample": by_budget,
            "KAR1 at 10 NFE by eta": by_eta,
        },
    )


def blobs(seed: int) -> World:
    """The world of the bench: sums of one to three round blobs, cut to [0, 1]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:8, 0:8]
    rows = []
    for _ in range(MODES):
        picture = np.zeros((8, 8))
        for _ in range(generator.integers(1, 4)):
            (cx, cy), width = generator.uniform(0, 7, 2), generator.uniform(0.8, 2.2)
            away = ((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2)
            picture += generator.uniform(0.4, 1) * np.exp(-away)
        rows.append(picture.clip(0, 1).ravel())
    weights = torch.tensor(generator.dirichlet(np.full(MODES, 3.0)))
    variances = torch.full((MODES,), 0.02**2, dtype=torch.float64)
    return World(Mixture(weights, torch.tensor(np.stack(rows)), variances), 50.0)


def both(world: World, name: str, nfe: int, eta: float, seed: int) -> tuple[Side, Side]:
    """From the chain and from pure noise, at equal total NFE."""
    plan = Plan.split(name, nfe, SHARE)
    chain = chain_of(world, CHAINS, seed, eta, PICK)
    for _ in zip(range(BURN_IN), chain.walk(), strict=False):
        pass
    *_, side = chained_side(world, chain, plan, ROUNDS, [])
    assert side is not None
    return side, vanilla_side(world, plan, CHAINS * ROUNDS, seed)


def _leaving(world: World, eta: float, seed: int) -> float:
    chain = chain_of(world, CHAINS, seed, eta, PICK)
    seen = [visit for _, visit in zip(range(60), chain.walk(), strict=False)]
    return mixing(seen, world)[0]


def _row(chain: Side, noise: Side) -> dict[str, Plain]:
    scale = math.sqrt(PIXELS)
    row: dict[str, Plain] = {"NFE counted, chain and noise": [chain.nfe, noise.nfe]}
    for name, side in (("chain", chain), ("noise", noise)):
        row[f"{name}: error"] = round(side.error / scale, 4)
        row[f"{name}: interval"] = [round(side.low / scale, 4), round(side.high / scale, 4)]
        row[f"{name}: uncovered"] = round(side.uncovered, 3)
    return row


def _joined(sides: list[Side]) -> tuple[float, float, float]:
    """Error and interval a pixel over the seeds, from the mean of the squares."""
    squares = np.array([side.error**2 for side in sides]) / PIXELS
    reaches = np.array([side.high**2 - side.error**2 for side in sides]) / PIXELS
    mean, reach = squares.mean(), np.sqrt((reaches**2).sum()) / len(sides)
    low, high = np.sqrt(max(mean - reach, 0.0)), np.sqrt(mean + reach)
    return float(np.sqrt(mean)), float(low), float(high)
