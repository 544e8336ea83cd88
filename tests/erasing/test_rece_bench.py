"""The benchmark's own parts: what is counted, and that both sides of the timing do one thing."""

import pytest
import torch

from engine.core.catalog import discover
from engine.core.job import Failed, Job
from engine.erasing.rece import bench, speed
from engine.erasing.rece import closed_form as cf
from engine.erasing.rece.edit import ReceSettings
from tests.tiny import tiny_checkpoint


@pytest.mark.parametrize(
    "subject",
    [*map(bench.style, bench.STYLES), *map(bench.thing, bench.THINGS)],
    ids=lambda subject: subject.target,
)
def test_what_is_counted_is_disjoint(subject: bench.Subject):
    assert len(subject.asks) == 2 * bench.EACH
    for place, ask in enumerate(subject.asks):
        is_named = place < bench.EACH
        assert (ask.shows == subject.target) == is_named == (subject.target in ask.prompt)


def test_the_concepts_of_the_claim_chose_no_setting():
    default = ReceSettings()
    assert not {*bench.STYLES, *bench.THINGS} & {*default.concepts, "neon", "cat"}


def test_the_recorded_claim_is_the_papers():
    found = discover()["rece"].measured()
    over = found.figures["over concepts"]
    assert found.measured == over["RECE epoch 1: old attack"]["value"]
    assert over["RECE epoch 1: fresh attack"]["value"] > found.measured
    assert len(found.figures["by concept"]) == 6


@pytest.mark.slow
def test_a_checkpoint_that_draws_no_neon_is_refused(tmp_path, run_job):
    folder = str(tiny_checkpoint(tmp_path / "tiny"))
    job = Job(
        "engine.erasing.rece.bench:run",
        {"model": folder, "speed_too": False, "styles": [], "things": ["rose"], "times": 1},
        seed=0,
    )
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
