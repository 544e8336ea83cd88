"""Recordings as plain values: WAV files, texts inside recipes, sample rates. No torch.

A recipe holds a recording as text, so that a link or a file is all that a run needs; for that it is
mono, at most 16 kHz, 16 bit, and a quarter of a minute.
"""

import base64
import binascii
import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from engine.core import budgets
from engine.core.errors import BadInput

HEAD = "data:audio/wav;base64,"
ADVICE = "Give a WAV file of at most 15 seconds; other formats convert to it with any audio tool."


@dataclass(frozen=True)
class Sound:
    """Mono samples, int16, that save themselves as a WAV file."""

    suffix: ClassVar[str] = ".wav"
    samples: NDArray[np.int16]
    rate: int

    @classmethod
    def of(cls, wave: NDArray[np.floating], rate: int) -> "Sound":
        """A waveform in [-1, 1]; what is louder is cut off."""
        return cls(np.clip(np.rint(wave * 32767), -32768, 32767).astype(np.int16), rate)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def wave(self) -> NDArray[np.float32]:
        """The samples in [-1, 1]."""
        return (self.samples / 32767).astype(np.float32)

    def file(self) -> bytes:
        """The bytes of a WAV file."""
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(self.samples.astype("<i2").tobytes())
        return buffer.getvalue()

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the file, as `engine.results` asks for them."""
        yield self.file()

    def at(self, rate: int) -> "Sound":
        """The same at another sample rate."""
        if rate == self.rate:
            return self
        from scipy.signal import resample_poly

        common = gcd(rate, self.rate)
        return Sound.of(resample_poly(self.wave(), rate // common, self.rate // common), rate)

    def text(self) -> str:
        """As a recipe holds it."""
        kept = self.at(min(self.rate, budgets.SOUND_RATE))
        return HEAD + base64.b64encode(kept.file()).decode("ascii")


def from_text(text: str) -> Sound:
    """The recording in such a text. Raises `BadInput` when it is none or too long."""
    try:
        data = base64.b64decode(text.removeprefix(HEAD), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("The recording in the recipe is damaged.", "Record it again.") from error
    return read(data)


def from_file(path: Path) -> Sound:
    """The recording in a WAV file. Raises `BadInput` when it is none or too long."""
    if path.stat().st_size > budgets.SOUND_BYTES:
        raise BadInput("The file is larger than 50 MB.", ADVICE)
    return read(path.read_bytes())


def read(data: bytes) -> Sound:
    """The recording in the bytes of a WAV file, its channels averaged."""
    from scipy.io import wavfile

    if data[:4] not in (b"RIFF", b"RIFX"):
        raise BadInput("This is not a WAV file.", ADVICE)
    try:
        rate, samples = wavfile.read(io.BytesIO(data))
    except Exception as error:  # scipy answers odd files with any exception there is
        raise BadInput(f"This WAV file cannot be read ({type(error).__name__}).", ADVICE) from error
    if not 4000 <= rate <= 384_000 or samples.ndim > 2 or not samples.size:
        raise BadInput("This WAV file holds no sound, or has an odd sample rate.", ADVICE)
    if len(samples) > budgets.SOUND_SECONDS * rate:
        raise BadInput(
            f"The recording lasts {len(samples) / rate:.0f} s; {budgets.SOUND_SECONDS} are taken.",
            ADVICE,
        )
    full = {"u": 128.0, "i": float(2 ** (8 * samples.dtype.itemsize - 1)), "f": 1.0}
    wave = samples.astype(np.float64) - (128.0 if samples.dtype.kind == "u" else 0.0)
    wave = wave.reshape(len(samples), -1).mean(axis=1) / full[samples.dtype.kind]
    if not np.isfinite(wave).all():
        raise BadInput("The recording holds values that are not numbers.", ADVICE)
    return Sound.of(wave, int(rate))
