"""What solvers are made of: the steps they report, the moves they make, the levels of a hop."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from engine.core.shapes import Num, Tensor
from engine.diffusion.denoiser import combine
from engine.diffusion.grids import Grid
from engine.diffusion.schedules import Level, Path, UntiedPath

State: TypeAlias = Num[Tensor, "b *d"]
Role = Literal["step", "corrector"]


@dataclass(frozen=True)
class Step:
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


class Hop:
    """The levels of one step, from time t0 to time t1.

    `drag` is ratio a0 - a1 e^-h, which is 0 unless lambda is a table of its own.
    """

    def __init__(self, path: Path, t0: Level, t1: Level) -> None:
        self.a0, self.s0, self.a1, self.s1 = path.a(t0), path.s(t0), path.a(t1), path.s(t1)
        self.ends_clean = path.is_clean(t1)
        if self.ends_clean:
            self.s1 = 0 * self.s1
        self.h = np.inf if self.ends_clean else path.lam(t1) - path.lam(t0)
        self.ratio = self.s1 / self.s0
        is_tied = not isinstance(path, UntiedPath)
        self.drag = 0.0 if is_tied else self.ratio * self.a0 - self.a1 * np.exp(-self.h)

    def ode(self, z: State, x0: State) -> State:
        """The first-order step of the probability flow, to exactly x0 where no noise is left."""
        if self.ends_clean:
            return combine((self.a1, x0))
        return combine((self.ratio, z), (self.a1 - self.ratio * self.a0, x0))


def hops(path: Path, grid: Grid, *, one_step: bool = False) -> Iterator[tuple[int, Level, Hop]]:
    """Index, time and levels of every step.

    With `one_step` each goes one step of the path's table, wherever the grid goes on, as the
    released code of IR-SDE does when it is asked for fewer steps.
    """
    for i, (t0, t1) in enumerate(grid.hops()):
        yield i, t0, Hop(path, t0, t0 - 1 if one_step else t1)
