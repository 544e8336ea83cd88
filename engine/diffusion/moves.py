"""What solvers are made of: the steps they report, the moves they make, the levels of a hop."""

from collections.abc import Callable, Generator, Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.core.shapes import Num, Tensor
from engine.diffusion.denoiser import combine
from engine.diffusion.grids import Grid
from engine.diffusion.schedules import Level, Path, UntiedPath

State: TypeAlias = Num[Tensor, "b *d"]
Role = Literal["step", "corrector"]
LOOK_EVERY = 8  # steps, between two tests that the state is finite


class Step(NamedTuple):
    """After step `i` (from 0): the state `z` at time `t`, and `mean`, z without this step's noise.

    `x0` is the clean estimate, centred, that the step was made with; `nfe` counts evaluations since
    the solve began. A corrector moves the state and leaves the time: it reports the index of the
    step that comes after it.
    """

    i: int
    t: Level
    z: State
    mean: State
    x0: State
    nfe: int
    role: Role = "step"


class Move(NamedTuple):
    """What a solver yields; it is sent back the state to go on from, which a hook may change."""

    z: State
    mean: State
    x0: State
    role: Role = "step"


Moves: TypeAlias = Generator[Move, State, None]


class Levels(NamedTuple):
    """a, s and lambda of a path at one time, and whether no noise is left there."""

    a: Level
    s: Level
    lam: Level
    is_clean: bool


class Hop:
    """The levels of one step, from one time to the next.

    `drag` is ratio a0 - a1 e^-h, which is 0 unless lambda is a table of its own.
    """

    def __init__(self, path: Path, start: Levels, end: Levels) -> None:
        self.a0, self.s0, self.a1 = start.a, start.s, end.a
        self.ends_clean = end.is_clean
        self.s1 = 0 * end.s if end.is_clean else end.s
        self.h = np.inf if end.is_clean else end.lam - start.lam
        self.ratio = self.s1 / self.s0
        is_tied = not isinstance(path, UntiedPath)
        self.drag = 0.0 if is_tied else self.ratio * self.a0 - self.a1 * np.exp(-self.h)

    @classmethod
    def between(cls, path: Path, t0: Level, t1: Level) -> "Hop":
        """The step from t0 to t1, outside of any grid."""
        (start,), (end,) = (levels(path, np.asarray(t, np.float64)[None]) for t in (t0, t1))
        return cls(path, start, end)

    def ode(self, z: State, x0: State) -> State:
        """The first-order step of the probability flow, to exactly x0 where no noise is left."""
        if self.ends_clean:
            return combine((self.a1, x0))
        return combine((self.ratio, z), (self.a1 - self.ratio * self.a0, x0))


def levels(path: Path, times: NDArray[np.float64]) -> list[Levels]:
    """The levels at every time of a grid."""
    rows = at_each(path, times, path.a, path.s, path.lam)
    zero = np.nan if path.t_zero is None else path.t_zero
    clean = (times == zero).reshape(len(times), -1).all(axis=1).tolist()
    return [Levels(a, s, lam, last) for (a, s, lam), last in zip(rows, clean, strict=True)]


def at_each(
    path: Path, times: NDArray[np.float64], *functions: Callable[[Level], Level]
) -> Iterator[tuple[Level, ...]]:
    """What these functions of the path give at every time, each computed for all times at once."""
    # A process may have levels of its own for each sample: then every time has as many.
    own = times.ndim == 1 and np.ndim(path.s(path.t_max)) > 0
    given = times[:, None] if own else times
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [np.asarray(function(given)) for function in functions]
    return zip(*map(each, columns), strict=True)


def each(column: NDArray[np.float64]) -> list[Level]:
    """A number a time, as Python counts with it quickly; else an array a time."""
    return column.tolist() if column.ndim == 1 else list(column)


def hops(path: Path, grid: Grid, *, one_step: bool = False) -> Iterator[tuple[int, Level, Hop]]:
    """Index, time and levels of every step.

    With `one_step` each goes one step of the path's table, wherever the grid goes on, as the
    released code of IR-SDE does when it is asked for fewer steps.
    """
    starts = levels(path, grid.times)
    ends = levels(path, grid.times[:-1] - 1) if one_step else starts[1:]
    for i, (t, start, end) in enumerate(zip(each(grid.times), starts, ends, strict=False)):
        yield i, t, Hop(path, start, end)


def check_finite(z: State, t: Level, *, done: int, steps: int, walker: str, advice: str) -> None:
    """Raise `SamplerError` where the state after `done` steps holds NaN or an infinity.

    It is tested every few steps and at the end, as a state that left the numbers never returns. On
    an accelerator a test makes the host wait, so there it is made at the end alone.
    """
    is_due = done == steps or (done % LOOK_EVERY == 0 and z.device.type == "cpu")
    # A sum is finite only where all its numbers are; one that is not may be just too large.
    if is_due and not (torch.isfinite(z.sum()) or torch.isfinite(z).all()):
        raise SamplerError(
            f"{walker} left the range of numbers by step {done}, t = {np.ravel(t)[0]:g}.", advice
        )
