"""How good speech is, beside the clean recording: SI-SDR, PESQ and ESTOI.

SI-SDR (dB) is computed here, ESTOI (0 to 1, how much is understood) by the package `pystoi`, and
PESQ (1 to 4.5, what listeners would say of a telephone line) by `pesq`, which needs a C compiler to
install (requirements-speech.txt). Without a package, or where a recording is too short or too
silent for it, the answer is None.
"""

import importlib
import warnings
from types import ModuleType

import numpy as np

from engine.core.shapes import Array, Float


def si_sdr(clean: Float[Array, " l"], given: Float[Array, " l"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019); no mean is removed.

    alpha = <s, e> / <s, s>,   10 log10 |alpha s|^2 / |alpha s - e|^2
    """
    s, e = clean.astype(np.float64), given.astype(np.float64)
    target = float(s @ e) / max(float(s @ s), 1e-30) * s
    error = target - e
    powers = [max(float(x @ x), 1e-30) for x in (target, error)]
    return float(10 * np.log10(powers[0] / powers[1]))


def pesq(clean: Float[Array, " l"], given: Float[Array, " l"], sample_rate: int) -> float | None:
    """ITU-T P.862: narrow band at 8 kHz, wide band at 16 kHz; None where it cannot be told."""
    package = _package("pesq")
    if package is None or sample_rate not in (8000, 16_000):
        return None
    mode = "nb" if sample_rate == 8000 else "wb"
    try:
        return float(package.pesq(sample_rate, clean, given, mode))
    except (package.PesqError, ValueError):
        return None


def estoi(clean: Float[Array, " l"], given: Float[Array, " l"], sample_rate: int) -> float | None:
    """Extended short-time objective intelligibility (Jensen and Taal 2016)."""
    package = _package("pystoi")
    if package is None:
        return None
    state = np.random.get_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns where there is too little speech
        try:
            found = package.stoi(clean, given, sample_rate, extended=True)
        except (RuntimeWarning, ValueError):
            return None
        finally:
            np.random.set_state(state)
    # the package adds noise in the last bits, drawn from the global generator of numpy
    return round(float(found), 6)


def _package(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
