"""Where a solver stops on its way from noise to data: a decreasing list of times.

    uniform_lam(path, 10)                     equal steps in log signal-to-noise, down to t_min
    karras(path, 10, to_zero=True)            ... the last of the ten steps ends without noise
    uniform_t(path, 10, start=levels)         one column a sample, each from its own level

A grid of n steps has n + 1 times. With `to_zero` the network is still asked n times: at n noisy
times, of which the lowest is t_min, and the last step goes from there to no noise at all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.diffusion.schedules import Level, Path

Final = Literal["none", "x0", "mean"]


@dataclass(frozen=True)
class Grid:
    """Times of shape (n + 1,), or (n + 1, b) for one column a sample.

    `final` says what is done at the last time: nothing, one more evaluation that returns the clean
    estimate ("x0"), or the last step without its noise ("mean").
    """

    times: NDArray[np.float64]
    final: Final = "none"

    def __post_init__(self) -> None:
        if len(self.times) < 2:
            raise SamplerError("A grid needs at least two times.", "Ask for one step or more.")
        if not np.all(np.isfinite(self.times)):
            raise SamplerError("A grid holds a time that is not a number.")

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def hops(self) -> Iterator[tuple[Level, Level]]:
        """The pairs (from, to) of every step."""
        return zip(self.times[:-1], self.times[1:], strict=True)

    def backwards(self) -> "Grid":
        """The same times from data to noise, for inversion."""
        return Grid(self.times[::-1].copy())

    def check(self, path: Path, *, rising: bool = False) -> None:
        """Raise `SamplerError` unless the times fall (or rise) strictly within the path."""
        steps = np.diff(self.times, axis=0) * (1 if rising else -1)
        if np.any(steps <= 0):
            where = int(np.argwhere(steps <= 0)[0][0])
            raise SamplerError(
                f"Times of a grid must {'rise' if rising else 'fall'} from step to step, "
                f"but {np.ravel(self.times[where])[0]:g} is followed by "
                f"{np.ravel(self.times[where + 1])[0]:g}.",
                "Ask for fewer steps, or another spacing.",
            )
        times = self.times[:-1] if path.is_clean(self.times[-1]) else self.times
        slack = 1e-9 * (path.t_max - path.t_min)
        outside = times[(times < path.t_min - slack) | (times > path.t_max + slack)]
        if outside.size:
            raise SamplerError(
                f"The time {outside.flat[0]:g} lies outside [{path.t_min:g}, {path.t_max:g}], "
                f"where the process {path.name} is defined."
            )


def timesteps(times: Sequence[float] | NDArray, final: Final = "none") -> Grid:
    """A grid of exactly these times."""
    return Grid(np.asarray(times, dtype=np.float64), final)


def uniform_t(
    path: Path,
    steps: int,
    *,
    start: Level | None = None,
    end: float | None = None,
    to_zero: bool = False,
    final: Final = "none",
) -> Grid:
    """Equal steps in t."""
    return _grid(path, steps, start, end, to_zero, final, lambda t: t, lambda t: t)


def uniform_lam(
    path: Path,
    steps: int,
    *,
    start: Level | None = None,
    end: float | None = None,
    to_zero: bool = False,
    final: Final = "none",
) -> Grid:
    """Equal steps in the log signal-to-noise ratio."""
    return _grid(path, steps, start, end, to_zero, final, path.lam, path.t_of_lam)


def karras(
    path: Path,
    steps: int,
    *,
    rho: float = 7.0,
    start: Level | None = None,
    end: float | None = None,
    to_zero: bool = False,
    final: Final = "none",
) -> Grid:
    """Equal steps in kappa^(1/rho) (Karras et al. 2022, eq. 5)."""

    def forth(t: Level) -> Level:
        return path.kappa(t) ** (1 / rho)

    def back(root: Level) -> Level:
        return path.t_of_lam(-rho * np.log(root))

    return _grid(path, steps, start, end, to_zero, final, forth, back)


def powers_t(
    path: Path,
    steps: int,
    *,
    power: float = 2.0,
    start: Level | None = None,
    end: float | None = None,
    to_zero: bool = False,
    final: Final = "none",
) -> Grid:
    """Equal steps in t^(1/power): short steps near the data."""

    def forth(t: Level) -> Level:
        return np.asarray(t) ** (1 / power)

    return _grid(path, steps, start, end, to_zero, final, forth, lambda root: root**power)


def trailing(path: Path, steps: int) -> Grid:
    """Whole timesteps of a discrete model, from its last one, then to no noise.

    This is the spacing that starts where training ended (Lin et al. 2024); the timesteps equal
    diffusers' `timestep_spacing="trailing"`.
    """
    count = int(path.t_max) + 1
    return Grid(np.append(np.round(np.arange(count, 0, -count / steps))[:steps] - 1, path.end))


def leading(path: Path, steps: int, *, offset: int = 0) -> Grid:
    """Whole timesteps at equal distances, ending at `offset`, then to no noise (DDIM)."""
    ratio = (int(path.t_max) + 1) // steps
    return Grid(np.append(np.arange(steps)[::-1] * ratio + float(offset), path.end))


def sgmse(path: Path, steps: int) -> Grid:
    """The grid of SGMSE+: `steps` equal times down to t_min, then one step to zero, its mean."""
    times = np.append(np.linspace(path.t_max, path.t_min, steps), 0.0)
    return Grid(times, "mean")


def _grid(
    path: Path,
    steps: int,
    start: Level | None,
    end: float | None,
    to_zero: bool,
    final: Final,
    forth: Callable[[Level], Level],
    back: Callable[[Level], Level],
) -> Grid:
    """Equal steps in forth(t), mapped back to times; the two ends are kept exactly."""
    if steps < 1:
        raise SamplerError(f"steps must be at least 1, got {steps}.", "10 is a good start.")
    if to_zero and path.t_zero is None:
        raise SamplerError(f"The process {path.name} never comes to no noise.", 'Use final="x0".')
    start = path.t_max if start is None else np.asarray(start, dtype=np.float64)
    end = path.t_min if end is None else end
    if to_zero and steps == 1:
        return Grid(np.stack([np.asarray(start), np.full(np.shape(start), path.t_zero)]), final)
    noisy = steps - 1 if to_zero else steps
    times = np.asarray(back(np.linspace(forth(start), forth(end), noisy + 1)), dtype=np.float64)
    times[0], times[-1] = start, end
    if to_zero:
        times = np.concatenate([times, np.full_like(times[:1], path.t_zero)])
    return Grid(times, final)
