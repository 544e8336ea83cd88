"""SGMSE: golden arrays through the one interface, the runs on a tiny checkpoint, the baselines."""

import ast
import inspect

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput
from engine.core.job import Done, Job, Progress, finish
from engine.core.recipe import ModelRef
from engine.core.settings import checked
from engine.diffusion import grids
from engine.diffusion.denoiser import Model
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import ouve
from engine.metrics.speech import si_sdr
from engine.sampling.sgmse import algorithm, baselines, bench, clips, enhancing, golden, noises
from engine.sampling.sgmse.scene import KINDS, Scene
from engine.sounds import Sound
from tests.contract.rules import differing
from tests.tiny_speech import tiny_speech

RUN = "engine.sampling.sgmse.algorithm:run"
COMPARE = "engine.sampling.sgmse.algorithm:compare"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ModelRef:
    return ModelRef(str(tiny_speech(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture
def run(tiny, run_job):
    def go(*, seed: int = 3, **settings):
        return run_job(Job(RUN, {"model": tiny, "steps": 2, **settings}, seed))

    return go


# ---------------------------------------------------------------------- golden


@pytest.mark.golden
def test_golden_cases_of_the_published_code():
    cases = finish(golden.run()).cases
    assert len(cases) == 11
    assert [case.name for case in cases if not case.error <= case.tolerance] == []


def test_no_loop_of_its_own_walks_the_process():
    """The panel's engine steps through `solve` alone: nothing in it integrates by hand."""
    tree = ast.parse(inspect.getsource(enhancing.walk))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]


# ---------------------------------------------------------------------- the process


def perfect(x0: torch.Tensor, y: torch.Tensor) -> Model:
    """A model that knows the clean spectrogram."""
    return Model(lambda x, t: x0.expand_as(x), ouve(), "x0", "t", anchor=y)


@pytest.mark.parametrize(("sampler", "corrector"), [("pc", "ald"), ("pc", "none"), ("ode", "none")])
def test_a_perfect_network_leads_to_the_clean_spectrogram(sampler, corrector):
    """Exact up to what the last step of Euler leaves of the noise at t_eps, 0.019."""
    generator = torch.Generator().manual_seed(0)
    x0, y = torch.randn(2, 1, 1, 8, 6, dtype=torch.complex64, generator=generator).unbind()
    model = perfect(x0, y)
    *_, last = enhancing.walk(
        model, y, Noise(0), sampler=sampler, steps=30, corrector=corrector, snr=0.5
    )
    assert float((model.place(last.z) - x0).abs().mean()) < 0.03


def test_renewing_draws_the_state_around_the_clean_estimate_above_its_time_alone():
    generator = torch.Generator().manual_seed(0)
    x0, y = torch.randn(2, 1, 1, 64, 64, dtype=torch.complex64, generator=generator).unbind()
    model = perfect(x0, y)
    settings = enhancing.Settings(steps=10, corrector="none")
    plain, renewed = (
        list(enhancing.walk(model, y, Noise(0), renew_above=above, **settings))
        for above in (1.0, 0.5)
    )
    for step in renewed:
        if step.t > 0.5:
            apart = step.z - model.path.a(step.t) * (x0 - y)
            assert float(apart.abs().pow(2).mean().sqrt()) == pytest.approx(
                model.path.s(step.t), rel=0.05
            )
    assert not torch.equal(plain[0].z, renewed[0].z)
    late = [i for i, step in enumerate(renewed) if step.t <= 0.5]
    assert len(late) == 6
    assert model.nfe == 20


def test_asked_once_is_the_clean_estimate_at_the_start():
    x0, y = torch.randn(2, 1, 1, 8, 6, dtype=torch.complex64).unbind()
    model = perfect(x0, y)
    (only,) = enhancing.walk(model, y, Noise(0), sampler="once")
    torch.testing.assert_close(model.place(only.z), x0)
    assert model.nfe == 1


@pytest.mark.parametrize(
    ("sampler", "corrector", "nfe"),
    [("pc", "ald", 10), ("pc", "none", 5), ("ode", "none", 5), ("mean", "none", 5)],
)
def test_evaluations_are_what_was_promised(sampler, corrector, nfe):
    x0, y = torch.randn(2, 1, 1, 8, 6, dtype=torch.complex64).unbind()
    model = perfect(x0, y)
    list(enhancing.walk(model, y, Noise(0), sampler=sampler, steps=5, corrector=corrector))
    assert model.nfe == enhancing.evaluations(sampler, 5, corrector) == nfe


def test_a_sample_is_the_same_alone_and_in_a_batch():
    x0, y = torch.randn(2, 3, 1, 8, 6, dtype=torch.complex64).unbind()

    def end(x0, y, first):
        *_, last = enhancing.walk(perfect(x0, y), y, Noise(5, first), steps=4)
        return last.z

    torch.testing.assert_close(end(x0, y, 0)[2:], end(x0[2:], y[2:], 2))


def test_the_grid_ends_with_a_step_to_zero():
    grid = grids.sgmse(ouve(), 5)
    assert grid.times[0] == 1
    assert grid.times[-2:].tolist() == [0.03, 0.0]
    assert grid.final == "mean"


# ---------------------------------------------------------------------- noises


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_level_it_was_asked_for(kind):
    clean = clips.sentence("it-vm-sorry")
    noisy = clips.spoilt(clean, kind, 5.0, 0.0, 1, 8000)
    added = noisy - clean
    level = 10 * torch.log10(clean.pow(2).mean() / added.pow(2).mean())
    assert float(level) == pytest.approx(5, abs=1e-3)
    assert torch.equal(noisy, clips.spoilt(clean, kind, 5.0, 0.0, 1, 8000))
    assert not torch.equal(noisy, clips.spoilt(clean, kind, 5.0, 0.0, 2, 8000))


def test_a_room_adds_its_sound_after_the_direct_one():
    click = torch.zeros(1, 4000)
    click[0, 0] = 1
    room = noises.reverberant(
        click, 8000, torch.tensor([[0.2]]), torch.tensor([[0.0]]), torch.Generator().manual_seed(0)
    )
    tail = room - click
    assert room[0, 0] == pytest.approx(1, abs=1e-4)
    assert float(tail.pow(2).sum()) == pytest.approx(1, abs=0.01)
    early, late = tail[0, :800].pow(2).mean(), tail[0, 1600:2400].pow(2).mean()
    assert 10 * torch.log10(early / late) > 30


def test_speakers_of_the_examples_are_not_those_of_the_training():
    from engine.zoo import voices

    assert not set(voices.TRAINED) & set(voices.HELD_OUT)
    assert not set(voices.MUSIC) & set(voices.HELD_OUT_MUSIC)
    assert {clip.key[:2] for clip in clips.clips()} == {"it", "ru"}


# ---------------------------------------------------------------------- baselines


def test_the_classical_estimator_takes_away_a_steady_hiss():
    clean = clips.sentence("it-tt-weasels")
    noisy = clips.spoilt(clean, "hiss", 5.0, 0.0, 0, 8000)[0].numpy()
    before = si_sdr(clean[0].numpy(), noisy)
    after = si_sdr(clean[0].numpy(), baselines.log_spectral_amplitude(noisy, 8000))
    assert after > before + 3


@pytest.mark.parametrize("length", [900, 8001])
def test_the_classical_estimator_keeps_the_length(length):
    noisy = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    assert len(baselines.log_spectral_amplitude(noisy, 8000)) == length


# ---------------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_ends_with_every_version_and_its_marks(run):
    *seen, end = run()
    found = end.result
    assert isinstance(end, Done)
    assert found.nfe == 4
    assert found.noisy.marks.si_sdr == pytest.approx(5, abs=0.2)
    assert [track.name for track in found.others] == ["once", "mean", "classical"]
    assert found.moments[0].t == 1
    assert found.moments[-1].t == 0
    assert len(found.enhanced.sound.samples) == len(found.noisy.sound.samples)
    done = [event.done for event in seen if isinstance(event, Progress)]
    assert done == sorted(done)


@pytest.mark.slow
def test_equal_seeds_are_equal_and_others_are_not(run):
    first, again, other = (run(seed=seed)[-1].result for seed in (3, 3, 4))
    assert not differing(first, again)
    assert differing(first.enhanced, other.enhanced)


@pytest.mark.slow
def test_a_recording_is_taken_as_it_is(run):
    wave = clips.sentence("ru-vm-sorry")[0].numpy()
    found = run(recording=Sound.of(0.5 * wave, 16_000).text())[-1].result
    assert found.clean is None
    assert found.enhanced.marks.si_sdr is None
    assert found.noisy.sound.rate == 8000


def test_a_recording_keeps_its_loudness(tiny):
    wave = 0.1 * clips.sentence("ru-vm-sorry")[0].numpy()
    text = Sound.of(wave, 8000).text()
    scene = Scene.open(
        tiny, clip="", noise="hiss", noise_snr=0.0, reverb=0.0, recording=text, seed=0
    )
    back = scene.sound(scene.noisy[0].numpy())
    np.testing.assert_allclose(back.wave(), wave, atol=1e-4)


@pytest.mark.slow
def test_comparing_counts_every_way_at_its_budget(tiny, run_job):
    *_, end = run_job(Job(COMPARE, {"model": tiny, "budgets": [1, 2, 4]}, 3))
    spent = {(p.sampler, p.nfe) for p in end.result.points}
    assert spent == {
        ("pc without", 1),
        ("ode", 1),
        *((name, nfe) for name in algorithm.COMPARED for nfe in (2, 4)),
    }
    assert end.result.noisy.si_sdr == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": 1000},
        {"sampler": "guess"},
        {"corrector": "guess"},
        {"snr": 0.0},
        {"snr": float("nan")},
        {"renew_above": 1.5},
        {"noise_share": -0.1},
        {"renew_above": float("nan")},
        {"clip": "no such"},
        {"noise": "silence"},
        {"noise_snr": float("inf")},
        {"reverb": -1.0},
        {"reverb": 1e-300},
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_is_loaded(bad):
    with pytest.raises(BadInput) as refused:
        next(Job(RUN, bad).start())
    assert refused.value.advice


def test_another_kind_of_model_is_refused(tmp_path, run_job):
    from tests.tiny import tiny_checkpoint

    ref = ModelRef(str(tiny_checkpoint(tmp_path / "pictures")))
    end = run_job(Job(RUN, {"model": ref}, 0), may_fail=True)[-1]
    assert "speech" in end.message


# ---------------------------------------------------------------------- bench


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a core that is shared takes several times as long
def test_bench_measures_every_baseline_with_intervals(tiny, monkeypatch):
    monkeypatch.setattr(bench, "LEVELS", (5.0,))
    monkeypatch.setattr(bench, "CURVE", (1, 2))
    monkeypatch.setattr(bench.clips, "clips", lambda: clips_of()[:2])
    found = finish(bench.run(seed=0, model=tiny))
    assert found.versus == pytest.approx(5, abs=0.2)
    assert found.interval[0] <= found.measured <= found.interval[1]
    assert {"noisy", "enhanced", "asked once", "mean", "classical"} <= set(found.figures["mean"])
    ahead = found.figures["ahead of"]["classical"]["si_sdr"]
    assert ahead["low"] <= ahead["mean"] <= ahead["high"]
    assert {point["nfe"] for point in found.figures["quality against evaluations"]} == {1, 2}


clips_of = clips.clips


def test_whole_numbers_and_texts_are_settled_before_a_walk():
    """Sliders and the command line may give 3.0; the walk counts with 3."""
    steps = checked(algorithm.run, {"steps": 3.0})["steps"]
    assert (steps, type(steps)) == (3, int)
    for wrong in ({"steps": 2.5}, {"snr": "much"}, {"renew_above": float("nan")}, {"sampler": 1}):
        with pytest.raises(BadInput):
            checked(algorithm.run, wrong)
