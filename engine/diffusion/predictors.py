"""Predictors and correctors: sampling by the discrete chain that a noising process is made of.

A forward process, looked at in steps, is a chain. One link goes from less to more noise,

    x' = keep x + fresh z,

and there are three ways back over it, each with one evaluation of the score at x':

    reverse_diffusion   mean = (2 - keep) x' + fresh^2 score,      + fresh z
    ancestral           mean = (x' + fresh^2 score) / keep,        + back z
    probability_flow    mean = (2 - keep) x' + fresh^2 / 2 score   without noise

Euler-Maruyama is reverse_diffusion over the link of Euler's forward step. A corrector stays at the
noise level and moves towards more likely points, x + e score + sqrt(2 e) z; its size e is chosen so
that signal and noise of the move keep a ratio `snr` (Langevin), or from the noise level (ALD).

`levels="grid"` takes the links of the exact process between the times of the grid. "released" takes
those of the published code, tables of n levels whatever the grid, for which `released_grid` gives
the times. VP's table keeps 1 - beta_i of the variance, beta_i = (rate at t_i) / n, so it needs more
levels than its largest rate, 20. Sub-VP has no table in the release, which takes Euler's step there
with any number of levels; only a corrector, and ancestral sampling, would read one. Reference: Song
et al., ICLR 2021, appendices F and G, algorithms 2-5; the code runs the corrector before the
predictor, and so do we.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.core.shapes import Float, Tensor
from engine.diffusion.denoiser import Model, combine, spread
from engine.diffusion.grids import Grid
from engine.diffusion.moves import Hop, Move, Moves, State, at_each, hops
from engine.diffusion.noise import NoiseSource, no_noise
from engine.diffusion.schedules import Level, Path

PREDICTORS = ("euler_maruyama", "reverse_diffusion", "ancestral", "probability_flow", "none")
CORRECTORS = ("langevin", "ald", "none")


class Link(NamedTuple):
    """One link of the forward chain. `back` is the noise of ancestral sampling, `alpha` keep^2."""

    keep: Level
    fresh: Level
    back: Level
    alpha: Level


def exact_link(hop: Hop) -> Link:
    """The transition of the process itself, from the end of the hop to its beginning."""
    keep = hop.a0 / hop.a1
    fresh = np.sqrt(hop.s0**2 - (keep * hop.s1) ** 2)
    return Link(keep, fresh, fresh * hop.ratio, keep**2)


def euler_links(path: Path, times: NDArray[np.float64], dts: NDArray[np.float64]) -> Iterator[Link]:
    """Euler's steps of the forward equation, each from its time by its length."""
    rates = at_each(path, times, path.drift, path.diffusion_squared)
    for dt, (drift, diffusion_squared) in zip(dts, rates, strict=True):
        keep, fresh = 1 + drift * dt, np.sqrt(diffusion_squared * dt)
        # SGMSE+ sizes the corrector by the noise level alone, as for a process that keeps all
        yield Link(keep, fresh, fresh, 1.0 if path.name == "ouve" else keep**2)


def released_link(path: Path, predictor: str, t: float, count: int) -> Link:
    """The link that the published code takes at time t of a chain of `count` levels.

    Its tables are read at the whole index below t (count - 1), rounded in float32.
    """
    index = int(np.float32(t) * np.float32(count - 1))
    t_i, t_before = index / (count - 1), (index - 1) / (count - 1)
    if path.name == "ve":
        s, before = path.s(t_i), path.s(t_before) if index else 0 * path.s(t_i)
        fresh = np.sqrt(s**2 - before**2)
        link = Link(1.0, fresh, fresh * before / s, 1.0)
    else:
        # The release has no such table for sub-VP, whose a is that of VP, so VP's stands in.
        beta = -2 * path.drift(t_i) / count
        link = Link(np.sqrt(max(1 - beta, 0.0)), np.sqrt(beta), np.sqrt(beta), 1 - beta)
    if _takes_eulers_step(path, predictor):
        (euler,) = euler_links(path, np.array([t]), np.array([1 / count]))
        return euler._replace(alpha=link.alpha)
    return link


def _links(
    path: Path, predictor: str, levels: str, grid: Grid, *, corrected: bool
) -> Iterator[Link]:
    """The link of every step of the grid."""
    if levels == "released" and _takes_eulers_step(path, predictor) and not corrected:
        # the tables of the chain say nothing then
        return euler_links(path, grid.times[:-1], np.full(grid.steps, 1 / grid.steps))
    if levels == "released":
        return (released_link(path, predictor, float(t), grid.steps) for t in grid.times[:-1])
    if predictor == "euler_maruyama":
        return euler_links(path, grid.times[:-1], -np.diff(grid.times, axis=0))
    return (exact_link(hop) for _, _, hop in hops(path, grid))


def _takes_eulers_step(path: Path, predictor: str) -> bool:
    return predictor == "euler_maruyama" or (path.name == "subvp" and predictor != "ancestral")


def fewest_levels(path: Path, predictor: str, *, corrected: bool) -> int:
    """The least number of levels for which the published chain keeps something at every link."""
    if path.name == "ve" or (_takes_eulers_step(path, predictor) and not corrected):
        return 1
    largest_rate = -2 * float(path.drift(1.0))
    return int(np.floor(round(largest_rate, 6))) + 1


def released_grid(count: int, last: float) -> Grid:
    """The `count` times of the published sampler, from 1 to `last`; ends with the mean."""
    times = torch.linspace(1, last, count).double().numpy()
    return Grid(np.append(times, 0.0), "mean")


def pc(
    model: Model,
    z: State,
    grid: Grid,
    noise: NoiseSource = no_noise,
    *,
    predictor: str = "reverse_diffusion",
    corrector: str = "none",
    snr: float = 0.16,
    corrections: int = 1,
    levels: str = "grid",
    norms: str = "batch",
) -> Moves:
    """Predictor-corrector sampling: at every noise level first `corrections` moves, then the step.

    The Langevin size takes the mean norms of the batch, as published, so that a sample depends on
    its batch; with `norms="sample"` each sample has its own.
    """
    _check(predictor, corrector, snr, corrections, levels, norms)
    path = model.path
    if levels == "released":
        _check_chain(path, predictor, corrector, grid.steps)
    links = _links(path, predictor, levels, grid, corrected=corrector != "none")
    for (i, t0, hop), link in zip(hops(path, grid), links, strict=True):
        for k in range(corrections if corrector != "none" else 0):
            pred, drawn = model(z, t0), noise(z, i, f"corrector {k}")
            size = _size(corrector, snr, link, drawn, pred.score, hop.s0, norms)
            mean = z + combine((size, pred.score))
            moved = mean + combine(((2 * size) ** 0.5, drawn))
            z = yield Move(moved, mean, pred.x0, "corrector")
        if predictor == "none":
            z = yield Move(z, z, z)
            continue
        pred = model(z, t0)
        mean, fresh = _over(link, predictor, z, pred.score)
        moved = mean if np.all(fresh == 0) else mean + combine((fresh, noise(z, i)))
        z = yield Move(moved, mean, pred.x0)


def _over(link: Link, predictor: str, z: State, score: State) -> tuple[State, Level]:
    """Back over a link: the mean, and the standard deviation of the noise to add."""
    if predictor == "ancestral":
        return combine((1 / link.keep, z), (link.fresh**2 / link.keep, score)), link.back
    if predictor == "probability_flow":
        return combine((2 - link.keep, z), (link.fresh**2 / 2, score)), 0.0
    return combine((2 - link.keep, z), (link.fresh**2, score)), link.fresh


def _size(
    corrector: str, snr: float, link: Link, drawn: State, score: State, s: Level, norms: str
) -> Level | Float[Tensor, " n"]:
    """The size of a correction, for which noise over signal has the ratio `snr`.

    One for all samples (n = 1), or one for each.
    """
    scale = 2 * link.alpha * snr**2
    if corrector == "ald":
        return scale * s**2
    sizes = [x.flatten(1).norm(dim=1) for x in (drawn, score)]
    if norms == "batch":
        sizes = [size.mean(0, keepdim=True) for size in sizes]
    ratio = sizes[0] / sizes[1].clamp(min=1e-12)
    return spread(scale, ratio) * ratio**2


def _check_chain(path: Path, predictor: str, corrector: str, count: int) -> None:
    corrected = corrector != "none"
    fewest = fewest_levels(path, predictor, corrected=corrected)
    if count < fewest:
        away = ", leave the corrector out" if corrected and path.name == "subvp" else ""
        raise SamplerError(
            f"With {count} levels the published chain would keep less than nothing "
            f"(beta = {-2 * float(path.drift(1.0)) / count:.3g}).",
            f"Take at least {fewest} steps{away}, or the exact links of the process.",
        )


def _check(
    predictor: str, corrector: str, snr: float, corrections: int, levels: str, norms: str
) -> None:
    for value, name, known in (
        (predictor, "predictor", PREDICTORS),
        (corrector, "corrector", CORRECTORS),
        (levels, "kind of levels", ("grid", "released")),
        (norms, "kind of norms", ("batch", "sample")),
    ):
        if value not in known:
            raise SamplerError(f'There is no {name} "{value[:40]}".', f"Use {', '.join(known)}.")
    if corrector != "none" and not (snr > 0 and corrections >= 1):
        raise SamplerError(
            f"snr must be above 0 and corrections at least 1, got {snr:g} and {corrections}.",
            "0.16 and 1 are the published values.",
        )
    if predictor == "none" and corrector == "none":
        raise SamplerError("Nothing moves without predictor and corrector.", "Choose one of them.")
