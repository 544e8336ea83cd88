"""The reversible sequence: the nine invariants of one engine for four papers, and its refusals."""

import copy

import pytest
import torch
from torch import nn

from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.reversible import (
    MODES,
    Coupling,
    Reversible,
    ReversibleSequence,
    additive,
    compare,
    inverse_error,
    round_trip,
    suggest_anchor,
)
from engine.reversible.coupling import leapfrog, momentum


class Mlp(nn.Module):
    """A residual branch as transformers have it: LayerNorm, d -> 4d, GELU, 4d -> d."""

    def __init__(self, d: int, dropout: float = 0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(4 * d, d),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


class Mixed(nn.Module):
    """Reads any number of tensors of one shape."""

    def __init__(self, d: int):
        super().__init__()
        self.lin = nn.Linear(d, d)

    def forward(self, *given):
        return torch.tanh(self.lin(sum(given)))


def pairs(count, d=16, *, dtype=torch.float64, dropout=0.0, **options):
    torch.manual_seed(0)
    couplings = [c for _ in range(count) for c in additive(0, Mlp(d, dropout), Mlp(d, dropout))]
    return ReversibleSequence(couplings, **options).to(dtype)


def halves(d=16, batch=8, dtype=torch.float64, grad=False):
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(2, batch, d, generator=generator, dtype=torch.float64).to(dtype)
    return tuple(half.clone().requires_grad_(grad) for half in made)


def gradients(sequence, streams, ctx=(), seed=5):
    """Of a sum with fixed weights, by input and parameter."""
    torch.manual_seed(seed)
    out, tapped = sequence(streams, ctx)
    weights = torch.linspace(0.5, 1.5, out[0].shape[-1], dtype=out[0].dtype)
    loss = sum((s.square() * weights).mean() for s in (*out, *tapped))
    asked = [t for t in (*streams, *ctx) if t.requires_grad]
    asked += [p for p in sequence.parameters() if p.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, asked)]


def largest(found, truth):
    size = max(float(t.abs().max()) for t in truth)
    return max(float((a - b).abs().max()) for a, b in zip(found, truth, strict=True)) / size


# ---------------------------------------------------------------------- 1, the inverse


@pytest.mark.parametrize("count", [1, 4, 16])
def test_the_inverse_gives_the_streams_back(count):
    sequence, x = pairs(count), halves()
    assert isinstance(sequence.given(), Reversible)
    found = round_trip(sequence.given(), x, steps=2 * count)
    assert found.relative_error < 1e-12
    assert found.exactness in (Exactness.ROUND_OFF, Exactness.BITWISE)


@pytest.mark.parametrize(("count", "most"), [(1, 3e-7), (4, 1e-6), (16, 2e-6), (64, 5e-6)])
def test_float32_errors_grow_slowly_where_nothing_is_scaled(count, most):
    sequence, x = pairs(count, 128, dtype=torch.float32), halves(128, 64, torch.float32)
    assert round_trip(sequence.given(), x).relative_error < most


def test_a_contraction_multiplies_errors_by_its_inverse():
    """With F = 0 the streams shrink by 0.1 a step, so a disturbance comes back ten times larger."""
    torch.manual_seed(0)
    shrink = [Coupling(Mixed(4), i % 2, (1 - i % 2,), scale=0.1) for i in range(6)]
    sequence = ReversibleSequence(shrink).double()
    nn.init.zeros_(shrink[0].fn.lin.weight)
    for coupling in shrink:
        nn.init.zeros_(coupling.fn.lin.weight)
        nn.init.zeros_(coupling.fn.lin.bias)
    x = halves(4)
    y, _ = sequence(x)
    disturbed = sequence.inverse((y[0] + 1e-9, y[1]))
    # Three of the six couplings rewrite stream 0.
    assert compare(x, disturbed).largest_error == pytest.approx(1e-6, rel=1e-5)
    assert inverse_error(shrink, torch.float64) == pytest.approx(
        torch.finfo(torch.float64).eps * 1e6, rel=1e-9
    )


def test_the_trace_passes_the_same_streams_both_ways():
    sequence, x = pairs(3), halves()
    there = [x, *(streams for _, streams in sequence.trace(x))]
    back = [there[-1], *(s for _, s in sequence.trace(there[-1], backward=True))]
    assert [k for k, _ in sequence.trace(x, backward=True)] == [5, 4, 3, 2, 1, 0]
    for a, b in zip(there, back[::-1], strict=True):
        assert compare(a, b).relative_error < 1e-13


def test_reading_a_trace_leaves_the_mode_of_gradients_alone():
    sequence, x = pairs(1), halves(grad=True)
    for _, streams in sequence.trace(x):
        assert torch.is_grad_enabled()
        assert streams[0].grad_fn is None


# ---------------------------------------------------------------------- 2, gradients


class Step(nn.Module):
    """One weight at every step, told which step it is."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64))

    def forward(self, x, c, *, step_id=0):
        return torch.sin(x @ self.w + c * (1 + step_id))


def everything_at_once(mode="reversible", anchor_every=None):
    """Learnable scale, context with gradient, taps, a = -1, a = 0.1, tied weights."""
    tied = Step()
    scale = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
    couplings = [
        Coupling(tied, 0, (1,), ctx=(0,), step_id=0),
        Coupling(Mixed(2).double(), 1, (0, 2), scale=-1.0),
        Coupling(tied, 2, (0,), scale=scale, ctx=(0,), step_id=1),
        Coupling(tied, 0, (2,), scale=0.1, ctx=(0,), step_id=2),
        Coupling(Mixed(2).double(), 1, (0,), scale=scale, ctx=(0,)),
    ]
    # An inner stream, one still an input, one already final, one twice.
    taps = [(0, 0), (0, 2), (2, 2), (0, 0), (4, 1)]
    return ReversibleSequence(couplings, taps=taps, mode=mode, anchor_every=anchor_every)


@pytest.mark.slow
@pytest.mark.parametrize("anchor_every", [None, 2, 1])
def test_gradcheck_of_everything_at_once(anchor_every):
    torch.manual_seed(0)
    sequence = everything_at_once(anchor_every=anchor_every)
    made = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)

    def outputs(made, *parameters):
        out, tapped = sequence(tuple(made[:3].unbind()), (made[3],))
        return *out, *tapped

    assert torch.autograd.gradcheck(outputs, (made, *sequence.parameters()), fast_mode=False)


@pytest.mark.parametrize("anchor_every", [None, 2])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "plain"])
def test_gradients_are_those_of_plain_autograd(mode, anchor_every):
    torch.manual_seed(0)
    plain = everything_at_once("plain")
    other = everything_at_once(mode, anchor_every)
    other.load_state_dict(plain.state_dict())
    made = torch.randn(4, 3, 2, dtype=torch.float64).unbind()
    streams = tuple(t.clone().requires_grad_() for t in made[:3])
    ctx = (made[3].clone().requires_grad_(),)
    assert largest(gradients(other, streams, ctx), gradients(plain, streams, ctx)) < 2e-15


@pytest.mark.parametrize("count", [2, 8, 32])
def test_float32_gradients_agree_to_round_off(count):
    plain = pairs(count, 32, dtype=torch.float32, mode="plain")
    back = pairs(count, 32, dtype=torch.float32)
    x = halves(32, dtype=torch.float32)
    assert largest(gradients(back, x), gradients(plain, x)) < 1e-6


def test_parameters_get_gradients_though_no_stream_asks():
    sequence = pairs(2)
    out, _ = sequence(halves())
    (out[0].sum() + out[1].sum()).backward()
    assert all(p.grad is not None for p in sequence.parameters())


def test_frozen_parts_get_no_gradient_and_the_others_the_right_one():
    found = []
    for mode in ("plain", "reversible"):
        sequence = pairs(4, mode=mode)
        for coupling in sequence.couplings[:4]:
            coupling.requires_grad_(False)
        found.append(gradients(sequence, halves()))
    assert largest(*found) < 2e-15


def test_one_output_alone_may_be_used():
    found = []
    for mode in ("plain", "reversible"):
        sequence, x = pairs(3, mode=mode), halves(grad=True)
        found.append(torch.autograd.grad(sequence(x)[0][1].sum(), x))
    assert largest(*found) < 2e-15


def test_a_stream_without_coupling_passes_through():
    torch.manual_seed(0)
    sequence = ReversibleSequence([Coupling(Mixed(4).double(), 0, (1,))])
    streams = tuple(t.clone().requires_grad_() for t in torch.randn(3, 2, 4).double().unbind())
    out, _ = sequence(streams)
    assert torch.equal(out[2], streams[2])
    (out[0].sum() + 3 * out[2].sum()).backward()
    assert torch.equal(streams[2].grad, torch.full((2, 4), 3.0, dtype=torch.float64))


def test_backward_twice_gives_the_same_gradient_twice():
    sequence, x = pairs(2), halves(grad=True)
    loss = sum(s.sum() for s in sequence(x)[0])
    first = torch.autograd.grad(loss, x, retain_graph=True)
    assert all(torch.equal(*both) for both in zip(first, torch.autograd.grad(loss, x), strict=True))


# ---------------------------------------------------------------------- 3, dropout and autocast


def test_dropout_is_replayed():
    found = []
    for mode in MODES:
        sequence = pairs(4, 32, dtype=torch.float32, dropout=0.1, mode=mode)
        found.append(gradients(sequence, halves(32, dtype=torch.float32)))
    for other in found[1:]:
        assert largest(other, found[0]) < 1e-6


def test_dropout_written_as_a_function_is_replayed_too():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(8, 8).double()

        def forward(self, x):
            return nn.functional.dropout(self.lin(x), 0.3, self.training)

    torch.manual_seed(0)
    f, g = Functional(), Functional()
    found = [
        gradients(ReversibleSequence(additive(0, f, g), mode=mode), halves(8))
        for mode in ("plain", "reversible")
    ]
    assert largest(*found) < 2e-15


def test_without_the_noise_dropout_would_be_wrong():
    found = []
    for mode, preserve in (("plain", "auto"), ("reversible", False)):
        sequence = pairs(2, dropout=0.5, mode=mode, preserve_rng=preserve)
        found.append(gradients(sequence, halves()))
    assert largest(*found) > 1e-2


def test_autocast_is_entered_again():
    """F in bfloat16, streams in float32: the last bit of a stream flips roundings of F."""
    found = []
    for mode in ("plain", "reversible"):
        sequence = pairs(4, 32, dtype=torch.float32, mode=mode)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(sequence, halves(32, dtype=torch.float32)))
    assert largest(*found) < 2e-3
    exact = gradients(pairs(4, 32, dtype=torch.float32), halves(32, dtype=torch.float32))
    assert largest(found[1], exact) > 1e-5, "Autocast did nothing."


def test_a_shared_weight_under_autocast_keeps_its_gradient():
    torch.manual_seed(0)
    shared = Mixed(8)
    found = []
    for mode in ("plain", "reversible"):
        sequence = ReversibleSequence(additive(0, shared, shared) * 2, mode=mode)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(sequence, halves(8, dtype=torch.float32)))
    assert largest(*found) < 2e-3


# ---------------------------------------------------------------------- 5, the user's noise


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_backward_leaves_the_generator_where_it_was(dropout):
    sequence = pairs(2, dropout=dropout)
    out, _ = sequence(halves(grad=True))
    state = torch.get_rng_state()
    out[0].sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_forward_draws_as_many_numbers_as_the_plain_run():
    states = []
    for mode in MODES:
        sequence = pairs(2, dropout=0.2, mode=mode)
        torch.manual_seed(3)
        sequence(halves(grad=True))
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


# ---------------------------------------------------------------------- 6 and 7, one state dict


def test_all_modes_have_the_same_loss_and_keys():
    truth = pairs(3, mode="plain")
    for mode in MODES:
        other = pairs(3, mode=mode)
        assert list(other.state_dict()) == list(truth.state_dict())
        other.load_state_dict(truth.state_dict())
        x = halves(grad=True)
        assert torch.allclose(other(x)[0][0], truth(x)[0][0], rtol=0, atol=1e-14)


def test_a_copy_has_weights_of_its_own():
    sequence = everything_at_once()
    twin = copy.deepcopy(sequence)
    assert not {id(p) for p in sequence.parameters()} & {id(p) for p in twin.parameters()}
    nn.init.constant_(twin.couplings[2].scale, 0.25)
    assert twin.couplings[4].scale[0] == 0.25, "Tied scales stay tied."


def test_assigned_weights_are_used():
    sequence, other = everything_at_once(), everything_at_once()
    sequence.load_state_dict({k: v.clone() for k, v in other.state_dict().items()}, assign=True)
    streams = tuple(torch.ones(3, 3, 2, dtype=torch.float64).unbind())
    ctx = (torch.ones(3, 2, dtype=torch.float64),)
    assert torch.equal(sequence(streams, ctx)[0][2], other(streams, ctx)[0][2])


# ---------------------------------------------------------------------- other architectures


def test_leapfrog_and_momentum_are_lists_of_couplings():
    torch.manual_seed(0)
    for couplings in (leapfrog(Mixed(4), 0.1, 5), momentum(Mixed(4), 0.9) * 4):
        found = []
        for mode in ("plain", "reversible"):
            sequence = ReversibleSequence(couplings, mode=mode).double()
            assert round_trip(sequence.given(), halves(4)).relative_error < 1e-12
            found.append(gradients(sequence, halves(4, grad=True)))
        assert largest(*found) < 1e-13


def test_leapfrog_of_a_spring_keeps_its_energy():
    class Spring(nn.Module):
        def forward(self, q):
            return -q

    sequence = ReversibleSequence(leapfrog(Spring(), 0.1, 200))
    q, p = sequence((torch.ones(1).double(), torch.zeros(1).double()))[0]
    assert float(q**2 + p**2) == pytest.approx(1.0, abs=3e-3)


# ---------------------------------------------------------------------- refusals


def test_batch_normalisation_is_refused_unless_frozen():
    with pytest.raises(BadInput, match="batch normalisation") as caught:
        additive(0, nn.BatchNorm1d(4), Mixed(4))
    assert "GroupNorm" in caught.value.advice
    sequence = ReversibleSequence(additive(0, nn.BatchNorm1d(4).eval(), Mixed(4))).eval()
    sequence(halves(4, dtype=torch.float32))
    with pytest.raises(BadInput, match="batch normalisation"):
        sequence.train()(halves(4, dtype=torch.float32))


@pytest.mark.parametrize("mode", MODES)
def test_an_operation_in_place_is_refused(mode):
    f = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))
    sequence = ReversibleSequence(additive(0, f, Mixed(4)), mode=mode)
    with pytest.raises(BadInput, match="writes into its input"):
        sequence(halves(4, dtype=torch.float32))


def test_an_operation_in_place_before_the_sequence_is_fine():
    x = halves(4, grad=True)
    rectified = tuple(torch.relu_(half * 1) for half in x)
    sequence = ReversibleSequence(additive(0, Mixed(4), Mixed(4))).double()
    sequence(rectified)[0][0].sum().backward()
    assert x[0].grad is not None


def test_changed_weights_between_forward_and_backward_are_noticed():
    sequence = pairs(1)
    out, _ = sequence(halves())
    with torch.no_grad():
        next(sequence.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out[0].sum().backward()


def test_a_second_derivative_is_refused():
    x = halves(grad=True)
    out, _ = pairs(1)(x)
    with pytest.raises(BadInput, match="no second derivative"):
        torch.autograd.grad(out[0].sum(), x, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_streams_in_half_precision_are_refused(dtype):
    with pytest.raises(BadInput, match="half precision"):
        pairs(1, dtype=dtype)(halves(dtype=dtype))


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0])])
def test_a_scale_that_loses_the_stream_is_refused(scale):
    with pytest.raises(BadInput, match="come back"):
        Coupling(Mixed(2), 0, (1,), scale=scale)


def test_a_coupling_may_not_read_what_it_rewrites():
    with pytest.raises(BadInput, match="which it rewrites"):
        Coupling(Mixed(2), 0, (0, 1))


def test_a_sequence_with_active_dropout_is_not_walked_back():
    sequence, x = pairs(1, dropout=0.5), halves()
    y, _ = sequence(x)
    with pytest.raises(BadInput, match="walked back"):
        sequence.inverse(y)
    sequence.eval()
    assert compare(x, sequence.inverse(sequence(x)[0])).relative_error < 1e-13


def test_wrong_numbers_of_streams_context_and_taps_are_told():
    sequence = ReversibleSequence([Coupling(Mixed(4), 0, (1,), ctx=(0,))], taps=[(1, 0)])
    one, two = halves(4)[:1], halves(4)
    with pytest.raises(BadInput, match="2 streams"):
        sequence(one, one)
    with pytest.raises(BadInput, match="more context"):
        sequence(two)
    with pytest.raises(BadInput, match="to tap"):
        sequence(two, one)
    with pytest.raises(BadInput, match="anchor_every"):
        ReversibleSequence([], anchor_every=0)


def test_without_gradients_nothing_is_kept():
    with torch.no_grad():
        out, _ = pairs(1)(halves())
    assert out[0].grad_fn is None
    with torch.inference_mode():
        assert pairs(1)(halves())[0][0].is_inference()


# ---------------------------------------------------------------------- anchors


def test_an_anchor_is_suggested_where_the_error_would_pass_the_bound():
    assert suggest_anchor([1.0] * 24) == 24
    # eps is 1.2e-7, so that three couplings at 0.1 reach 1.2e-4 and four 1.2e-3.
    assert suggest_anchor([0.1] * 24, tol=1e-3) == 3
    assert suggest_anchor([0.1, 1.0] * 12, tol=1e-3) == 6
    assert suggest_anchor([1e-9] * 4) == 1
    assert suggest_anchor([0.1] * 24, torch.float64, tol=1e-3) == 12


@pytest.mark.parametrize("tol", [0.0, 1e-9, 1.0, float("nan")])
def test_a_bound_that_no_anchor_can_keep_is_refused(tol):
    with pytest.raises(BadInput, match="cannot be asked for"):
        suggest_anchor([0.1], tol=tol)


def test_anchors_mend_the_gradients_of_a_contraction():
    found = {}
    torch.manual_seed(0)
    fns = [Mlp(16) for _ in range(16)]
    for name, mode, anchor in (("plain", "plain", None), ("pure", "reversible", None),
                               ("anchored", "reversible", 2)):  # fmt: skip
        couplings = [Coupling(fn, i % 2, (1 - i % 2,), scale=0.1) for i, fn in enumerate(fns)]
        sequence = ReversibleSequence(couplings, mode=mode, anchor_every=anchor).float()
        found[name] = gradients(sequence, halves(dtype=torch.float32))
    assert largest(found["pure"], found["plain"]) > 1e-3
    assert largest(found["anchored"], found["plain"]) < 1e-5
