"""The memory lab: every architecture under every policy, one's own blocks, a picture and back."""

import numpy as np
import pytest
import torch

from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.core.job import Failed, Job
from engine.networks.memory_lab import architectures as arch
from engine.networks.memory_lab import own
from engine.networks.memory_lab.algorithm import POLICIES
from engine.reversible import ReversibleSequence, compare

TARGET = "engine.networks.memory_lab.algorithm"
WRITTEN = "x1 = 0.9 x1 + norm | linear 2 | tanh | linear 1 (x2, x3)\nx3 += linear 1 | relu (x1)"


@pytest.mark.parametrize("name", arch.names())
def test_every_architecture_comes_back_in_float64(name: str):
    made = arch.built(name, 2, 8, 2, 0, WRITTEN)
    for coupling in made.couplings:
        coupling.double().eval()
    streams, ctx = ([t.double() for t in ts] for ts in (made.streams, made.ctx))
    sequence = ReversibleSequence(made.couplings).eval()
    with torch.no_grad():
        end, _ = sequence(tuple(streams), tuple(ctx))
    back = sequence.inverse(end, tuple(ctx))
    assert compare(tuple(streams), back).largest_error < 1e-9
    assert len(made.couplings) == 2 * made.unit


@pytest.mark.slow
def test_one_bar_does_not_move(run_job):
    params = {"depths": [2, 8, 16], "width": 16, "batch": 4}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    kept = {(p.policy, p.depth): p.kept_bytes for p in shown.points}
    assert kept["reversible", 2] == kept["reversible", 8] == kept["reversible", 16]
    for name in ("plain", "checkpoint", "sqrt", "selective"):
        assert kept[name, 2] < kept[name, 16], name
    assert max(p.gradient_error for p in shown.points) < 1e-5
    assert any("Checkpoints per block alone" in note for note in shown.notes)


@pytest.mark.slow
def test_a_contraction_is_told_to_lose_its_gradients(run_job):
    params = {"architecture": "meft-3", "depths": [8], "width": 16, "batch": 2}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    error = {p.policy: p.gradient_error for p in shown.points}
    assert error["reversible"] > 1e-2 > 1e-4 > error["anchored"]
    assert any("without anchors" in note for note in shown.notes)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_precisions_are_measured(run_job, precision: str):
    params = {"depths": [2], "width": 8, "batch": 2, "precision": precision}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    size = 8 if precision == "float64" else 4
    kept = next(p.kept_bytes for p in shown.points if p.policy == "reversible")
    assert kept == 2 * 2 * 8 * size
    assert {p.policy for p in shown.points} == set(POLICIES)


def test_dropout_in_ones_own_block_is_replayed(run_job):
    block = "x1 += linear 2 | dropout 0.3 | linear 1 (x2)\nx2 += linear 1 | gelu (x1)"
    params = {"architecture": "own", "blocks": block, "depths": [3], "width": 8, "batch": 4}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    assert max(p.gradient_error for p in shown.points) < 1e-5


def test_seconds_are_measured_when_asked_for(run_job):
    params = {"depths": [1], "width": 8, "batch": 2, "timed": True, "policies": ["plain"]}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    assert shown.points[0].seconds > 0


# ---------------------------------------------------------------------- own blocks


def test_a_block_is_read_as_written():
    first, second = own.parsed(WRITTEN)
    assert (first.target, first.reads, first.scale) == (0, (1, 2), 0.9)
    assert [name for name, _ in first.layers] == ["norm", "linear", "tanh", "linear"]
    assert (second.target, second.reads, second.scale) == (2, (0,), 1.0)
    assert own.streams((first, second)) == 3


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "0"),
        ("x1 += linear 1 (x1)", "rewrites"),
        ("x1 += linear 4 (x2)", "back to the width"),
        ("x1 += conv 3 (x2)", "no layer"),
        ("x1 += linear 99 (x2)", "no layer"),
        ("x1 += (x2)", "0 layers"),
        ("x9 += gelu (x1)", "beyond"),
        ("x0 += gelu (x1)", "beyond"),
        ("x1 = 0 x1 + gelu (x2)", "scales by"),
        ("x1 = 2 x2 + gelu (x2)", "no coupling"),
        ("__import__('os')", "no coupling"),
        ("x1 += gelu (x2)\n" * 40, "40"),
        ("x" * 5000, "2,000"),
    ],
)
def test_what_is_no_block_is_refused_with_its_line(text: str, match: str):
    with pytest.raises(BadInput, match=match):
        own.parsed(text)


# ---------------------------------------------------------------------- the picture


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_picture_comes_back_from_the_output(run_job, precision: str):
    params = {"depth": 12, "width": 4, "precision": precision}
    shown = run_job(Job(f"{TARGET}:walk", params, seed=0))[-1].result
    assert shown.equal_pixels == 1.0
    assert shown.trip.exactness in (Exactness.ROUND_OFF, Exactness.BITWISE)
    assert (shown.backward[-1].picture == shown.picture).all()
    assert (shown.forward[-1].picture != shown.picture).mean() > 0.5
    assert shown.kept_bytes * 20 < shown.plain_bytes


def test_ones_own_picture_is_walked(run_job):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    params = {"depth": 2, "width": 4, "picture": picture}
    shown = run_job(Job(f"{TARGET}:walk", params, seed=0))[-1].result
    assert shown.picture.shape == (128, 128, 3)
    assert shown.equal_pixels == 1.0


@pytest.mark.parametrize(
    ("action", "params", "match"),
    [
        ("run", {"architecture": "vgg"}, "vgg"),
        ("run", {"architecture": "own", "blocks": "x1"}, "no coupling"),
        ("run", {"architecture": "meft-1", "width": 10}, "heads"),
        ("run", {"depths": [10**9]}, "depths"),
        ("run", {"depths": []}, "depths"),
        ("run", {"depths": [64], "width": 512, "batch": 64}, "too much"),
        ("run", {"policies": []}, "1 to 6 values"),
        ("run", {"precision": "float8"}, "float8"),
        ("walk", {"depth": 0}, "depth"),
        ("walk", {"photograph": "../x"}, "photograph"),
    ],
)
def test_bad_settings_end_in_a_sentence(run_job, action: str, params: dict, match: str):
    end = run_job(Job(f"{TARGET}:{action}", params, seed=0), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert match in end.message
