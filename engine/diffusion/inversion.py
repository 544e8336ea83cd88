"""From a picture back to its noise: two ways to run the probability flow the other way.

    ddim_backwards     the DDIM step with the times reversed. It asks the network where it stands,
                       not where it goes: each step misses by O(h^2), and the way back misses again.
    reversible_heun    keeps the state twice, (y, w), and steps by formulas that can be solved for
                       what was before. Walking back undoes the walk to round-off, in any step size.

Both go from `t_min`, the least noise that a network knows: a picture is taken as a sample of that
level. In y = z / a and kappa = s / a the flow reads dy/dkappa = eps, and a step of reversible Heun
(Kidger et al. 2021, arXiv:2105.13493, alg. 1), with k the step in kappa, is

    w1 = 2 y0 - w0 + k eps(w0)                     w0 = 2 y1 - w1 - k eps(w1)
    y1 = y0 + k (eps(w0) + eps(w1)) / 2            y0 = y1 - k (eps(w0) + eps(w1)) / 2

The right side is the left side with -k: the inverse of a step is a step. One evaluation a step,
order 2. What it does not promise: |y - w| grows where the flow contracts, which is the way to the
data, so with another prompt on the way back few steps may not be enough; and the noise of a picture
is the pair, not y alone. Exactness is that of float64 states; a network in float32 gives the same
answer only to the same input, so a last bit lost in the state may show at 1e-7.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.core.precision import wide
from engine.core.shapes import Float, Tensor
from engine.diffusion.denoiser import Model
from engine.diffusion.grids import Grid
from engine.diffusion.moves import State, Step, at_each, check_finite, hops
from engine.diffusion.schedules import Level, Path


@dataclass(frozen=True)
class Pair:
    """The two halves (y, w) of a reversible state at time t, in y = z / a, float64.

    Where the device of z has no float64 they lie on the CPU, and the model fetches them.
    """

    y: Float[Tensor, "b *d"]
    w: Float[Tensor, "b *d"]

    @classmethod
    def of(cls, z: State, path: Path, t: float) -> "Pair":
        """Both halves equal, as a walk begins."""
        y = wide(z) / float(path.a(t))
        return cls(y, y)

    def z(self, path: Path, t: float) -> State:
        return float(path.a(t)) * self.y

    def gap(self) -> float:
        """Root mean square of y - w over that of y: how far the halves have come apart."""
        return float((self.y - self.w).square().mean().sqrt() / self.y.square().mean().sqrt())


@dataclass(frozen=True)
class PairStep:
    """After step `i`: the pair at time `t`, and the clean estimate the step was made with."""

    i: int
    t: float
    pair: Pair
    x0: State
    nfe: int


def ddim_backwards(model: Model, z: State, grid: Grid) -> Iterator[Step]:
    """From z at the last time of a falling grid up to its first, by DDIM steps.

    Raises `SamplerError` where the grid reaches below `t_min`.
    """
    rising = _noisy(grid, model.path).backwards()
    rising.check(model.path, rising=True)
    model.plan(rising.times, z)
    begun = model.nfe
    for i, t0, hop in hops(model.path, rising):
        pred, t1 = model(z, t0), rising.times[i + 1]
        z = hop.ode(z, pred.x0)
        _check_finite(z, t1, i + 1, rising.steps)
        yield Step(i, t1, z, z, pred.x0, model.nfe - begun)


def reversible_heun(
    model: Model, pair: Pair, grid: Grid, *, backwards: bool = False
) -> Iterator[PairStep]:
    """From the first time of a falling grid to its last, or the other way with `backwards`.

    n steps take n + 1 evaluations. A walk and the walk the other way with the same model and grid
    cancel to round-off.
    """
    path = model.path
    grid = _noisy(grid, path).backwards() if backwards else _noisy(grid, path)
    grid.check(path, rising=backwards)
    begun = model.nfe
    y, w = pair.y, pair.w
    model.plan(grid.times, w)
    (a, kappa), *later = at_each(path, grid.times, path.a, path.kappa)
    before = model(float(a) * w, grid.times[0])
    for i, (a, after_kappa) in enumerate(later):
        k, t1, kappa = float(after_kappa - kappa), grid.times[i + 1], after_kappa
        w = 2 * y - w + k * before.eps
        after = model(float(a) * w, t1)
        y = y + k / 2 * (before.eps + after.eps)
        _check_finite(y, t1, i + 1, grid.steps)
        yield PairStep(i, float(t1), Pair(y, w), before.x0, model.nfe - begun)
        before = after


def _noisy(grid: Grid, path: Path) -> Grid:
    """The grid with a last time without noise replaced by `t_min`."""
    times = grid.times
    if path.is_clean(times[-1]):
        times = times[:-1]
        if times[-1] > path.t_min:
            times = np.append(times, path.t_min)
    return Grid(times)


def _check_finite(z: State, t: Level, done: int, steps: int) -> None:
    advice = "Take more steps, or a guidance of 1."
    check_finite(z, t, done=done, steps=steps, walker="The inversion", advice=advice)
