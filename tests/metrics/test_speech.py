"""Marks of speech: against hand-made cases, and None where nothing can be said."""

import numpy as np
import pytest

from engine.metrics import speech

DRAW = np.random.default_rng(0)
CLEAN = DRAW.standard_normal(8000)


def test_si_sdr_does_not_hear_loudness():
    noisy = CLEAN + 0.3 * DRAW.standard_normal(8000)
    assert speech.si_sdr(CLEAN, noisy) == pytest.approx(speech.si_sdr(CLEAN, 7 * noisy))


def test_si_sdr_is_the_ratio_of_powers_for_orthogonal_noise():
    clean, noise = np.array([1.0, 0, 1, 0]), np.array([0.0, 1, 0, 1])
    assert speech.si_sdr(clean, clean + 0.1 * noise) == pytest.approx(20)


def test_si_sdr_of_silence_is_a_number():
    assert np.isfinite(speech.si_sdr(CLEAN, np.zeros(8000)))


def test_packages_that_are_absent_say_nothing(monkeypatch):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(speech.importlib, "import_module", absent)
    assert speech.pesq(CLEAN, CLEAN, 8000) is None
    assert speech.estoi(CLEAN, CLEAN, 8000) is None


def test_what_is_too_short_says_nothing():
    assert speech.pesq(CLEAN[:500], CLEAN[:500], 8000) is None
    assert speech.estoi(CLEAN[:500], CLEAN[:500], 8000) is None


def test_more_noise_has_lower_marks():
    from engine.sampling.sgmse import clips

    clean = clips.sentence("it-vm-sorry")
    heard = [clips.spoilt(clean, "hiss", snr, 0.0, 0, 8000)[0].numpy() for snr in (20.0, 0.0)]
    for mark in (speech.pesq, speech.estoi):
        values = [mark(clean[0].numpy(), noisy, 8000) for noisy in heard]
        if None not in values:
            assert values[0] > values[1]
