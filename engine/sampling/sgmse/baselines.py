"""What to compare with: the classical way without any learning, and RNNoise where it is installed.

The log-spectral amplitude estimator of Ephraim and Malah (1985): in every bin the noise power is
followed through the quietest moments of the last second, the signal-to-noise ratio xi is smoothed
over time ("decision directed"), and the noisy bin is multiplied by

    G = xi / (1 + xi) exp(E1(v) / 2),    v = xi / (1 + xi) |Y|^2 / noise power
"""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import istft, resample_poly, stft
from scipy.special import exp1

from engine.core.shapes import Array, Float

SMOOTHING, FLOOR = 0.98, 0.06  # of xi over time, and the least gain, which keeps noise natural
BIAS = 1.5  # the minimum of a smoothed power lies below its mean (Martin 2001)
RNNOISE_RATE, RNNOISE_FRAME = 48_000, 480


def log_spectral_amplitude(noisy: Float[Array, " l"], sample_rate: int) -> Float[Array, " l"]:
    """The noisy recording with every bin turned down by how much noise it holds."""
    size = 2 * round(0.016 * sample_rate)
    _, _, spec = stft(noisy, sample_rate, nperseg=size, noverlap=3 * size // 4)
    power = np.abs(spec) ** 2 + 1e-12
    frames_a_second = sample_rate // (size // 4)
    smoothed = uniform_filter1d(power, max(3, frames_a_second // 12), axis=1)
    noise = BIAS * minimum_filter1d(smoothed, frames_a_second, axis=1)
    posterior = np.minimum(power / noise, 1e3)
    gains = np.empty_like(power)
    before = np.ones(len(power))
    for t in range(power.shape[1]):
        gamma = posterior[:, t]
        xi = SMOOTHING * before + (1 - SMOOTHING) * np.maximum(gamma - 1, 0)
        share = xi / (1 + xi)
        gain = np.clip(share * np.exp(exp1(np.maximum(share * gamma, 1e-6)) / 2), FLOOR, 1)
        gains[:, t], before = gain, gain**2 * gamma
    _, wave = istft(spec * gains, sample_rate, nperseg=size, noverlap=3 * size // 4)
    return _as_long(wave, len(noisy))


def rnnoise(noisy: Float[Array, " l"], sample_rate: int) -> Float[Array, " l"] | None:
    """RNNoise (Valin 2018), a small recurrent network that was trained at 48 kHz on many speakers;
    None where the package `pyrnnoise` is not installed."""
    spec = find_spec("pyrnnoise")
    if spec is None or not spec.submodule_search_locations:
        return None
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "librnnoise.so"))
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_process_frame.restype = ctypes.c_float
    state = ctypes.c_void_p(library.rnnoise_create(None))
    wide = resample_poly(noisy, RNNOISE_RATE // 1000, sample_rate // 1000) * 32767
    # two frames of silence, as the network answers one late and begins deaf
    frames = np.pad(wide, (0, -len(wide) % RNNOISE_FRAME + 2 * RNNOISE_FRAME))
    frames = frames.astype(np.float32).reshape(-1, RNNOISE_FRAME).copy()
    for row in frames:
        place = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        library.rnnoise_process_frame(state, place, place)
    library.rnnoise_destroy(state)
    cleaned = resample_poly(frames.ravel() / 32767, sample_rate // 1000, RNNOISE_RATE // 1000)
    return _as_long(_aligned(cleaned, noisy), len(noisy))


def _aligned(late: Float[Array, " n"], noisy: Float[Array, " l"]) -> Float[Array, " m"]:
    """The output moved to where it agrees best with its input, within 40 ms."""
    lags = range(321)
    agreement = [late[lag : lag + len(noisy)] @ noisy[: len(late) - lag] for lag in lags]
    return late[int(np.argmax(agreement)) :]


def _as_long(wave: Float[Array, " n"], length: int) -> Float[Array, " l"]:
    return np.pad(wave, (0, max(0, length - len(wave))))[:length].astype(np.float32)
