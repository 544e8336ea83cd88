"""What the panel shows: plain frozen values, the same while running and at the end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.sounds import Sound

Picture = NDArray[np.uint8]
"""h w 3"""


@dataclass(frozen=True)
class Marks:
    """Measured beside the clean recording; None where that cannot be told."""

    si_sdr: float | None = None
    pesq: float | None = None
    estoi: float | None = None


@dataclass(frozen=True)
class Track:
    """One version of the recording: its sound, spectrogram and marks."""

    name: str
    title: str
    sound: Sound
    picture: Picture
    marks: Marks = Marks()
    nfe: int = 0


@dataclass(frozen=True)
class Moment:
    """The state of the reverse process at time t: what it looks and sounds like."""

    t: float
    nfe: int
    picture: Picture
    sound: Sound | None = None


@dataclass(frozen=True)
class Enhanced:
    """A recording and what became of it, as far as it has come.

    `moments` lead from noise to speech. `real_time_factor_seconds` is the time that a second of
    sound took.
    """

    noisy: Track | None = None
    clean: Track | None = None
    enhanced: Track | None = None
    others: tuple[Track, ...] = ()
    moments: tuple[Moment, ...] = ()
    nfe: int = 0
    real_time_factor_seconds: float = 0.0


@dataclass(frozen=True)
class Point:
    """Quality after so many evaluations of one way of sampling."""

    sampler: str
    nfe: int
    si_sdr: float
    pesq: float | None
    estoi: float | None


@dataclass(frozen=True)
class Comparison:
    """Quality against cost; `noisy` and the classical baseline are level lines."""

    noisy: Marks
    classical: Marks
    points: tuple[Point, ...] = ()
