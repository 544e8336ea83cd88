"""The golden cases: solvers and paths of three libraries in float64, through the one sequence here.

    python -m pytest tests/networks -m golden

`neural-de_revheun_ode` was made by diffrax, `neural-de_revheun_sde_diag` by torchsde (values, and
gradients by its reversible adjoint), `neural-de_cde_path` by torchcde. Tolerance 1e-9; what is
reached is some 1e-15.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.networks._solvers import Times, reversible_heun
from engine.networks.neural_de import paths
from engine.reversible import Mode, ReversibleSequence

TOLERANCE = 1e-9


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


class OrdinaryField(nn.Module):
    """W2 tanh(W1 y + b1 sin 3t)."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.W1, self.b1, self.W2 = (_weight(arrays[name]) for name in ("W1", "b1", "W2"))

    def forward(self, t: float, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return (
            torch.tanh(y @ self.W1.T + self.b1 * torch.tensor(3 * t, dtype=y.dtype).sin())
            @ self.W2.T
        )


class NoisyField(nn.Module):
    """Drift tanh(y W1' + sin 2t) W2', diagonal diffusion sigmoid(y V' + v0)."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        named = ("W1", "W2", "V", "v0")
        self.W1, self.W2, self.V, self.v0 = (_weight(arrays[f"param_{name}"]) for name in named)

    def drift_and_diffusion(
        self, t: float, y: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        inside = y @ self.W1.T + torch.tensor(2 * t, dtype=y.dtype).sin()
        return inside.tanh() @ self.W2.T, (y @ self.V.T + self.v0).sigmoid()


def _weight(array: object) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(array).clone())


def _ordinary(arrays: Arrays, mode: Mode, *, every: int | None) -> float:
    field = OrdinaryField(arrays)
    times = Times(tuple(arrays["ts"].tolist()))
    sequence = reversible_heun(field, times, mode=mode, every=every)
    worst = _compared(field, sequence, arrays, "", ())
    if every is None:
        return worst
    _, states = sequence(_start(arrays))
    return max(worst, largest(torch.cat(states).detach(), arrays["ys"]))


def _noisy(arrays: Arrays, mode: Mode) -> float:
    field, dw = NoisyField(arrays), torch.from_numpy(arrays["dW"])
    times = Times(tuple(arrays["ts"].tolist()))
    sequence = reversible_heun(field, times, mode=mode, is_noisy=True, every=1)
    worst = _compared(field, sequence, arrays, "param_", (dw,))
    _, states = sequence(_start(arrays), (dw,))
    return max(worst, largest(torch.stack(states).detach(), arrays["ys"][1:]))


def _compared(
    field: nn.Module, sequence: ReversibleSequence, arrays: Arrays, prefix: str,
    ctx: tuple[Tensor, ...],
) -> float:  # fmt: skip
    """Last z, gradients of c . y_N, and the start walked back to."""
    y0 = _start(arrays)[0].requires_grad_()
    with torch.enable_grad():
        (y, z), _ = sequence((y0, y0 * 1.0), ctx)
        loss = (torch.from_numpy(arrays["c"]) * y).sum()
        named = dict(field.named_parameters())
        found = torch.autograd.grad(loss, [y0, *named.values()])
    wanted = [arrays["grad_y0"], *(arrays[f"grad_{name}"] for name in named)]
    back = sequence.inverse((y.detach(), z.detach()), ctx)
    return max(
        largest(z.detach(), arrays["z_final"]),
        *(largest(a, b) for a, b in zip(found, wanted, strict=True)),
        *(largest(stream, arrays["y0"]) for stream in back),
    )


def _start(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """One sample where the arrays have no batch."""
    y0 = torch.from_numpy(arrays["y0"]).reshape(-1, arrays["y0"].shape[-1])
    return y0, y0.clone()


def _path(arrays: Arrays) -> float:
    """Filled values, the causal Hermite path and its slope, and the rectilinear path."""
    ts, x = torch.from_numpy(arrays["ts"]), torch.from_numpy(arrays["x"])
    filled = paths.filled(ts, x)
    path, q = paths.Hermite(ts, filled), torch.from_numpy(arrays["q"])
    rect_ts, rect_x = paths.rectilinear(ts, filled)
    return max(
        largest(filled, arrays["filled_linear"]),
        largest(path.at(q), arrays["evaluate"]),
        largest(path.slope_at(q), arrays["derivative"]),
        largest(rect_ts, arrays["rect_ts"]),
        largest(rect_x, arrays["rect_x"]),
    )


def _modes(name: str, check: Callable[[Arrays, Mode], float]) -> tuple[Check, ...]:
    listed: tuple[Mode, ...] = ("plain", "checkpoint", "reversible")
    return tuple((f"{name}, {mode}", TOLERANCE, partial(_in, mode, check)) for mode in listed)


def _in(mode: Mode, check: Callable[[Arrays, Mode], float], arrays: Arrays) -> float:
    return check(arrays, mode)


CHECKS: dict[str, tuple[Check, ...]] = {
    "neural-de_revheun_ode": (
        *_modes("every state, gradients, way back", partial(_ordinary, every=1)),
        *_modes("merged kicks: end, gradients, way back", partial(_ordinary, every=None)),
    ),
    "neural-de_revheun_sde_diag": _modes("every state, gradients, way back", _noisy),
    "neural-de_cde_path": (("filled, Hermite, rectilinear", TOLERANCE, _path),),
}
