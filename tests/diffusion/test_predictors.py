"""Predictors, correctors, RK45 with the likelihood, and the chain of levels, on exact worlds."""

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion import grids, schedules
from engine.diffusion.adaptive import bits_per_dim, log_likelihood, travel
from engine.diffusion.chain import exact_levels, hand_over, langevin_gibbs, noise_levels, pick_level
from engine.diffusion.denoiser import Model
from engine.diffusion.mixture import Mixture, ring, three_modes
from engine.diffusion.moves import Hop
from engine.diffusion.noise import Noise, Stream
from engine.diffusion.predictors import exact_link, released_grid, released_link
from engine.diffusion.solvers import run, solve
from tests.diffusion.closed_form import gaussian_flow

VP, SUBVP = schedules.vp(t_min=0.0), schedules.subvp(t_min=0.0)
PATHS = [VP, SUBVP, schedules.ve(t_min=0.0)]


def start(count: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, dtype=torch.float64, generator=generator)


def ended(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# ---------------------------------------------------------------------- predictor, corrector


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_an_exact_link_carries_the_marginal_from_one_time_to_the_next(path):
    hop = Hop.between(path, 0.7, 0.4)
    link = exact_link(hop)
    assert link.keep * hop.a1 == pytest.approx(hop.a0)
    assert (link.keep * hop.s1) ** 2 + link.fresh**2 == pytest.approx(hop.s0**2)


def test_the_ancestral_predictor_over_exact_links_is_the_ancestral_solver():
    grid, model = grids.uniform_lam(VP, 9, end=1e-3), three_modes().model(VP)
    ours = run("pc", model, start(), grid, Noise(4), predictor="ancestral")
    torch.testing.assert_close(ours, run("ancestral", model, start(), grid, Noise(4)))


def test_released_links_come_near_the_exact_ones_as_levels_grow():
    for path in PATHS:
        link = released_link(path, "reverse_diffusion", 0.5, 20_000)
        exact = exact_link(Hop.between(path, 0.5, 0.5 - 1 / 20_000))
        assert link.fresh == pytest.approx(exact.fresh, rel=5e-3)
        assert link.keep == pytest.approx(exact.keep, rel=1e-6)


def test_a_corrector_reports_its_moves_counts_them_and_keeps_the_time():
    grid, model = released_grid(5, 1e-3), three_modes().model(VP)
    steps = list(solve("pc", model, start(), grid, Noise(0), corrector="langevin", corrections=2))
    assert [step.role for step in steps] == ["corrector", "corrector", "step"] * 5
    assert steps[-1].nfe == model.nfe == 15
    assert [step.t for step in steps[:3]] == [1.0, 1.0, grid.times[1]]
    assert steps[-1].z is steps[-1].mean


def test_a_corrector_alone_brings_points_to_the_density_of_its_level():
    path, world = schedules.ve(t_min=0.0), ring()
    sigma = 0.3
    t = float(path.t_of_lam(-np.log(sigma)))
    model = world.model(path)
    z, noise = 0.1 * start(3000), Stream(1)
    grid = grids.timesteps([t, t - 1e-9])
    for _ in range(60):
        z = run("pc", model, z, grid, noise, predictor="none", corrector="langevin", snr=0.3)
    radius = z.norm(dim=1)
    truth = world.sample(3000, torch.Generator().manual_seed(0)) + sigma * start(3000, 5)
    # three standard errors of two samples, and the bias of Langevin steps of this size
    assert float(radius.mean()) == pytest.approx(float(truth.norm(dim=1).mean()), abs=0.05)


def test_norms_of_a_sample_free_it_from_its_batch_and_norms_of_the_batch_do_not():
    grid, model = released_grid(4, 1e-3), three_modes().model(VP)
    for norms, free in (("sample", True), ("batch", False)):
        options = {"corrector": "langevin", "norms": norms}
        batch = run("pc", model, start(), grid, Noise(2), **options)
        alone = run("pc", model, start()[2:3], grid, Noise(2, first=2), **options)
        assert torch.allclose(batch[2:3], alone, atol=1e-12) is free


@pytest.mark.parametrize(
    "options",
    [
        {"predictor": "magic"},
        {"corrector": "magic"},
        {"predictor": "none"},
        {"corrector": "langevin", "snr": 0.0},
        {"corrector": "langevin", "corrections": 0},
        {"levels": "some"},
        {"norms": "none"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_with_advice(options):
    with pytest.raises(SamplerError) as refused:
        run("pc", three_modes().model(VP), start(), released_grid(4, 1e-3), Noise(0), **options)
    assert refused.value.advice


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (VP, {}),
        (VP, {"predictor": "ancestral"}),
        (VP, {"predictor": "euler_maruyama", "corrector": "langevin"}),
        (SUBVP, {"corrector": "langevin"}),
        (SUBVP, {"predictor": "none", "corrector": "ald"}),
        (SUBVP, {"predictor": "ancestral"}),
    ],
    ids=lambda value: getattr(value, "name", str(value)),  # no address, which differs by process
)
@pytest.mark.parametrize("steps", [10, 20])
def test_the_published_chain_of_few_levels_is_refused_and_not_a_number_is_not_returned(
    path, options, steps
):
    for count in (steps, 21):
        walk = solve("pc", three_modes().model(path), start(), released_grid(count, 1e-3),
                     Noise(0), levels="released", **options)  # fmt: skip
        if count == 21:
            assert torch.isfinite(next(walk).z).all()
            continue
        with pytest.raises(SamplerError, match="less than nothing") as refused:
            next(walk)
        assert "at least 21 steps" in refused.value.advice


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "euler_maruyama", "probability_flow"])
@pytest.mark.parametrize("steps", [4, 10, 20])
def test_sub_vp_has_no_table_in_the_release_and_walks_with_any_number_of_levels(predictor, steps):
    """The release's default for a process without one: f / n and g / sqrt(n) of the equation."""
    model, noise, grid = three_modes().model(SUBVP), Noise(3), released_grid(steps, 1e-3)
    found = list(solve("pc", model, start(), grid, noise, predictor=predictor, levels="released"))
    z, half = start(), 0.5 if predictor == "probability_flow" else 1.0
    for i, t in enumerate(grid.times[:-1]):
        rate = 0.1 + t * 19.9
        g2 = rate * -np.expm1(-0.2 * t - 19.9 * t**2)
        mean = z + (rate * z / 2 + half * g2 * model(z, t).score) / steps
        z = mean if half < 1 else mean + np.sqrt(g2 / steps) * Noise(3)(mean, i)
        torch.testing.assert_close(found[i].mean, mean)


def test_a_level_for_each_sample_equals_the_shared_level():
    world = ring()
    one, many = (schedules.ve(s_max=s, t_min=0.0) for s in (3.0, np.full(6, 3.0)))
    z = 3.0 * start()
    for solver, options in (("pc", {"levels": "released"}), ("rk45", {})):
        grid = released_grid(8, 1e-5) if solver == "pc" else grids.timesteps([1.0, 0.5, 1e-5])

        def net(x, label):
            return world.score(x, 1.0, label.numpy())

        found = [
            run(solver, Model(net, path, "score", "sigma"), z, grid, Noise(1), **options)
            for path in (one, many)
        ]
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- RK45 and the likelihood


def gaussian_world() -> Mixture:
    return Mixture(
        torch.ones(1).double(), torch.tensor([[0.4, -0.2]]).double(), torch.tensor([0.3]).double()
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_rk45_ends_where_the_flow_of_a_gaussian_ends_and_goes_back(path):
    world, z = gaussian_world(), path.prior_std * start()
    model = world.model(path)
    grid = grids.timesteps([1.0, 0.6, 0.2, 1e-3])
    steps = list(solve("rk45", model, z, grid))
    truth = gaussian_flow(z, path, 1.0, 1e-3, mean=world.means[0], variance=0.3)
    torch.testing.assert_close(steps[-1].z, truth, rtol=1e-3, atol=1e-3)
    assert steps[-1].nfe == model.nfe
    *_, (_, back, _) = travel(model, steps[-1].z, grid.times[::-1].copy())
    torch.testing.assert_close(back, z, rtol=1e-2, atol=2e-2)


def test_a_hook_that_changes_the_state_is_followed():
    grid = grids.timesteps([1.0, 0.6, 0.2])
    steps = list(
        solve("rk45", three_modes().model(VP), start(), grid, hook=lambda s: torch.zeros_like(s.z))
    )
    assert all(torch.equal(step.z, torch.zeros_like(step.z)) for step in steps)


def likelihood_model(world: Mixture, path) -> Model:
    def net(x, label):
        # a score that gradients pass, of a single Gaussian
        a, s = (torch.from_numpy(level(label.numpy()))[:, None] for level in (path.a, path.s))
        return s * (x - a * world.means[0]) / (a**2 * 0.3 + s**2)

    return Model(net, path, "eps", "t", grad=True)


@pytest.mark.parametrize("path", PATHS[:2], ids=lambda path: path.name)
def test_the_exact_divergence_gives_the_density_of_a_gaussian(path):
    world, x = gaussian_world(), start(4)
    told = ended(log_likelihood(likelihood_model(world, path), x, None))
    # the prior is N(0, I), although a(1) = 0.0066 is not quite 0: z a m, with z up to 5
    torch.testing.assert_close(told.log_density, world.log_density(x), rtol=0, atol=2e-2)


def test_a_probe_of_signs_gives_the_same_where_the_field_is_round():
    world, x = gaussian_world(), start(4)
    probe = Noise(3)(x, 0, "probe").sign()
    told = ended(log_likelihood(likelihood_model(world, VP), x, probe))
    torch.testing.assert_close(told.log_density, world.log_density(x), rtol=0, atol=2e-2)


def test_bits_do_not_depend_on_the_scale_the_data_are_told_in():
    log_p = torch.tensor([-10.0], dtype=torch.float64)
    dims = 12
    stretched = log_p - dims * np.log(2)  # the density of 2 x in a range twice as wide
    wide = bits_per_dim(stretched, dims, low=-1.0, high=1.0)
    torch.testing.assert_close(wide, bits_per_dim(log_p, dims, low=0.0, high=1.0))


def test_a_likelihood_without_gradients_is_refused():
    with pytest.raises(SamplerError, match="gradients"):
        next(log_likelihood(three_modes().model(VP), start(), None))


# ---------------------------------------------------------------------- the chain


def chain_model(world: Mixture) -> Model:
    path = schedules.edm(t_min=0.009, t_max=51.0)
    return Model(lambda x, label: world.score(x, 1.0, label.numpy()), path, "score", "sigma")


def test_the_posterior_of_the_level_peaks_where_the_noise_was_made():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 64, generator=generator, dtype=torch.float64)
    world = Mixture(torch.ones(4).double(), means, torch.full((4,), 1e-4).double())
    sigmas = noise_levels(200)
    for sigma in (0.05, 1.0, 20.0):
        noise = torch.randn(64, 64, generator=generator, dtype=torch.float64)
        found = sigmas[exact_levels(world, sigmas)(means[:1] + sigma * noise).argmax(1).numpy()]
        assert np.median(found) == pytest.approx(sigma, rel=0.1)


def test_drawn_levels_have_the_shares_of_the_posterior():
    log_q = torch.log(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)).expand(20_000, 3)
    drawn = pick_level(log_q, Stream(0), 0, "draw")
    shares = np.bincount(drawn.numpy(), minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.012)  # three standard errors


def test_the_state_of_least_noise_is_handed_over_and_the_first_one_competes():
    world, sigmas = ring(), noise_levels(100)
    x, sigma = 0.2 * start(8), np.full(8, 0.011)
    walk = langevin_gibbs(
        chain_model(world), x, sigma, sigmas, exact_levels(world, sigmas), Noise(0), eta=0.5
    )
    last = list(hand_over(walk, x, sigma, 5))[-1]
    lowest = np.min([sigma, *(visit.sigma for visit in last.visits)], axis=0)
    np.testing.assert_array_equal(last.sigma, lowest)
    stayed = torch.from_numpy(last.sigma == 0.011)
    assert torch.equal(last.x[stayed], x[stayed])
    assert last.visits[-1].nfe == 5


def test_a_broken_move_is_put_back_and_counted():
    def net(x, label):
        score = -x
        score[0] = torch.nan
        return score

    model = Model(net, schedules.edm(t_min=0.009, t_max=51.0), "score", "sigma")
    x = start(3)
    visit = next(
        langevin_gibbs(
            model, x, np.ones(3), noise_levels(10), lambda x: torch.zeros(3, 10), Noise(0), eta=0.1
        )
    )
    assert visit.stuck == 1
    assert torch.equal(visit.x[0], x[0])
    assert bool(torch.isfinite(visit.x).all())


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 0.1, "pick": "best"}], ids=str)
def test_a_chain_that_cannot_move_is_refused(options):
    world, sigmas = ring(), noise_levels(10)
    walk = langevin_gibbs(
        chain_model(world), start(), np.ones(6), sigmas, exact_levels(world, sigmas), Noise(0),
        **options,
    )  # fmt: skip
    with pytest.raises(SamplerError) as refused:
        next(walk)
    assert refused.value.advice
