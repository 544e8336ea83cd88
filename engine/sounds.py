"""Recordings as plain values: sound files, texts inside recipes, sample rates. No torch.

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
# A shorter recording has no frame for the quietest of the methods that hear it.
LEAST_SECONDS = 0.1
LOWEST_RATE = 4000
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
ADVICE = "Give a WAV, FLAC, Ogg or MP3 file of at most 15 seconds."
# First bytes of what is read, and of what people bring besides, with where they stand.
KNOWN = (b"RIFF", b"RIFX", b"fLaC", b"OggS")
FOREIGN = {
    (4, b"ftyp"): "an M4A or MP4 file", (0, b"FORM"): "an AIFF file", (0, b"caff"): "a CAF file",
    (0, b"\x1aE\xdf\xa3"): "a WebM file", (0, b"0&\xb2u"): "a WMA file",
    (0, b"#!AMR"): "an AMR file",
}  # fmt: skip


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
    """The recording in a file. Raises `BadInput` when it is none or too long."""
    if path.stat().st_size > budgets.SOUND_BYTES:
        raise BadInput("The file is larger than 50 MB.", ADVICE)
    return read(path.read_bytes())


def read(data: bytes) -> Sound:
    """The recording in the bytes of a WAV, FLAC, Ogg or MP3 file, its channels averaged."""
    import soundfile

    _check_kind(data[:16])
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            # What a file says of its length may be wrong; one sample more tells that it is longer.
            most = budgets.SOUND_SECONDS * rate + 1
            is_short = file.subtype == "PCM_16"  # kept as it is, so that a recipe's text is exact
            wave = file.read(most, dtype="int16" if is_short else "float64", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        told = f"This recording cannot be read ({type(error).__name__})."
        raise BadInput(told, ADVICE) from error
    return _checked(wave.mean(axis=1) / (32767 if is_short else 1), rate)


def _check_kind(head: bytes) -> None:
    """Only these are given to the library, which knows many odd formats besides."""
    is_mp3 = head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
    if is_mp3 or head[:4] in KNOWN:
        return
    for (at, magic), kind in FOREIGN.items():
        if head[at:].startswith(magic):
            raise BadInput(f"This is {kind}, which is not read here.", ADVICE)
    raise BadInput("This is not a recording of a known kind.", ADVICE)


def _checked(wave: NDArray[np.float64], rate: int) -> Sound:
    if not LOWEST_RATE <= rate <= 384_000 or not wave.size:
        raise BadInput("This recording holds no sound, or has an odd sample rate.", ADVICE)
    seconds = len(wave) / rate
    if seconds > budgets.SOUND_SECONDS:
        raise BadInput(f"The recording is longer than {budgets.SOUND_SECONDS} s.", ADVICE)
    if seconds < LEAST_SECONDS:
        raise BadInput(
            f"The recording lasts {seconds:.3f} s; {LEAST_SECONDS} s are the least.",
            "Record at least a word.",
        )
    if not np.isfinite(wave).all():
        raise BadInput("The recording holds values that are not numbers.", ADVICE)
    return Sound.of(wave, rate)
