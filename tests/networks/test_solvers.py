"""Solvers as couplings: golden arrays, orders, ways back, gradients, other libraries."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.golden import check_all
from engine.core.job import finish
from engine.networks import _solvers as solvers
from engine.networks._solvers import Times, reversible_heun
from engine.networks.neural_de import golden
from engine.networks.neural_de.fields import Counted, Learned, Planar, drawn_weights

START = torch.tensor([[1.2, 0.0]]).double()


@pytest.mark.slow
@pytest.mark.golden
def test_three_libraries_and_this_one_agree():
    for case in finish(check_all(golden.CHECKS)).cases:
        assert case.error <= 1e-12, case


def ends(sequence, start=START):
    return sequence((start, start.clone()))[0]


def learned(size=4, width=8, seed=0):
    field = Learned(size, width).double()
    drawn_weights(field, seed)
    return field


# ---------------------------------------------------------------------- what the mathematics says


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "order"), [("reversible_heun", 2), ("mccallum_foster", 2), ("heun", 2), ("rk4", 4)]
)
def test_the_error_falls_with_the_order_of_the_method(name: str, order: int):
    field = Planar("pendulum")
    *_, truth = solvers.solve(solvers.rk4, field, Times.even(2.0, 4000), START)
    errors = []
    for steps in (40, 80):
        times = Times.even(2.0, steps)
        if name in ("reversible_heun", "mccallum_foster"):
            end = ends(getattr(solvers, name)(field, times))[0]
        else:
            *_, end = solvers.solve(getattr(solvers, name), field, times, START)
        errors.append(float((end - truth).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("time", [10, 100])
def test_a_pendulum_comes_back_where_ordinary_heun_misses(time: int):
    field, times = Planar("pendulum"), Times.even(float(time), 20 * time)
    sequence = reversible_heun(field, times)
    back = sequence.inverse(ends(sequence))
    assert float((back[0] - START).abs().max()) < 1e-12
    *_, end = solvers.solve(solvers.heun, field, times, START)
    *_, missed = solvers.solve_back(solvers.heun, field, times, end)
    assert float((missed - START).abs().max()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("steps", [16, 1000])
def test_kicks_on_a_grid_come_back_in_every_bit(steps: int):
    field = Learned(2, 8).double()
    drawn_weights(field, 0)
    start = (START / solvers.GRID).round() * solvers.GRID
    sequence = reversible_heun(field, Times.even(3.0, steps), grid=solvers.GRID)
    with torch.no_grad():
        end = ends(sequence, start)
        free = ends(reversible_heun(field, Times.even(3.0, steps)), start)
    back = sequence.inverse(end)
    assert torch.equal(back[0], start)
    assert torch.equal(back[1], start)
    assert float((end[0] - free[0]).abs().max()) < 1e-8


def test_a_solve_costs_one_evaluation_a_step_and_one_more():
    field = Counted(Planar("pendulum"))
    ends(reversible_heun(field, Times.even(1.0, 50)))
    assert field.evaluations == 51
    field.evaluations = 0
    ends(reversible_heun(field, Times.even(1.0, 50), every=10))
    assert field.evaluations == 100


def test_unequal_steps_and_tapped_states_are_the_same_solve():
    times = Times((0.0, 0.1, 0.25, 0.3, 0.9))
    field = learned()
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        whole = ends(reversible_heun(field, times), start)
        apart = reversible_heun(field, times, every=2)
        last, states = apart((start, start.clone()))
    assert len(states) == 2
    assert torch.allclose(whole[0], last[0], atol=1e-14)
    assert torch.equal(states[1], last[0])


@pytest.mark.slow
def test_decay_grows_a_parasitic_mode_and_c_below_one_cures_it():
    """y' = -y at h = 0.05, 400 steps; the exact end is exp(-20) = 2.1e-9."""
    field = nn.Module()
    field.forward = lambda t, y: -y
    times, one = Times.even(20.0, 400), torch.ones(1, 1).double()
    found = {
        c: float(ends(solvers.mccallum_foster(field, times, c=c), one)[0].abs())
        for c in (1.0, 0.99, 0.9)
    }
    assert found[1.0] == pytest.approx(3.7e3, rel=0.05)
    assert found[0.99] == pytest.approx(6.5e1, rel=0.05)
    assert found[0.9] == pytest.approx(2.1e-9, rel=0.05)
    heun = ends(reversible_heun(field, times), one)
    assert float((heun[1] - heun[0]).abs()) > 1e3


# ---------------------------------------------------------------------- gradients


def gradients(end_of, field, start):
    start = start.clone().requires_grad_()
    end = end_of(start)
    weights = torch.linspace(-1, 1, end.numel()).double().reshape(end.shape)
    return torch.autograd.grad((end * weights).sum(), [start, *field.parameters()])


@pytest.mark.parametrize("maker", [reversible_heun, solvers.mccallum_foster])
@pytest.mark.parametrize("mode", ["checkpoint", "reversible"])
def test_every_mode_has_the_gradient_of_the_solve(maker, mode):
    field, times = learned(), Times.even(1.0, 12)
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()

    def end_of(kept):
        return lambda y: maker(field, times, mode=kept)((y, y * 1.0))[0][0]

    wanted = gradients(end_of("plain"), field, start)
    for a, b in zip(gradients(end_of(mode), field, start), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_continuous_adjoint_is_off_by_the_order_of_its_method():
    field = learned()
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()
    errors = []
    for steps in (16, 32):
        times = Times.even(2.0, steps)

        def through(y, times=times):
            *_, end = solvers.solve(solvers.midpoint, field, times, y)
            return end

        wanted = gradients(through, field, start)
        found = gradients(lambda y, times=times: solvers.adjoint(field, times, y), field, start)
        errors.append(max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)))
    assert errors[0] > 1e-7
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.6)


# ---------------------------------------------------------------------- other libraries


class WithTimes(nn.Module):
    """A field as torchdiffeq asks it: with tensors for times."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, t, y):
        return self.field(float(t.detach()), y)


def test_torchdiffeq_gives_the_same_adjoint():
    library = pytest.importorskip("torchdiffeq")
    field = learned()
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(2)).double()
    times, steps = Times.even(1.0, 10), {"step_size": 0.1}

    def theirs(y):
        # Two times alone: at every time that is asked for it starts the way back afresh.
        return library.odeint_adjoint(
            WithTimes(field), y, torch.tensor([0.0, 1.0]).double(), method="midpoint",
            options=steps, adjoint_options=steps, adjoint_params=tuple(field.parameters()),
        )[-1]  # fmt: skip

    wanted = gradients(theirs, field, start)
    found = gradients(lambda y: solvers.adjoint(field, times, y), field, start)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.slow
def test_torchdiffeq_solves_to_the_same_end():
    library = pytest.importorskip("torchdiffeq")
    field = learned()
    start = torch.randn(2, 4, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        end = ends(reversible_heun(field, Times.even(1.0, 2000)), start)[0]
        wanted = library.odeint(
            WithTimes(field), start, torch.tensor([0.0, 1.0]).double(), rtol=1e-9
        )[-1]
    assert torch.allclose(end, wanted, atol=1e-5)


def test_torchsde_walks_the_same_noise():
    library = pytest.importorskip("torchsde")
    made = golden.NoisyField(
        {f"param_{n}": np.random.default_rng(0).normal(size=s) for n, s in
         (("W1", (6, 3)), ("W2", (3, 6)), ("V", (3, 3)), ("v0", 3))}
    )  # fmt: skip
    times = Times.even(1.0, 20)
    dw = solvers.increments(
        times, torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    )

    class Theirs(nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def f(self, t, y):
            return made.drift_and_diffusion(float(t), y)[0]

        def g(self, t, y):
            return made.drift_and_diffusion(float(t), y)[1]

    class Walk(library.BaseBrownian):
        dtype, device, shape, levy_area_approximation = dw.dtype, dw.device, (4, 3), "none"

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            return dw[round(float(ta) * 20)]

        def __repr__(self):
            return "Walk"

    start = torch.zeros(4, 3).double()
    with torch.no_grad():
        wanted = library.sdeint(
            Theirs(), start, torch.tensor(times.values, dtype=torch.float64), bm=Walk(), dt=0.05,
            method="reversible_heun",
        )  # fmt: skip
        sequence = reversible_heun(made, times, is_noisy=True, every=1)
        _, states = sequence((start, start.clone()), (dw,))
    assert torch.allclose(torch.stack(states), wanted[1:], atol=1e-12)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("values", "match"),
    [((0.0,), "make no path"), ((), "make no path"), ((0.0, 1.0, 1.0), "must increase"),
     ((0.0, 2.0, 1.0), "row 3"), ((0.0, math.nan), "must increase")],
)  # fmt: skip
def test_times_that_do_not_increase_are_refused_with_their_row(values, match):
    with pytest.raises(BadInput, match=match):
        Times(values)
