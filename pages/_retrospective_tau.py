"""tau, the doubt that REVERSE allows: a power of ten on a slider."""

import math
from typing import TYPE_CHECKING

from engine.core.errors import BadInput
from pages._fields import real_number

if TYPE_CHECKING:
    pass


# Powers of ten; the slider is logarithmic.
PRESETS = {"strict": -2.0, "balanced": -1.0, "talkative": -0.5}


def tau_of(power: object) -> float:
    """tau of a power of ten, with few digits so that links stay short."""
    exponent = real_number(power, "tau")
    if not -8 <= exponent <= 0:
        raise BadInput("tau must lie between 1e-8 and 1.", "Put the slider where you want it.")
    return float(f"{10**exponent:.4g}")


def power_of(tau: object) -> object:
    """The place of the slider for a tau."""
    if isinstance(tau, int | float) and 0 < tau <= 1:
        return round(4 * math.log10(tau)) / 4
    return tau
