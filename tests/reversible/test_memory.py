"""Bytes and operations, against networks whose answer is known."""

import threading
import time

import pytest
import torch
from torch import nn

from engine.core.job import finish
from engine.reversible import ReversibleSequence, additive
from engine.reversible.memory import counting, kept_bytes, measure
from tests.reversible.test_sequence import Mlp, halves, pairs

B, D, L = 64, 256, 7


def deep(activation):
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(L) for layer in (nn.Linear(D, D), activation())))


def kept_by(network, x):
    with kept_bytes(network, [x]) as kept:
        network(x)
    return kept.total


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("activation", "times"), [(nn.Tanh, L), (nn.ReLU, L), (nn.GELU, 2 * L - 1)]
)
def test_kept_bytes_where_the_answer_is_known(activation, times, device):
    """GELU keeps its input, and the next Linear its output; the last output is kept by nobody."""
    network, x = deep(activation).to(device), torch.zeros(B, D, device=device)
    assert kept_by(network, x) == times * B * D * 4


def test_peak_and_live_bytes_where_the_answer_is_known():
    network, x = deep(nn.Tanh), torch.randn(B, D)
    cost = measure(lambda: network(x).sum(), network, [x])
    assert cost.kept_bytes == L * B * D * 4
    assert cost.live_bytes == L * B * D * 4
    # Of the backward pass at its start: all that is kept, one gradient of an activation, and that
    # of a weight; both are larger than what the forward pass has in flight.
    assert cost.peak_bytes >= (L + 1) * B * D * 4
    assert cost.peak_bytes <= (L + 2) * B * D * 4 + 2 * D * D * 4
    assert cost.gradient_bytes == L * (D * D + D) * 4
    # 2 B D D of the forward pass, the same for each of two gradients; none for the input's.
    assert cost.flops == (3 * L - 1) * 2 * B * D * D
    assert not cost.is_computed


def test_meta_tensors_give_the_same_counts_without_arithmetic():
    counts = []
    for device in ("cpu", "meta"):
        sequence = pairs(3, dtype=torch.float32).to(device)
        x = tuple(half.to(device) for half in halves(dtype=torch.float32))
        counts.append(measure(lambda s=sequence, x=x: s(x)[0][0].sum(), sequence, x))
    assert counts[1].is_computed
    assert not counts[0].is_computed
    for name in ("kept_bytes", "live_bytes", "flops", "gradient_bytes"):
        assert getattr(counts[0], name) == getattr(counts[1], name), name


def test_counting_tells_how_far_it_is_and_counts_the_same():
    network, x = deep(nn.Tanh), torch.randn(B, D)
    told = []

    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.3)
            return network(x)

    counted = finish(counting(lambda: Slow()(x).sum(), network, [x], told.append))
    assert told
    assert counted == measure(lambda: network(x).sum(), network, [x])


def test_counting_that_is_closed_ends_before_the_next_operation():
    network, x = deep(nn.Tanh), torch.randn(B, D)
    reached = []

    def endless():
        for k in range(10_000):
            reached.append(k)
            time.sleep(0.01)
            network(x)
        return network(x).sum()

    threads = threading.active_count()
    running = counting(endless, network, [x], lambda operations: operations)
    next(running)
    running.close()
    assert len(reached) < 200
    assert threading.active_count() == threads
    assert all(p.grad is None for p in network.parameters())


def costs(count, mode, anchor_every=None, dropout=0.0):
    sequence = pairs(
        count, 32, dtype=torch.float32, mode=mode, anchor_every=anchor_every, dropout=dropout
    )
    x = halves(32, 64, torch.float32, grad=True)
    return measure(lambda: sum(s.sum() for s in sequence(x)[0]), sequence, x)


@pytest.mark.slow
def test_kept_bytes_are_constant_in_depth_to_the_byte():
    stream = 64 * 32 * 4
    assert [costs(count, "reversible").kept_bytes for count in (2, 8, 32)] == [2 * stream] * 3
    plain = [costs(count, "plain").kept_bytes for count in (2, 8, 32)]
    assert plain[2] > 15 * plain[0]
    # Per coupling its output and the stream it read, but for the first inputs and last outputs.
    assert costs(8, "checkpoint").kept_bytes == (2 * 8 - 1) * stream


@pytest.mark.slow
def test_the_peak_without_the_list_of_gradients_is_constant_in_depth():
    peaks = [costs(count, "reversible") for count in (2, 8, 32)]
    rest = [cost.peak_bytes - cost.gradient_bytes for cost in peaks]
    assert max(rest) - min(rest) <= 64 * 32 * 4
    anchored = costs(32, "reversible", anchor_every=8)
    assert anchored.peak_bytes < peaks[2].peak_bytes


@pytest.mark.slow
def test_recomputation_costs_a_third_more_operations():
    """Plain 1 + 2, reversible 1 + 1 + 2; a checkpoint stops once what was saved is there again."""
    plain, back = costs(8, "plain").flops, costs(8, "reversible").flops
    assert back == pytest.approx(4 / 3 * plain, rel=1e-12)
    assert plain < costs(8, "checkpoint").flops < back


@pytest.mark.slow
def test_selective_checkpoints_keep_more_and_compute_less():
    plain, part, whole = (costs(8, mode) for mode in ("plain", "selective", "checkpoint"))
    assert part.flops < whole.flops
    assert whole.live_bytes < part.live_bytes < plain.live_bytes


def test_the_state_of_the_generator_is_counted():
    """5056 bytes for each coupling that draws; the others keep none."""
    without, with_noise = costs(4, "reversible"), costs(4, "reversible", dropout=0.1)
    assert with_noise.kept_bytes - without.kept_bytes == 8 * 5056


def test_a_storage_counts_once_and_parameters_not_at_all():
    network = nn.Linear(D, D)
    x = torch.randn(B, D, requires_grad=True)
    with kept_bytes(network, [x]) as kept:
        y = network(x).tanh()
        _ = y * y + y.exp() * y.view(D, B).T.reshape(B, D).exp()
    # tanh and exp keep what they give: y, and two exponentials. Views and squares add nothing.
    assert kept.total == 3 * B * D * 4


def test_gradients_are_left_as_they_were():
    sequence = ReversibleSequence(additive(0, Mlp(4), Mlp(4)))
    x = halves(4, dtype=torch.float32)
    measure(lambda: sequence(x)[0][0].sum(), sequence, x)
    assert all(parameter.grad is None for parameter in sequence.parameters())
