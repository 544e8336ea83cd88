"""Recordings as values: files, texts in recipes, sample rates, and what is refused."""

import io

import numpy as np
import pytest
import soundfile
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
    samples = np.r_[tone().samples, np.int16(32767), np.int16(-32767)]
    back = sounds.from_text(Sound(samples, 8000).text())
    assert back.rate == 8000
    assert np.array_equal(back.samples, samples)


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
    wavfile.write(buffer, 8000, np.full(1000, np.nan, np.float32))
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


def encoded(kind: str, rate: int = 16_000, seconds: float = 0.5) -> bytes:
    """The tone as a file of this kind, in stereo."""
    buffer = io.BytesIO()
    wave = tone(rate, seconds).wave()
    soundfile.write(buffer, np.stack([wave, wave], axis=1), rate, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_the_kinds_that_people_have_are_read(kind, tmp_path):
    path = tmp_path / f"recording.{kind.lower()}"
    path.write_bytes(encoded(kind))
    back = sounds.from_file(path)
    assert back.rate == 16_000
    assert abs(back.seconds - 0.5) < 0.12  # MP3 fills its last frames up
    spectrum = np.abs(np.fft.rfft(back.wave()))
    assert abs(np.argmax(spectrum) / back.seconds - 440) < 5
    assert abs(np.sqrt(np.mean(back.wave() ** 2)) - 0.5 / np.sqrt(2)) < 0.05


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_long_recording_is_refused_whatever_its_kind(kind):
    with pytest.raises(BadInput, match="longer than 15 s"):
        sounds.read(encoded(kind, seconds=15.5))


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.09])
def test_a_sound_that_is_too_short_to_hear_anything_is_refused(seconds):
    with pytest.raises(BadInput, match=r"0\.1 s are the least"):
        sounds.read(tone(seconds=seconds).file())


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0\0\x20ftypM4A " + bytes(40), "an M4A"),
        (b"FORM\0\0\0\x20AIFF" + bytes(40), "an AIFF"),
        (b"\x1aE\xdf\xa3" + bytes(40), "a WebM"),
    ],
)
def test_other_kinds_are_refused_by_name(data, named):
    with pytest.raises(BadInput, match=named) as refused:
        sounds.read(data)
    assert "MP3" in refused.value.advice


def test_a_damaged_text_is_refused():
    with pytest.raises(BadInput):
        sounds.from_text(sounds.HEAD + "###")


def test_results_save_sounds_as_wav_files():
    files = files_of({"noisy": tone()}, Recipe("sgmse"))
    assert sounds.read(files["noisy.wav"]).rate == 8000
