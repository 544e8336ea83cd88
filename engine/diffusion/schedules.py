"""Noising processes: how fast a clean sample fades, and how fast noise grows.

Every process used in this project is affine and Gaussian around an anchor y:

    x_t = y + z_t,    z_t = a(t) (x0 - y) + s(t) noise

so a process is two scalar functions, a and s (y is 0 except for degraded pictures and noisy
speech). Everything else follows from them:

    kappa = s / a        noise level of the rescaled sample z / a
    lambda = -ln kappa   half the log signal-to-noise ratio, strictly falling in t
    f = (ln a)'          linear drift of the forward equation  dz = f z dt + g dW
    g^2 = (s^2)' - 2 f s^2

Times, levels and coefficients are float64 numbers or numpy arrays, one entry a sample; they become
tensors at the last moment. Reference: Song et al., Score-Based Generative Modeling through
Stochastic Differential Equations, ICLR 2021 (VE, VP, sub-VP); Karras et al., NeurIPS 2022 (EDM).
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.core.shapes import Tensor

Level: TypeAlias = float | np.number | NDArray[np.number]
"""A float64 number, or one for each sample of a batch; complex only to take derivatives."""
Time = TypeVar("Time", Level, Tensor)

STEP = 1e-30
BETA_0, BETA_1 = 0.1, 20.0
"""Rates of VP and sub-VP at t = 0 and t = 1 (Song et al., appendix C)."""


@dataclass(frozen=True)
class Path:
    """A noising process from data (`t_min`) to noise (`t_max`).

    `a` and `s` must be written with numpy functions that take complex numbers, because their
    derivatives are taken by a complex step. `t_min` is the lowest time at which a network may be
    asked; `t_zero`, where there is one, is the time at which s is exactly 0. `prior_std` is the
    standard deviation that sampling starts from, which some processes set apart from s(t_max).
    """

    name: str
    a: Callable[[Level], Level]
    s: Callable[[Level], Level]
    t_of_lam: Callable[[Level], Level]
    t_max: float = 1.0
    t_min: float = 1e-3
    t_zero: float | None = 0.0
    prior_std: float = 1.0

    def kappa(self, t: Level) -> Level:
        with np.errstate(divide="ignore"):
            return np.divide(self.s(t), self.a(t))

    def lam(self, t: Level) -> Level:
        """Half the log signal-to-noise ratio; +inf where s is 0, -inf where a is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.a(t)) - np.log(self.s(t))

    def a_slope(self, t: Level) -> Level:
        return _slope(self.a, t)

    def s_slope(self, t: Level) -> Level:
        return _slope(self.s, t)

    def drift(self, t: Level) -> Level:
        """f(t) of the forward equation."""
        return self.a_slope(t) / self.a(t)

    def diffusion_squared(self, t: Level) -> Level:
        """g(t)^2 of the forward equation."""
        # the slope of s^2, which is finite where s begins like a root
        return _slope(lambda u: self.s(u) ** 2, t) - 2 * self.drift(t) * self.s(t) ** 2

    def v_scale(self, t: Level) -> Level:
        """By what a v is divided to read a clean sample from it; p where a^2 + (s / p)^2 is 1."""
        a, s = self.a(t), self.s(t)
        return a * (a * self.prior_std) + s * (s / self.prior_std)

    @property
    def end(self) -> float:
        """The time at which solvers stop: without noise if there is such a time, else `t_min`."""
        return self.t_min if self.t_zero is None else self.t_zero

    def is_clean(self, t: Level) -> bool:
        """Whether no noise is left at this time."""
        return self.t_zero is not None and bool(np.all(np.asarray(t) == self.t_zero))


@dataclass(frozen=True, kw_only=True)
class UntiedPath(Path):
    """A path whose lambda is given apart, and is ln a - ln s at some times only.

    Elsewhere published formulas that are equal on paper differ, and a share of the anchor is left
    over in a step that extends the clean sample: `Hop.drag`.
    """

    lam_at: Callable[[Level], Level]
    t_of_kappa: Callable[[Level], Level]

    def lam(self, t: Level) -> Level:
        return self.lam_at(t)

    def v_scale(self, t: Level) -> Level:
        return self.prior_std


def vp_log_a(t: Time, b0: float = BETA_0, b1: float = BETA_1) -> Time:
    """ln a of VP and sub-VP, of numbers, arrays or tensors alike."""
    return -t * t * (b1 - b0) / 4 - t * b0 / 2


def vp(b0: float = BETA_0, b1: float = BETA_1, *, t_min: float = 1e-3) -> Path:
    """Variance preserving, rate b0 + t (b1 - b0)."""

    def log_a(t: Level) -> Level:
        return vp_log_a(t, b0, b1)

    def t_of_lam(lam: Level) -> Level:
        return _vp_time(np.logaddexp(0, -2 * np.asarray(lam)), b0, b1)

    return Path("vp", lambda t: np.exp(log_a(t)), _vp_noise(log_a), t_of_lam, t_min=t_min)


def subvp(b0: float = BETA_0, b1: float = BETA_1, *, t_min: float = 1e-3) -> Path:
    """Sub-variance preserving: the a of `vp`, with s = 1 - a^2."""

    def log_a(t: Level) -> Level:
        return vp_log_a(t, b0, b1)

    def t_of_lam(lam: Level) -> Level:
        kappa = np.exp(-np.asarray(lam))
        return _vp_time(2 * np.log((kappa + np.sqrt(kappa**2 + 4)) / 2), b0, b1)

    return Path(
        "subvp",
        lambda t: np.exp(log_a(t)),
        lambda t: -np.expm1(2 * log_a(t)),
        t_of_lam,
        t_min=t_min,
    )


def ve(s_min: float = 0.01, s_max: Level = 50.0, *, t_min: float = 1e-5) -> Path:
    """Variance exploding, s = s_min (s_max / s_min)^t, as in the published code.

    `s_max` may be one level a sample, for samples that start at different noise.
    """
    span = np.log(s_max / s_min)
    return Path(
        "ve",
        lambda t: 1.0 + 0 * t,
        lambda t: s_min * np.exp(span * t),
        lambda lam: (-np.asarray(lam) - np.log(s_min)) / span,
        t_min=t_min,
        t_zero=None,
        prior_std=float(np.max(s_max)),
    )


def edm(t_min: float = 0.002, t_max: float = 80.0) -> Path:
    """Time is the noise level itself: a = 1, s = t."""
    return Path(
        "edm",
        lambda t: 1.0 + 0 * t,
        lambda t: 1.0 * t,
        lambda lam: np.exp(-np.asarray(lam)),
        t_max,
        t_min,
        prior_std=t_max,
    )


def flow(t_min: float = 1e-3) -> Path:
    """Straight lines from data to noise, as in flow matching: a = 1 - t, s = t."""
    return Path(
        "flow",
        lambda t: 1.0 - t,
        lambda t: 1.0 * t,
        lambda lam: 1 / (1 + np.exp(np.asarray(lam))),
        t_min=t_min,
    )


def trigonometric(t_min: float = 1e-3) -> Path:
    """A quarter circle: a = cos(pi t / 2), s = sin(pi t / 2)."""
    return Path(
        "trigonometric",
        lambda t: np.cos(np.pi * t / 2),
        lambda t: np.sin(np.pi * t / 2),
        lambda lam: np.arctan(np.exp(-np.asarray(lam))) * 2 / np.pi,
        t_min=t_min,
    )


def ouve(
    theta: float = 1.5, s_min: float = 0.05, s_max: float = 0.5, *, t_min: float = 0.03
) -> Path:
    """Ornstein-Uhlenbeck drift to the anchor with exploding noise (SGMSE+, eq. 6 and 7)."""
    span = np.log(s_max / s_min)

    def s(t: Level) -> Level:
        # exp(2 span t) - exp(-2 theta t), kept accurate near t = 0
        grown = np.exp(-2 * theta * t) * np.expm1(2 * (span + theta) * t)
        return s_min * np.sqrt(span / (theta + span) * grown)

    path = Path(
        "ouve", lambda t: np.exp(-theta * t), s, lambda lam: _invert(path.lam, lam), t_min=t_min
    )
    return Path(**{**vars(path), "prior_std": float(s(1.0))})


def mean_reverting(log_a: Sequence[float] | NDArray[np.floating], level: float) -> Path:
    """Decay to the anchor with stationary noise `level` (IR-SDE, MR sampler).

    `log_a` holds ln a at t = 0, 1, 2, ...; between them ln a is interpolated and s derived from it.
    """
    table = np.asarray(log_a, dtype=np.float64)
    times = np.arange(len(table), dtype=np.float64)
    at = _interpolation(times, table)

    def t_of_lam(lam: Level) -> Level:
        return np.interp(np.log1p((np.exp(-np.asarray(lam)) / level) ** 2), -2 * table, times)

    return Path(
        "mean_reverting",
        lambda t: np.exp(at(t)),
        lambda t: level * np.sqrt(-np.expm1(2 * at(t))),
        t_of_lam,
        t_max=times[-1],
        t_min=0.0,
        t_zero=None,
        prior_std=level,
    )


def mean_reverting_released(
    log_a: Sequence[float] | NDArray[np.floating], level: float
) -> UntiedPath:
    """The same process as the released MR sampler reads it between the entries of its tables.

    a, s and lambda are interpolated apart, so that between entries lambda is not ln a - ln s, and
    a^2 + (s / level)^2 is not 1, though it is taken for 1 where a network says the velocity.
    """
    logs = np.asarray(log_a, dtype=np.float64)
    times = np.arange(len(logs), dtype=np.float64)
    a, s = np.exp(logs), level * np.sqrt(-np.expm1(2 * logs))
    lam = logs - np.log(s)
    return UntiedPath(
        "mean_reverting_released",
        _interpolation(times, a),
        _interpolation(times, s),
        lambda value: np.interp(_real(value), lam[::-1], times[::-1]),
        t_max=times[-1],
        t_min=0.0,
        t_zero=None,
        prior_std=level,
        lam_at=_interpolation(times, lam),
        t_of_kappa=lambda value: np.interp(_real(value), s / a, times),
    )


def from_alphas_cumprod(alphas_cumprod: Sequence[float] | NDArray[np.floating]) -> Path:
    """The process of a discretely trained model, with time = timestep index 0, 1, ... N-1.

    Between indices kappa = sqrt((1 - A) / A) is interpolated, as diffusers does for fractional
    timesteps; -1 stands for the clean sample. A last entry of 0 (zero terminal signal) is lifted to
    2^-24, as diffusers does, because a sample without signal has no clean estimate from noise.
    """
    table = np.maximum(np.asarray(alphas_cumprod, dtype=np.float64), 2.0**-24)
    if np.any(np.diff(table) >= 0):
        raise SamplerError("The noise schedule must fall from clean to noisy.")
    times = np.arange(-1.0, len(table))
    kappas = np.concatenate([[0.0], np.sqrt((1 - table) / table)])
    at = _interpolation(times, kappas)
    return Path(
        "alphas_cumprod",
        lambda t: 1 / np.sqrt(1 + at(t) ** 2),
        lambda t: at(t) / np.sqrt(1 + at(t) ** 2),
        lambda lam: np.interp(np.exp(-np.asarray(lam)), kappas, times),
        t_max=times[-1],
        t_min=0.0,
        t_zero=-1.0,
    )


def _real(value: Level) -> NDArray[np.float64]:
    return np.asarray(value, dtype=np.float64)


def _vp_noise(log_a: Callable[[Level], Level]) -> Callable[[Level], Level]:
    return lambda t: np.sqrt(-np.expm1(2 * log_a(t)))


def _vp_time(decay: Level, b0: float, b1: float) -> Level:
    """The time at which -2 ln a equals `decay`."""
    return 2 * decay / (np.sqrt(b0**2 + 2 * (b1 - b0) * decay) + b0)


def _slope(function: Callable[[Level], Level], t: Level) -> Level:
    """Derivative by a complex step: exact to round-off, as nothing is subtracted."""
    return np.imag(function(np.asarray(t) + 1j * STEP)) / STEP


def _interpolation(times: NDArray, values: NDArray) -> Callable[[Level], Level]:
    """Straight lines between the knots; at a knot the slope is that of the line before it, on which
    a sampler goes on."""
    knots, last = times.tolist(), len(times) - 2

    def at(t: Level) -> Level:
        if isinstance(t, float):  # the usual case, twenty times as fast without arrays
            i = min(max(bisect_left(knots, t) - 1, 0), last)
            share = (t - knots[i]) / (knots[i + 1] - knots[i])
            return float(values[i]) + share * (float(values[i + 1]) - float(values[i]))
        left = np.searchsorted(times, np.real(t), side="left") - 1
        left = np.clip(left, 0, last)
        share = (t - times[left]) / (times[left + 1] - times[left])
        return values[left] + share * (values[left + 1] - values[left])

    return at


def _invert(falling: Callable[[Level], Level], value: Level) -> Level:
    """The t in (0, 1) with falling(t) = value, by bisection to the last bit."""
    value = np.asarray(value, dtype=np.float64)
    low, high = np.zeros(value.shape), np.ones(value.shape)
    for _ in range(60):
        middle = (low + high) / 2
        later = falling(middle) > value
        low, high = np.where(later, middle, low), np.where(later, high, middle)
    return (low + high) / 2
