"""A path through observations with gaps: what drives a controlled differential equation.

Missing values are filled linearly in each channel, at both ends by the nearest observation. The
path through the filled values is a cubic Hermite spline with **backward differences**,

    X(t_i) = x_i,   X'(t_i) = (x_i - x_{i-1}) / (t_i - t_{i-1}),   X'(t_0) = X'(t_1)

so a later observation changes nothing before the last one (Morrill, Kidger, Yang, Lyons, "Neural
Controlled Differential Equations for Online Prediction Tasks", 2021, section 3.3). A linear fill
does look ahead to the next observed value; the rectilinear path, which holds a value while time
moves and then moves the value, does not.
"""

from dataclasses import dataclass

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.networks._solvers import check_times


def check_series(ts: Float[Tensor, " n"], x: Float[Tensor, "n c"]) -> None:
    """Raises `BadInput` for times that do not increase, one observation, infinite values, and
    a first row with a gap."""
    check_times(ts.tolist())
    if bool(x[0].isnan().any()):
        raise BadInput(
            "The first row has a missing value, so nothing says where the path starts.",
            "Begin with a row that is whole.",
        )
    if bool(x.isinf().any()) or not bool(ts.isfinite().all()):
        raise BadInput("A value is infinite.", "Leave the cell empty where nothing was observed.")


def filled(ts: Float[Tensor, " n"], x: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b n c"]:
    """The observations with gaps filled linearly in time, at both ends by the nearest one.

    A channel without any observation is zero.
    """
    n = len(ts)
    seen = ~x.isnan()
    place = torch.arange(n, device=x.device)[:, None].expand_as(x)
    before = torch.where(seen, place, -1).cummax(-2).values
    after = torch.where(seen, place, n).flip(-2).cummin(-2).values.flip(-2)
    left = torch.where(before < 0, after, before).clamp(max=n - 1)
    right = torch.where(after >= n, before, after).clamp(min=0)
    a, b = (x.gather(-2, index).nan_to_num(0.0) for index in (left, right))
    span = ts[right] - ts[left]
    share = torch.where(span > 0, (ts[:, None] - ts[left]) / span.clamp(min=1e-300), 0.0)
    return torch.where(seen, x, a + share * (b - a))


@dataclass(frozen=True)
class Hermite:
    """The causal cubic through `x`, `*b n c`, at times `ts`, `n`."""

    ts: Tensor
    x: Tensor

    def at(self, q: Float[Tensor, " m"]) -> Float[Tensor, "*b m c"]:
        """X(q); before and after the observations the outer pieces go on."""
        i, s, h = self._piece(q)
        x0, d, slope = self._coefficients(i, h)
        # With end slope d / h and start slope m, the cubic is x0 + m s + (a + b s/h) (s/h)^2.
        gap = d - slope * h
        u = s / h
        return x0 + slope * s + (2 * gap - gap * u) * u**2

    def slope_at(self, q: Float[Tensor, " m"]) -> Float[Tensor, "*b m c"]:
        """X'(q)."""
        i, s, h = self._piece(q)
        _, d, slope = self._coefficients(i, h)
        gap, u = d - slope * h, s / h
        return slope + (4 * gap * u - 3 * gap * u**2) / h

    def _piece(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i = (torch.searchsorted(self.ts, q) - 1).clamp(0, len(self.ts) - 2)
        return i, (q - self.ts[i])[:, None], (self.ts[i + 1] - self.ts[i])[:, None]

    def _coefficients(self, i: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps = self.x.diff(dim=-2) / self.ts.diff()[:, None]
        slopes = torch.cat([steps[..., :1, :], steps], -2)
        return self.x[..., i, :], steps[..., i, :] * h, slopes[..., i, :]


def rectilinear(
    ts: Float[Tensor, " n"], x: Float[Tensor, "*b n c"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, "*b m c"]]:
    """Knots, 2n - 1, of the path that holds a value while time moves and then moves the value."""
    return ts.repeat_interleave(2)[1:], x.repeat_interleave(2, -2)[..., :-1, :]
