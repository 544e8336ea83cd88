"""From data to noise and back: what returns, how near it comes, and what it costs."""

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion import grids, schedules
from engine.diffusion.denoiser import Model
from engine.diffusion.inversion import Pair, ddim_backwards, reversible_heun
from engine.diffusion.mixture import Mixture, three_modes
from engine.diffusion.solvers import run
from tests.diffusion.closed_form import gaussian_flow

PATH = schedules.from_alphas_cumprod(
    np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
)


def pictures(count: int = 6) -> torch.Tensor:
    return three_modes().sample(count, torch.Generator().manual_seed(1))


def there_and_back(model, z, grid, back_model=None):
    *_, there = reversible_heun(model, Pair.of(z, PATH, PATH.t_min), grid, backwards=True)
    *_, back = reversible_heun(back_model or model, there.pair, grid)
    return there, back


@pytest.mark.parametrize("steps", [2, 10, 50])
@pytest.mark.parametrize("build", [grids.trailing, grids.uniform_lam])
def test_reversible_walk_returns_to_round_off(build, steps):
    grid = build(PATH, steps)
    _, back = there_and_back(three_modes().model(PATH), pictures(), grid)
    # kappa reaches 157, where float64 resolves 3e-14
    torch.testing.assert_close(back.pair.y, back.pair.w, rtol=0, atol=1e-11)
    torch.testing.assert_close(back.pair.z(PATH, PATH.t_min), pictures(), rtol=0, atol=1e-11)


def test_every_state_on_the_way_back_was_passed_on_the_way_there():
    model, grid = three_modes().model(PATH), grids.uniform_lam(PATH, 8)
    there = list(reversible_heun(model, Pair.of(pictures(), PATH, 0.0), grid, backwards=True))
    back = list(reversible_heun(model, there[-1].pair, grid))
    for forth, again in zip(there[-2::-1], back[:-1], strict=True):
        assert forth.t == again.t
        torch.testing.assert_close(forth.pair.w, again.pair.w, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_ddim_inversion_does_not_return_but_halves_its_error_with_twice_the_steps():
    model, z = three_modes().model(PATH), pictures(32)
    errors = []
    for steps in (40, 80):
        grid = grids.uniform_lam(PATH, steps)
        *_, noise = ddim_backwards(model, z, grid)
        errors.append(float((run("ddim", model, noise.z, grid) - z).norm(dim=1).mean()))
    assert errors[1] > 1e-3
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.25)


@pytest.mark.slow
def test_reversible_heun_is_of_second_order_and_ddim_of_first():
    mean, variance = torch.tensor([0.7, -0.2], dtype=torch.float64), 0.3
    model = Mixture(torch.ones(1).double(), mean[None], torch.tensor([variance]).double()).model(
        PATH
    )
    truth = gaussian_flow(pictures(), PATH, 0.0, 999.0, mean=mean, variance=variance)
    errors = {"ddim": [], "reversible": []}
    for steps in (40, 80):
        grid = grids.uniform_lam(PATH, steps)
        *_, ddim = ddim_backwards(model, pictures(), grid)
        there, _ = there_and_back(model, pictures(), grid)
        errors["ddim"].append(float((ddim.z - truth).norm()))
        errors["reversible"].append(float((there.pair.z(PATH, 999.0) - truth).norm()))
    orders = {name: np.log2(first / second) for name, (first, second) in errors.items()}
    assert orders["ddim"] == pytest.approx(1, abs=0.15)
    assert orders["reversible"] == pytest.approx(2, abs=0.15)


def test_way_back_under_another_world_lands_in_that_world():
    """The edit of a prompt, in a world where the truth is known."""
    source, target = three_modes(), Mixture(
        torch.ones(1).double(), torch.tensor([[2.0, 2.0]]).double(), torch.tensor([0.04]).double()
    )  # fmt: skip
    grid = grids.uniform_lam(PATH, 50)
    _, back = there_and_back(source.model(PATH), pictures(), grid, target.model(PATH))
    edited = back.pair.z(PATH, 0.0)
    assert float((edited - 2).norm(dim=1).max()) < 5 * 0.2
    assert back.pair.gap() < 0.1


def test_walks_count_one_evaluation_a_step_and_one_to_begin():
    calls = []
    net = three_modes().model(PATH).net
    model = Model(lambda x, label: calls.append(1) or net(x, label), PATH)
    there, back = there_and_back(model, pictures(), grids.uniform_lam(PATH, 9))
    assert there.nfe == back.nfe == 10
    assert len(calls) == model.nfe == 20


def test_a_grid_to_no_noise_stops_at_the_least_the_network_knows():
    *_, noise = ddim_backwards(three_modes().model(PATH), pictures(), grids.trailing(PATH, 10))
    assert (noise.i, noise.t) == (9, 999.0)
    assert noise.nfe == 10


def test_float32_network_returns_to_its_own_round_off():
    net = three_modes().model(PATH).net

    def single(x, label):
        return net(x.double(), label.double()).float()

    model = Model(single, PATH, dtype=torch.float32)
    _, back = there_and_back(model, pictures(), grids.trailing(PATH, 20))
    torch.testing.assert_close(back.pair.z(PATH, 0.0), pictures(), rtol=0, atol=1e-6)


def test_a_network_out_of_range_is_reported_with_its_time():
    model = Model(lambda x, label: torch.full_like(x, torch.inf), PATH)
    with pytest.raises(SamplerError, match=r"left the range of numbers by step \d+, t ="):
        list(ddim_backwards(model, pictures(), grids.trailing(PATH, 10)))
    with pytest.raises(SamplerError, match=r"left the range of numbers by step \d+, t ="):
        there_and_back(model, pictures(), grids.trailing(PATH, 10))
