"""Recordings as values: files, texts in recipes, sample rates, and what is refused."""

import io

import numpy as np
import pytest
from scipy.io import wavfile

from engine import sounds
from engine.core.errors import BadInput
from engine.core.recipe import Recipe
from engine.results import files_of
from engine.sounds import Sound


def tone(rate: int = 8000, seconds: float = 0.5) -> Sound:
    time = np.arange(int(rate * seconds)) / rate
    return Sound.of(0.5 * np.sin(2 * np.pi * 440 * time), rate)


def test_a_recording_comes_back_from_its_text():
    back = sounds.from_text(tone().text())
    assert back.rate == 8000
    assert np.array_equal(back.samples, tone().samples)


def test_a_text_holds_at_most_16_khz():
    back = sounds.from_text(tone(48_000).text())
    assert back.rate == 16_000
    assert abs(back.seconds - 0.5) < 1e-3


def test_another_rate_keeps_pitch_and_length():
    slow = tone(16_000).at(8000)
    peak = np.argmax(np.abs(np.fft.rfft(slow.wave()))) / slow.seconds
    assert abs(peak - 440) < 3


def test_what_is_too_loud_is_cut_off():
    assert Sound.of(np.array([2.0, -2.0, 0.0]), 8000).samples.tolist() == [32767, -32768, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_every_usual_format_is_read_and_channels_are_averaged(dtype):
    wave = tone().wave()
    full = {"u": 127, "i": np.iinfo(dtype).max if dtype != np.float32 else 1, "f": 1}
    kind = np.dtype(dtype).kind
    scaled = wave * full[kind] + (128 if kind == "u" else 0)
    whole = scaled if kind == "f" else np.rint(scaled)
    buffer = io.BytesIO()
    both = np.stack([whole, whole], axis=1).astype(dtype)
    wavfile.write(buffer, 8000, both)
    back = sounds.read(buffer.getvalue())
    np.testing.assert_allclose(back.wave(), wave, atol=0.01)


def too_long() -> bytes:
    return Sound(np.zeros(16 * 8000, np.int16), 8000).file()


def not_numbers() -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, 8000, np.full(100, np.nan, np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no sound",
        b"\x80\x04pickle",
        tone().file()[:30],
        b"RIFF" + 60 * b"x",
        too_long(),
        not_numbers(),
        Sound(np.zeros(0, np.int16), 8000).file(),
    ],
    ids=["empty", "text", "pickle", "cut", "broken", "long", "nan", "no samples"],
)
def test_odd_files_are_refused_with_advice(data):
    with pytest.raises(BadInput) as refused:
        sounds.read(data)
    assert refused.value.advice


def test_a_damaged_text_is_refused():
    with pytest.raises(BadInput):
        sounds.from_text(sounds.HEAD + "###")


def test_results_save_sounds_as_wav_files():
    files = files_of({"noisy": tone()}, Recipe("sgmse"))
    assert sounds.read(files["noisy.wav"]).rate == 8000
