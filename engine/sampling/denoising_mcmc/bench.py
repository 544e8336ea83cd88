"""Measures the claim on 8 x 8 pictures of 32 known modes, with every integrator and two budgets.

The world: blobs, weights from a Dirichlet distribution, spread 0.02 a pixel, and the exact score
and posterior of the level. Sixty chains of ten samples each and 600 samples from pure noise; what
is compared is the sliced Wasserstein distance from the data, beside the floor that as many
independent draws have, and the weight of modes that is not covered. The interval is over seeds,
each of which begins chains and noise anew. A fixed eta of 0.1 and a share of 0.4 for all
integrators and budgets: nothing is tuned on the result. Tables by eta and by integrator stand
beside the claim, also where pure noise wins.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product

import numpy as np
import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import Plain
from engine.diffusion.mixture import Mixture
from engine.metrics.intervals import Mean
from engine.sampling.denoising_mcmc import INTEGRATORS
from engine.sampling.denoising_mcmc.plane import (
    World,
    chain_of,
    chained_side,
    coverage_floor,
    distance_floor,
    mixing,
    vanilla_side,
)
from engine.sampling.denoising_mcmc.results import Side
from engine.sampling.denoising_mcmc.sampler import Plan

MODES, CHAINS, ROUNDS, BURN_IN = 32, 60, 10, 20
SEEDS, TABLE_SEEDS = 8, 3
ETA, SHARE, PICK = 0.1, 0.4, "argmax"
BUDGETS, ETAS = (10, 40), (0.01, 0.1, 1.0)


def run(*, seed: int = 0) -> Steps[Measured]:
    """The claim's setting with every seed, then the tables."""
    begun = time.perf_counter()
    world, done = blobs(5), 0
    total = SEEDS + len(INTEGRATORS) * len(BUDGETS) + len(ETAS)
    pairs = []
    for again in range(SEEDS):
        pairs.append(both(world, "kar1", 10, ETA, seed + again))
        done += 1
        yield Progress(done, total, f"the claim, seed {seed + again}")
    by_budget: dict[str, Plain] = {}
    for name, nfe in product(INTEGRATORS, BUDGETS):
        rows = [both(world, name, nfe, ETA, seed + again) for again in range(TABLE_SEEDS)]
        by_budget[f"{name}, {nfe} NFE"] = _row(rows)
        done += 1
        yield Progress(done, total, f"{name}, {nfe} NFE")
    by_eta: dict[str, Plain] = {}
    for eta in ETAS:
        pair = both(world, "kar1", 10, eta, seed)
        by_eta[f"eta {eta:g}"] = _row([pair]) | {
            "median start level": round(float(np.median(pair[0].starts)), 3),
            "transitions that leave a mode": round(_leaving(world, eta, seed), 3),
        }
        done += 1
        yield Progress(done, total, f"eta {eta:g}")
    ours, theirs = (Mean.of_values([pair[k].sliced for pair in pairs]) for k in (0, 1))
    return Measured.of(
        ours.value,
        theirs.value,
        (ours.low, ours.high),
        seed=seed,
        begun=begun,
        figures={
            "unit": f"{SEEDS} seeds of {CHAINS} chains with {ROUNDS} samples each",
            "from pure noise": asdict(theirs),
            "floor: independent draws": round(distance_floor(world, CHAINS * ROUNDS), 4),
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
    visits = [visit for _, visit in zip(range(60), chain.walk(), strict=False)]
    return mixing(visits, world)[0]


def _row(pairs: Sequence[tuple[Side, Side]]) -> dict[str, Plain]:
    """Distance and uncovered weight of both sides, the mean over seeds with its interval."""
    chain, noise = pairs[0]
    row: dict[str, Plain] = {"NFE counted, chain and noise": [chain.nfe, noise.nfe]}
    for place, name in enumerate(("chain", "noise")):
        sides = [pair[place] for pair in pairs]
        row[f"{name}: distance"] = _rounded([side.sliced for side in sides])
        row[f"{name}: uncovered"] = _rounded([side.uncovered for side in sides])
    return row


def _rounded(values: Sequence[float]) -> list[Plain]:
    mean = Mean.of_values(values)
    return [round(mean.value, 4), round(mean.low, 4), round(mean.high, 4)]
