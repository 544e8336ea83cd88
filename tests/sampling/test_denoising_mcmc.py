"""Denoising MCMC: the notebook's arrays, the split of the evaluations, and what it is worth."""

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput
from engine.core.job import Job
from engine.diffusion.noise import Stream
from engine.sampling.denoising_mcmc import INTEGRATORS, bench, golden
from engine.sampling.denoising_mcmc.integrators import integrate
from engine.sampling.denoising_mcmc.plane import distance_floor, seven_modes, vanilla_side
from engine.sampling.denoising_mcmc.sampler import Plan, counted, evaluations

MODULE = "engine.sampling.denoising_mcmc.algorithm"
QUICK = {"chains": 10, "rounds": 2, "burn_in": 5}


def result(run_job, action: str, seed: int = 0, **params):
    return run_job(Job(f"{MODULE}:{action}", params, seed))[-1].result


@pytest.mark.golden
def test_everything_equals_the_notebook():
    cases = list(golden.comparisons())
    assert len(cases) == 15
    for name, found, wanted, tolerance in cases:
        error = np.max(np.abs(np.asarray(found, np.float64) - wanted))
        assert error <= tolerance, f"{name}: {error}"


@pytest.mark.parametrize("integrator", [name for name in INTEGRATORS if name != "ode"])
@pytest.mark.parametrize("nfe", [10, 13, 20])
def test_a_plan_spends_exactly_its_evaluations(integrator, nfe):
    for share in (0.2, 0.5):
        plan = Plan.split(integrator, nfe, share)
        assert plan.skip + evaluations(integrator, plan.steps) + 1 == nfe


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_every_integrator_takes_a_level_for_each_sample(integrator):
    world = seven_modes()
    sigma = np.array([0.05, 0.7, 3.0, 40.0])
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = world.mixture.means[:4] + torch.from_numpy(sigma)[:, None] * noise
    *_, last = integrate(world.asks(), integrator, z, sigma, 30, Stream(0))
    assert bool(torch.isfinite(last.z).all())
    near = torch.cdist(last.z, world.mixture.means).min(dim=1).values
    assert float(near.max()) < 1.0


def test_a_sample_of_its_own_level_is_as_alone():
    """Per-sample levels: the commonest fault is a level that is broadcast over the wrong axis."""
    world = seven_modes()
    sigma = np.array([0.3, 5.0])
    z = torch.ones(2, 2, dtype=torch.float64)
    for name in ("kar1", "ode"):
        steps = list(integrate(world.asks(), name, z, sigma, 12, Stream(0)))
        if name == "ode":
            continue  # one joint system: its error control sees both
        alone = list(integrate(world.asks(), name, z[1:], sigma[1:], 12, Stream(0)))
        torch.testing.assert_close(steps[-1].z[1:], alone[-1].z, rtol=1e-10, atol=1e-10)


def test_a_run_counts_what_it_spends_and_keeps_the_burn_in_apart(run_job):
    found = result(run_job, "run", integrator="kar1", nfe=10, compare=False, **QUICK)
    chain, noise = found.sides
    assert (chain.name, noise.name) == ("chain", "noise")
    assert chain.nfe == noise.nfe == 10
    assert found.burn_in == 37 + 5
    assert chain.low <= chain.error <= chain.high
    assert sum(chain.weights) == pytest.approx(1)


@pytest.mark.slow
def test_the_sweep_measures_every_eta_beside_pure_noise(run_job):
    found = result(run_job, "eta", **QUICK)
    assert [trade.eta for trade in found.trades] == sorted(trade.eta for trade in found.trades)
    assert found.vanilla.nfe == 10


@pytest.mark.slow
def test_heun_in_few_evaluations_ends_nearer_from_the_chain_than_from_noise():
    world = bench.blobs(5)
    chain, noise = bench.both(world, "kar1", 10, bench.ETA, 1)
    assert noise.error > 1.5 * chain.error
    assert noise.sliced > 1.5 * chain.sliced
    assert chain.nfe == noise.nfe == 10


def test_independent_draws_are_at_the_floor_and_lost_modes_are_above_it():
    """The distance sees what the error cannot: samples that are each good, and miss a mode."""
    world = bench.blobs(5)
    floor = distance_floor(world, 600)
    good = world.mixture.sample(600, torch.Generator().manual_seed(5))
    lost = good[counted(good, world.mixture.means) > 7]
    assert world.distance(good) < 1.5 * floor
    assert world.distance(lost) > 2 * floor


@pytest.mark.parametrize("seed", range(3))
def test_the_sides_of_a_run_repeat_for_their_seed(seed):
    plan = Plan.split("kar2", 13, 0.3)
    first, second = (vanilla_side(seven_modes(), plan, 30, seed) for _ in range(2))
    assert np.array_equal(first.ends, second.ends)
    assert first.sliced == second.sliced


def test_a_plan_gives_the_chain_its_share_and_no_more():
    for share in (0.0, 0.3, 0.6):
        plan = Plan.split("em", 20, share)
        assert plan.skip <= share * 20


def test_a_share_of_nothing_is_the_chain_without_transitions():
    plan = Plan.split("kar1", 10, 0.0)
    assert plan.skip == 0
    side = vanilla_side(seven_modes(), plan, 20, 0)
    assert side.nfe == 10


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("run", {"integrator": "magic"}),
        ("run", {"nfe": 5}),
        ("run", {"share": 1.0}),
        ("run", {"eta": 0.0}),
        ("run", {"eta": float("nan")}),
        ("run", {"chains": -1}),
        ("run", {"pick": "best"}),
        ("eta", {"rounds": 0}),
        ("pictures", {"eta": -1.0}),
        ("pictures", {"count": 0}),
        ("pictures", {"integrator": ""}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_with_advice(run_job, action, params):
    (failed,) = run_job(Job(f"{MODULE}:{action}", params, 0), may_fail=True)
    assert failed.message
    assert failed.advice
    assert not failed.error_id


def test_too_few_evaluations_name_the_least():
    with pytest.raises(BadInput, match="kar1 needs 5"):
        Plan.split("kar1", 5, 0.2)
