"""The build of the speech model, on a second of made-up sound and a tiny network."""

import json

import numpy as np
import pytest
import torch

from engine.models import speech as models
from engine.models.library import ModelCard, ModelRef
from engine.zoo import speech, voices
from engine.zoo.training import Options

SIZE = speech.Size(channels=4, batch=2, frames=64)
TINY = SIZE.config


@pytest.fixture
def made_up() -> voices.Voices:
    draw = np.random.default_rng(0)
    time = np.arange(4 * voices.SAMPLE_RATE) / voices.SAMPLE_RATE
    tone = 3000 * np.sin(2 * np.pi * 200 * time) * (1 + np.sin(2 * np.pi * 3 * time))
    return voices.Voices(
        np.tile(tone, 2).astype(np.int16), draw.normal(0, 2000, 16_000).astype(np.int16)
    )


def test_packed_recordings_come_back_nearly(made_up):
    back = voices.decoded(voices.encoded(made_up.speech))
    assert len(back) == len(made_up.speech) // voices.BANDS * voices.BANDS
    error = made_up.speech[: len(back)].astype(float) - back
    assert 20 * np.log10(made_up.speech.std() / error.std()) > 20


def test_mixtures_are_never_silent_and_never_equal(made_up):
    mixtures = speech.Mixtures(made_up, SIZE.length, "cpu")
    clean, noisy = mixtures.draw(24, torch.Generator().manual_seed(0))
    assert clean.shape == noisy.shape == (24, SIZE.length)
    torch.testing.assert_close(noisy.abs().amax(1), torch.ones(24), atol=1e-3, rtol=0)
    assert torch.isfinite(clean).all()
    again = mixtures.draw(24, torch.Generator().manual_seed(0))[1]
    assert torch.equal(noisy, again)
    other = mixtures.draw(24, torch.Generator().manual_seed(1))[1]
    assert not torch.equal(noisy, other)


def test_the_loss_is_that_of_the_process_of_the_interface():
    t = torch.tensor([0.03, 0.5, 1.0])
    a, s = speech.levels(t)
    path = speech.CONFIG.path
    np.testing.assert_allclose(a, path.a(t.double().numpy()), rtol=1e-6)
    np.testing.assert_allclose(s, path.s(t.double().numpy()), rtol=1e-5)


def test_the_clean_estimate_is_what_the_loss_asks_for(made_up):
    """A network that gives the wanted number gives the clean spectrogram."""
    network = models.SpeechNetwork(TINY)
    mixtures = speech.Mixtures(made_up, SIZE.length, "cpu")
    clean, noisy = mixtures.draw(2, torch.Generator().manual_seed(0))
    x0, y = (TINY.front.spectrogram(wave) for wave in (clean, noisy))
    t = torch.tensor([0.3, 0.9])
    a, s = (level.reshape(2, 1, 1, 1) for level in speech.levels(t))
    z = a * (x0 - y) + s * torch.randn_like(x0)
    _, c_skip, c_out = network.levels(a, s)
    network.dnn.forward = lambda *_: (x0 - y - c_skip * z) / c_out
    torch.testing.assert_close(network(y + z, t, y), x0, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_build_leaves_a_checkpoint_that_loads(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "SIZES", {"cpu": SIZE})
    monkeypatch.setattr(speech, "MODELS", tmp_path / "models")
    monkeypatch.setattr(speech, "measure", lambda device: {"noisy": {"si_sdr": 5.0}})
    np.savez(
        tmp_path / "voices.npz",
        speech=voices.encoded(made_up.speech),
        music=voices.encoded(made_up.music),
    )
    (tmp_path / "models" / speech.KEY).mkdir(parents=True)
    speech.build(tmp_path, Options(steps=3, device="cpu"))
    folder = tmp_path / "models" / speech.KEY
    card = ModelCard.read(folder / "card.json")
    assert card.notes["trained"]["steps"] == 3
    assert card.notes["measured"] == {"noisy": {"si_sdr": 5.0}}
    bundle = models.read(card, folder, ModelRef(speech.KEY), "cpu", "float32")
    assert json.loads((folder / "config.json").read_text())["objective"] == "denoised"
    y = TINY.front.spectrogram(torch.randn(1, 8000))
    y = models.padded(y, bundle.model.dnn.multiple)
    assert torch.isfinite(bundle.at(y)(torch.zeros_like(y), 1.0).x0).all()


def test_a_failed_measurement_leaves_the_checkpoint(made_up, tmp_path, monkeypatch):
    def broken(device: str) -> dict:
        raise RuntimeError("no metrics")

    monkeypatch.setattr(speech, "SIZES", {"cpu": SIZE})
    monkeypatch.setattr(speech, "MODELS", tmp_path / "models")
    monkeypatch.setattr(speech, "measure", broken)
    packed = {name: voices.encoded(getattr(made_up, name)) for name in ("speech", "music")}
    np.savez(tmp_path / "voices.npz", **packed)
    speech.build(tmp_path, Options(steps=1, device="cpu"))
    assert (tmp_path / "models" / speech.KEY / "model.safetensors").exists()
