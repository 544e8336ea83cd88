"""The benchmark's own parts: what is counted, and that both sides of the timing do one thing."""

import pytest
import torch

from engine.core.job import Failed, Job
from engine.erasing.rece import bench, speed
from engine.erasing.rece import closed_form as cf
from tests.tiny import tiny_checkpoint


def test_what_is_counted_is_disjoint_where_it_must_be():
    for subject in (bench.style(), bench.thing()):
        for ask in subject.asks:
            assert (ask.shows == subject.target) == (ask.group == "target")
            assert (subject.target in ask.prompt) == (ask.group == "target") or "neon" in ask.prompt
    groups = {ask.shows: ask.group for ask in bench.thing().asks}
    assert groups["dog"] == "kept, near"
    assert groups["penguin"] == "kept, near, held out"
    assert groups["car"] == "kept, far"
    assert groups["guitar"] == "kept, far, held out"


def test_a_checkpoint_that_draws_no_neon_is_refused(tmp_path, run_job):
    folder = str(tiny_checkpoint(tmp_path / "tiny"))
    job = Job("engine.erasing.rece.bench:run", {"model": folder, "speed_too": False}, seed=0)
    seen = run_job(job, may_fail=True)
    assert isinstance(seen[-1], Failed)
    assert not seen[-1].error_id, seen[-1].detail
    assert seen[-1].advice


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> speed.Shapes:
    monkeypatch.setattr(speed, "WIDTH", 24)
    monkeypatch.setattr(speed, "TOKENS", 9)
    monkeypatch.setattr(speed, "COUNTS", {8: 2, 12: 3})
    return speed.Shapes.draw(0)


def test_both_sides_of_the_timing_agree_with_float64(small: speed.Shapes):
    for found in (speed._uce(small), speed._epochs(small)):
        assert found.our_error < 1e-6
        assert found.published_error < 0.1  # its inverse is taken in float32


def test_random_token_states_have_the_norm_and_start_of_clip(small: speed.Shapes):
    assert torch.allclose(small.concept.norm(dim=1), torch.tensor(speed.ROW_NORM), rtol=1e-4)
    assert torch.equal(small.concept[0], small.guide[0])
    assert isinstance(small.pair(), cf.Pair)
