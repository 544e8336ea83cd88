"""Differential equations solved by couplings: a solve is a reversible sequence, and runs back.

    dy = f(t, y) dt + g(t, y) o dW      (Stratonovich; without g an ordinary equation)

The state is doubled, y and z, which start equal. One step of **reversible Heun** is three couplings
(Kidger, Foster, Li, Lyons 2021, algorithm 1, in which u = y + V/2 is the stream between the first
two):

    y <- y + V(t0, z) / 2;    z <- -z + 2 y;    y <- y + V(t1, z) / 2;    V = f dt + g dW

The last kick of a step and the first of the next are at one time and one z, so both are one, and a
solve of N steps costs N + 1 evaluations of the field. **McCallum and Foster** (2024) make a
reversible method of any one-step method with increment Psi_h, at the price of a coupling c < 1:

    y <- c y + (1 - c) z + Psi_h(t0, z);    z <- z - Psi_{-h}(t1, y)

What runs back is then `ReversibleSequence.inverse`, and what it costs to train is its `mode`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.reversible import Coupling, Mode, ReversibleSequence

Field = Callable[[float, Tensor], Tensor]
"""f(t, y): the slope at one time of states `b d`."""

GRID = 2.0**-40
"""Kicks rounded to multiples of this add up without rounding in float64, up to 4096 in size."""


@dataclass(frozen=True)
class Times:
    """Increasing times t_0 ... t_N of a solve, as Python floats: never rounded to float32."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_times(self.values)

    @classmethod
    def even(cls, end: float, steps: int, start: float = 0.0) -> "Times":
        """Equal steps from `start` to `end`."""
        return cls(tuple(start + (end - start) * k / steps for k in range(steps + 1)))

    @property
    def steps(self) -> int:
        return len(self.values) - 1

    def step(self, k: int) -> float:
        """h of step k."""
        return self.values[k + 1] - self.values[k]


def check_times(values: Sequence[float]) -> None:
    """Raises `BadInput` for fewer than two times, and for times that do not increase."""
    if len(values) < 2:
        raise BadInput(
            f"{len(values)} time{'s' if len(values) != 1 else ''} make no path.",
            "Give at least two observations.",
        )
    for k in range(1, len(values)):
        if not values[k] > values[k - 1]:
            raise BadInput(
                f"Times must increase; {values[k]:g} comes after {values[k - 1]:g} (row {k + 1}).",
                "Sort the rows by time, and merge those of equal times.",
            )


# ---------------------------------------------------------------------- reversible Heun


class Kicks(nn.Module):
    """All kicks of a solve, each half of V before and half of V after its time.

    `noise` stands in the context: Brownian increments `n b m` of all steps, m as `times_noise` of
    the field needs it. With `grid`, kicks are rounded to its multiples.
    """

    def __init__(
        self, field: nn.Module, times: Times, *, merged: bool, grid: float | None = None
    ) -> None:
        super().__init__()
        self.field, self.times, self.grid = field, times, grid
        last = times.steps
        # The steps whose half kick happens at each kick: the one before, the one after, or both.
        halves: list[tuple[int, tuple[int, ...]]] = []
        for k in range(last):
            halves += [(k, (k,)), (k + 1, (k,))]
        if merged:
            inner = [(k, (k - 1, k)) for k in range(1, last)]
            halves = [(0, (0,)), *inner, (last, (last - 1,))]
        self.kicks = halves

    def forward(
        self, z: Float[Tensor, "b d"], *noise: Float[Tensor, "n b m"], step_id: int
    ) -> Float[Tensor, "b d"]:
        at, steps = self.kicks[step_id]
        t, half = self.times.values[at], sum(self.times.step(k) for k in steps) / 2
        if noise:
            drift, diffusion = self.field.drift_and_diffusion(t, z)  # type: ignore[operator]
            dw = noise[0][steps[0]] if len(steps) == 1 else noise[0][steps[0]] + noise[0][steps[1]]
            kick = drift * half + times_noise(diffusion, dw / 2)
        else:
            kick = self.field(t, z) * half
        return kick if self.grid is None else (kick / self.grid).round() * self.grid


def times_noise(diffusion: Float[Tensor, "b *g"], dw: Float[Tensor, "b m"]) -> Float[Tensor, "b d"]:
    """g dW, with g diagonal (`b d`, where m = d) or a matrix of each sample (`b d m`)."""
    if diffusion.dim() == dw.dim():
        return diffusion * dw
    return (diffusion @ dw.unsqueeze(-1)).squeeze(-1)


class Twice(nn.Module):
    """2 y, what the reflection z <- -z + 2 y adds."""

    def forward(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return 2 * y


def reversible_heun(
    field: nn.Module,
    times: Times,
    *,
    mode: Mode = "reversible",
    anchor_every: int | None = None,
    is_noisy: bool = False,
    every: int | None = None,
    grid: float | None = None,
) -> ReversibleSequence:
    """The sequence of a solve on (y, z), which both start as y_0.

    With `every`, the states after each so many steps are tapped; kicks stay apart, which costs one
    more evaluation a step. `is_noisy` fields have `drift_and_diffusion` and read increments from
    the context. `grid` (see `GRID`) makes the way back equal in every bit in float64.
    """
    merged = every is None
    kicks = Kicks(field, times, merged=merged, grid=grid)
    ctx = (0,) if is_noisy else ()
    listed: list[Coupling] = []
    taps: list[tuple[int, int]] = []
    flip = Coupling(Twice(), 1, (0,), scale=-1.0)
    for k in range(times.steps):
        first = k if merged else 2 * k
        listed += [Coupling(kicks, 0, (1,), ctx=ctx, step_id=first), flip]
        if not merged:
            listed.append(Coupling(kicks, 0, (1,), ctx=ctx, step_id=first + 1))
            if (k + 1) % (every or 1) == 0:
                taps.append((len(listed) - 1, 0))
    if merged:
        listed.append(Coupling(kicks, 0, (1,), ctx=ctx, step_id=times.steps))
    return ReversibleSequence(
        listed, taps=taps, mode=mode, anchor_every=anchor_every, preserve_rng=False
    )


def increments(times: Times, noise: Float[Tensor, "n b m"]) -> Float[Tensor, "n b m"]:
    """Brownian increments: standard normal draws times the root of each step."""
    roots = [times.step(k) ** 0.5 for k in range(times.steps)]
    return noise * torch.tensor(roots, dtype=noise.dtype, device=noise.device)[:, None, None]


# ---------------------------------------------------------------------- one-step methods


def midpoint(field: Field, t: float, y: Tensor, h: float) -> Float[Tensor, "*d"]:
    """Increment of the midpoint method, of order 2."""
    return h * field(t + h / 2, y + h / 2 * field(t, y))


def heun(field: Field, t: float, y: Tensor, h: float) -> Float[Tensor, "*d"]:
    """Increment of Heun's method, of order 2."""
    slope = field(t, y)
    return h / 2 * (slope + field(t + h, y + h * slope))


def rk4(field: Field, t: float, y: Tensor, h: float) -> Float[Tensor, "*d"]:
    """Increment of the classical method of Runge and Kutta, of order 4."""
    a = field(t, y)
    b = field(t + h / 2, y + h / 2 * a)
    c = field(t + h / 2, y + h / 2 * b)
    return h / 6 * (a + 2 * b + 2 * c + field(t + h, y + h * c))


Increment = Callable[[Field, float, Tensor, float], Tensor]


def solve(
    increment: Increment, field: Field, times: Times, y: Float[Tensor, "*d"]
) -> Iterator[Float[Tensor, "*d"]]:
    """States after each step of a one-step method."""
    for k in range(times.steps):
        y = y + increment(field, times.values[k], y, times.step(k))
        yield y


def last_of(states: Iterator[Tensor]) -> Float[Tensor, "*d"]:
    """The end of a solve."""
    (end,) = deque(states, maxlen=1)
    return end


def solve_back(
    increment: Increment, field: Field, times: Times, y: Float[Tensor, "*d"]
) -> Iterator[Float[Tensor, "*d"]]:
    """The same method with steps of -h from the end: what running time backwards usually means."""
    for k in reversed(range(times.steps)):
        y = y + increment(field, times.values[k + 1], y, -times.step(k))
        yield y


# ---------------------------------------------------------------------- McCallum and Foster


class Pull(nn.Module):
    """(1 - c) z + Psi_h(t, z): what y gains in a step."""

    def __init__(self, field: nn.Module, increment: Increment, times: Times, c: float) -> None:
        super().__init__()
        self.field, self.increment, self.times, self.c = field, increment, times, c

    def forward(self, z: Float[Tensor, "b d"], *, step_id: int) -> Float[Tensor, "b d"]:
        t, h = self.times.values[step_id], self.times.step(step_id)
        gain = self.increment(self.field, t, z, h)
        return gain if self.c == 1 else (1 - self.c) * z + gain


class Push(nn.Module):
    """-Psi_{-h}(t + h, y): what z gains in a step."""

    def __init__(self, field: nn.Module, increment: Increment, times: Times) -> None:
        super().__init__()
        self.field, self.increment, self.times = field, increment, times

    def forward(self, y: Float[Tensor, "b d"], *, step_id: int) -> Float[Tensor, "b d"]:
        t, h = self.times.values[step_id + 1], self.times.step(step_id)
        return -self.increment(self.field, t, y, -h)


def mccallum_foster(
    field: nn.Module,
    times: Times,
    *,
    c: float = 0.9,
    increment: Increment = midpoint,
    mode: Mode = "reversible",
    anchor_every: int | None = None,
) -> ReversibleSequence:
    """Their reversible form of a one-step method, on (y, z), which both start as y_0.

    c = 1 runs back best and is barely stable; c < 1 pulls z towards y, and divides by c on the way
    back, so that errors grow like c^-N: anchors cut that.
    """
    pull, push = Pull(field, increment, times, c), Push(field, increment, times)
    listed: list[Coupling] = []
    for k in range(times.steps):
        listed.append(Coupling(pull, 0, (1,), scale=c, step_id=k))
        listed.append(Coupling(push, 1, (0,), step_id=k))
    return ReversibleSequence(listed, mode=mode, anchor_every=anchor_every, preserve_rng=False)


# ---------------------------------------------------------------------- the continuous adjoint


class Adjoint(torch.autograd.Function):
    """Optimise, then discretise: the gradient solves an equation of its own, back in time.

        a' = -a df/dy,    a_theta' = -a df/dtheta,    and y once more beside them

    (Chen, Rubanova, Bettencourt, Duvenaud 2018, algorithm 1.) Keeps y_N alone. The y that it solves
    backwards is not the one that was solved forwards, so the gradient is off by the order of the
    method.
    """

    @staticmethod
    def forward(ctx, field, times, increment, y, *parameters):  # type: ignore[no-untyped-def]
        ctx.field, ctx.times, ctx.increment, ctx.parameters = field, times, increment, parameters
        with torch.no_grad():
            end = last_of(solve(increment, field, times, y))
        ctx.save_for_backward(end)
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (y,) = ctx.saved_tensors
        shape, size = y.shape, y.numel()
        count = sum(p.numel() for p in ctx.parameters)
        state = torch.cat([y.reshape(-1), grad.reshape(-1), y.new_zeros(count)])

        def slopes(t: float, flat: Tensor) -> Tensor:
            at = flat[:size].reshape(shape).detach().requires_grad_()
            with torch.enable_grad():
                slope = ctx.field(t, at)
                found = torch.autograd.grad(
                    slope, [at, *ctx.parameters], -flat[size : 2 * size].reshape(shape),
                    allow_unused=True,
                )  # fmt: skip
            parts = [
                torch.zeros_like(p) if part is None else part
                for p, part in zip([at, *ctx.parameters], found, strict=True)
            ]
            return torch.cat([slope.detach().reshape(-1), *(part.reshape(-1) for part in parts)])

        state = last_of(solve_back(ctx.increment, slopes, ctx.times, state))
        parts = state[2 * size :].split([p.numel() for p in ctx.parameters])
        of_weights = [part.reshape(p.shape) for part, p in zip(parts, ctx.parameters, strict=True)]
        return None, None, None, state[size : 2 * size].reshape(shape), *of_weights


def adjoint(
    field: nn.Module, times: Times, y: Float[Tensor, "b d"], *, increment: Increment = midpoint
) -> Float[Tensor, "b d"]:
    """y_N of a one-step method, whose gradient comes from the continuous adjoint."""
    trained = [p for p in field.parameters() if p.requires_grad]
    found: Tensor = Adjoint.apply(field, times, increment, y, *trained)
    return found
