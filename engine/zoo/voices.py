"""Recorded speech and music for the speech model: where it comes from, and one small file of it.

    voices = unpack(pack_of(folder))          fetched from Debian once, then kept as one file

The recordings are telephone prompts of 8 kHz that Debian distributes under Creative Commons
licences (assets/LICENSES.md), fetched with `apt-get download` and unpacked with `dpkg -x`, or taken
from a folder that holds the unpacked packages. Two of the five speakers, the only man among them,
are for testing alone; so are two of the five pieces of music.

The file holds the coefficients of a lapped cosine transform (MDCT, 128 bands), each rounded on a
scale that grows with its size, and then packed: about 2.2 kB a second, 29 dB above its rounding.
"""

import bz2
import logging
import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

SAMPLE_RATE = 8000
PACKAGES = (
    "asterisk-core-sounds-en-wav",
    "asterisk-core-sounds-es-wav",
    "asterisk-core-sounds-fr-wav",
    "asterisk-core-sounds-it-wav",
    "asterisk-core-sounds-ru-wav",
    "asterisk-prompt-it-menardi-wav",
    "asterisk-moh-opsound-wav",
)
# Folders of the packages, and how many seconds of each go into the file.
TRAINED = {
    "en_US_f_Allison": 1000,
    "es_MX_f_Allison": 500,
    "fr_CA_f_June": 850,
    "it_IT_f_Menardi": 850,
}
HELD_OUT = ("it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU")
MUSIC = {
    "macroform-cold_day": 60,
    "macroform-the_simplicity": 60,
    "reno_project-system": 60,
}
HELD_OUT_MUSIC = ("macroform-robot_dity", "manolo_camp-morning_coffee")
BANDS, STEP, POWER = 128, 24.0, 0.6
LOUDNESS = 2000.0  # root mean square of a recording where there is sound, of 32768


@dataclass(frozen=True)
class Voices:
    """Recordings one after another, int16 at 8 kHz."""

    speech: np.ndarray
    music: np.ndarray


def pack_of(folder: Path) -> Path:
    """The packed file: the one at hand, or else a fresh one from fetched packages."""
    for path in (folder / "voices.npz", Path("build/gpu/voices.npz")):
        if path.is_file():
            return path
    pack(fetch(folder / "voices"), folder / "voices.npz")
    return folder / "voices.npz"


def fetch(folder: Path) -> Path:
    """Fetch and unpack the packages into a folder, unless they are there. Needs Debian."""
    if all(any(folder.rglob(name)) for name in (*TRAINED, *HELD_OUT)):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
    for path in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", path.name, "."], cwd=folder, check=True)
        path.unlink()
    return folder


def recordings(folder: Path, name: str) -> dict[str, np.ndarray]:
    """All recordings of a speaker, int16, by file name without its ending."""
    place = next(path for path in sorted(folder.rglob(name)) if path.is_dir())
    return {
        path.relative_to(place).with_suffix("").as_posix(): read_wav(path)
        for path in sorted(place.rglob("*.wav"))
    }


def piece(folder: Path, name: str) -> np.ndarray:
    """One piece of music, int16."""
    return read_wav(next(folder.rglob(f"{name}.wav")))


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (SAMPLE_RATE, 2, 1):
            raise ValueError(f"{path.name} is not 8 kHz, 16 bit, mono")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def trimmed(samples: np.ndarray, *, room: int = 800) -> np.ndarray:
    """Without the silence at both ends, and at equal loudness."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).astype(np.float64)
    loud = frames.std(axis=1) if len(frames) else np.zeros(0)
    heard = np.flatnonzero(loud > 0.05 * loud.max(initial=0.0))
    if not len(heard):
        return samples[:0]
    begin, end = max(0, heard[0] * 160 - room), heard[-1] * 160 + 160 + room
    level = np.sqrt((frames[heard] ** 2).mean())
    scaled = samples[begin:end] * min(LOUDNESS / level, 32000 / np.abs(samples).max())
    return scaled.round().astype(np.int16)


def pack(folder: Path, path: Path, *, share: float = 1.0) -> None:
    """Write the training part of the recordings into one file."""
    draw = np.random.default_rng(0)
    speech = []
    for name, seconds in TRAINED.items():
        clips = [trimmed(clip) for clip in recordings(folder, name).values()]
        clips = [clip for clip in clips if len(clip) > SAMPLE_RATE // 2]
        chosen = np.concatenate([clips[i] for i in draw.permutation(len(clips))])
        speech.append(chosen[: int(share * seconds * SAMPLE_RATE)])
        log.info("%s: %.0f s", name, len(speech[-1]) / SAMPLE_RATE)
    music = [
        trimmed(piece(folder, name))[: int(share * seconds * SAMPLE_RATE)]
        for name, seconds in MUSIC.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, speech=encoded(np.concatenate(speech)), music=encoded(np.concatenate(music)))
    log.info("%s: %.2f MB", path, path.stat().st_size / 1e6)


def unpack(path: Path) -> Voices:
    """The recordings in a packed file."""
    with np.load(path, allow_pickle=False) as file:
        return Voices(decoded(file["speech"]), decoded(file["music"]))


# ---------------------------------------------------------------------- the lapped transform


def encoded(samples: np.ndarray) -> np.ndarray:
    """Samples, int16, as packed bytes."""
    halves = np.zeros((len(samples) // BANDS + 2, BANDS), np.float32)
    halves[1:-1] = samples[: len(samples) // BANDS * BANDS].reshape(-1, BANDS)
    bands = np.concatenate([halves[:-1], halves[1:]], axis=1) @ _basis()
    steps = np.rint(np.sign(bands) * np.abs(bands) ** POWER / STEP)
    return np.frombuffer(
        bz2.compress(np.clip(steps, -127, 127).astype(np.int8).tobytes()), np.uint8
    )


def decoded(packed: np.ndarray) -> np.ndarray:
    """The samples in packed bytes, int16."""
    steps = np.frombuffer(bz2.decompress(packed.tobytes()), np.int8).reshape(-1, BANDS)
    bands = np.sign(steps) * (np.abs(steps).astype(np.float32) * STEP) ** (1 / POWER)
    both = bands @ _basis().T
    samples = both[:-1, BANDS:] + both[1:, :BANDS]
    return np.clip(samples.ravel().round(), -32768, 32767).astype(np.int16)


def _basis() -> np.ndarray:
    """Cosines under a sine window, whose overlap gives the samples back; 2 bands x bands."""
    n, k = np.arange(2 * BANDS)[:, None], np.arange(BANDS)[None]
    window = np.sin(np.pi * (n + 0.5) / (2 * BANDS))
    waves = np.cos(np.pi / BANDS * (n + 0.5 + BANDS / 2) * (k + 0.5))
    return (np.sqrt(2 / BANDS) * window * waves).astype(np.float32)
