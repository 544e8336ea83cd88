"""Solvers: from noise to data in few network evaluations.

All are written in centred coordinates z = a x0 + s eps, for any process. From time s to time t,
with h = lambda_t - lambda_s, the probability-flow equation has the exact solution

    z_t = (s_t / s_s) z_s + a_t * integral of e^(lambda - lambda_t) x0^(lambda) d lambda

and the solvers differ in how they guess the clean estimate x0^ within a step: held constant (DDIM),
on a line through the last two (DPM-Solver++ 2M), corrected afterwards (UniPC), averaged (Heun).

    model = Model(net, path, "eps", "index")
    for step in solve("dpmpp_2m", model, z, trailing(path, 10), Noise(seed=3)):
        show(step.x0, step.nfe)

A solver is a generator: memory of earlier steps is local to it, stopping means to stop iterating.
Every name of the literature that means the same formula is an alias in `SOLVERS`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from engine.core.errors import SamplerError
from engine.diffusion.adaptive import rk45
from engine.diffusion.denoiser import Model, combine, has_zero
from engine.diffusion.grids import Grid
from engine.diffusion.moves import Hop, Move, Moves, State, Step, at_each, check_finite, each, hops
from engine.diffusion.noise import NoiseSource, no_noise
from engine.diffusion.predictors import pc
from engine.diffusion.schedules import Level, Path

__all__ = ["SOLVERS", "Hop", "Move", "Moves", "Solver", "State", "Step", "find", "run", "solve"]


ADVICE = "Take more steps, a lower guidance, or a solver of first order."


@dataclass(frozen=True)
class Solver:
    """A solver with what a reader and an NFE budget need to know about it."""

    name: str
    title: str
    moves: Callable[..., Moves]
    order: int
    cite: str
    evals_per_step: int = 1
    stochastic: bool = False
    aliases: tuple[str, ...] = ()
    note: str = ""

    def evals(self, steps: int, *, to_zero: bool) -> int:
        """Evaluations of `steps` steps; a step that ends without noise takes a single one."""
        return self.evals_per_step * steps - (self.evals_per_step - 1) * to_zero

    def steps_for(self, nfe: int, *, to_zero: bool) -> int:
        """The most steps within `nfe` evaluations."""
        least = self.evals(1, to_zero=to_zero)
        if nfe < least:
            raise SamplerError(
                f"{self.title} needs at least {least} network evaluations, got {nfe}.",
                "Raise the NFE, or choose a solver with one evaluation a step.",
            )
        return (nfe + (self.evals_per_step - 1) * to_zero) // self.evals_per_step


def solve(
    solver: str,
    model: Model,
    z: State,
    grid: Grid,
    noise: NoiseSource = no_noise,
    *,
    hook: Callable[[Step], State] | None = None,
    **options: float | int | str,
) -> Iterator[Step]:
    """Walk from z, at the first time of the grid, to its last time, yielding every step.

    `hook` sees each step, of a corrector too, and gives the state to go on from, which is the one
    that is reported. Raises `SamplerError` for an unknown
    solver, a grid that does not fall, missing noise, or a state that is no longer finite, which is
    tested every few steps and at the end.
    """
    entry = find(solver)
    grid.check(model.path)
    model.plan(grid.times, z)
    begun, times, last = model.nfe, each(grid.times), grid.steps - 1
    moves = entry.moves(model, z, grid, noise, **options)
    i, move = 0, next(moves)
    while True:
        z, mean, x0, role = move
        ended = role == "step"
        if ended:
            z = mean if i == last and grid.final == "mean" else z
            check_finite(
                z, times[i + 1], done=i + 1, steps=last + 1, walker=entry.title, advice=ADVICE
            )
        step = Step(i, times[i + ended], z, mean, x0, model.nfe - begun, role)
        if hook:
            z = hook(step)
            step = step._replace(z=z)
        yield step
        i += ended
        if i > last:
            break
        move = moves.send(z)
    if grid.final == "x0":
        x0 = model(z, grid.times[-1]).x0
        yield Step(grid.steps, grid.times[-1], x0, x0, x0, model.nfe - begun)


def run(
    solver: str,
    model: Model,
    z: State,
    grid: Grid,
    noise: NoiseSource = no_noise,
    *,
    hook: Callable[[Step], State] | None = None,
    **options: float | int | str,
) -> State:
    """The state that `solve` ends with; without gradients unless the model takes them."""
    with torch.set_grad_enabled(model.grad and torch.is_grad_enabled()):
        for step in solve(solver, model, z, grid, noise, hook=hook, **options):
            z = step.z
    return z


def ddim(
    model: Model, z: State, grid: Grid, noise: NoiseSource = no_noise, *, eta: float = 0.0
) -> Moves:
    """Hold x0^ over the step; `eta` swaps a share of the old noise for new.

        z' = a_t x0 + sqrt(s_t^2 - w^2) eps + w xi,    w = eta s_t sqrt(1 - e^(-2h))

    eta = 0 is the Euler step in (z / a, kappa); eta = 1 is ancestral sampling.
    """
    if not 0 <= eta <= 1:
        raise SamplerError(f"eta must lie between 0 and 1, got {eta:g}.")
    for i, t0, hop in hops(model.path, grid):
        x0 = model(z, t0).x0
        mean = hop.ode(z, x0)
        moved = mean
        if eta and not hop.ends_clean:
            fresh = eta * hop.s1 * np.sqrt(-np.expm1(-2 * hop.h))
            kept = np.sqrt(hop.s1**2 - fresh**2) / hop.s0
            mean = combine((kept, z), (hop.a1 - kept * hop.a0, x0))
            moved = mean + combine((fresh, noise(z, i)))
        z = yield Move(moved, mean, x0)


def euler_t(model: Model, z: State, grid: Grid, noise: NoiseSource = no_noise) -> Moves:
    """Plain Euler in t, z' = z + dt u: the naive baseline."""
    for i, t0, hop in hops(model.path, grid):
        pred, dt = model(z, t0), grid.times[i + 1] - t0
        moved = combine((hop.a1, pred.x0)) if hop.ends_clean else z + combine((dt, pred.u))
        z = yield Move(moved, moved, pred.x0)


def rk4(model: Model, z: State, grid: Grid, noise: NoiseSource = no_noise) -> Moves:
    """The classical fourth-order Runge-Kutta step in t; a step to no noise is first order."""
    halves = np.diff(grid.times, axis=0) / 2
    model.plan(np.concatenate([grid.times, grid.times[:-1] + halves]), z)
    middles = each(grid.times[:-1] + halves)
    for i, t0, hop in hops(model.path, grid):
        pred, t1 = model(z, t0), grid.times[i + 1]
        dt = t1 - t0
        if hop.ends_clean:
            moved = combine((hop.a1, pred.x0))
        else:
            u1 = pred.u
            u2 = model(z + combine((dt / 2, u1)), middles[i]).u
            u3 = model(z + combine((dt / 2, u2)), middles[i]).u
            u4 = model(z + combine((dt, u3)), t1).u
            moved = z + combine((dt / 6, u1 + 2 * u2 + 2 * u3 + u4))
        z = yield Move(moved, moved, pred.x0)


def euler_maruyama(
    model: Model, z: State, grid: Grid, noise: NoiseSource, *, one_step: bool = False
) -> Moves:
    """Euler's step of the reverse-time equation, mean = z + (f z - g^2 score) dt."""
    path, times = model.path, grid.times
    rates = at_each(path, times[:-1], path.drift, path.diffusion_squared)
    for i, (t0, (f, g2)) in enumerate(zip(times, rates, strict=False)):
        pred = model(z, t0)
        dt = -1.0 if one_step else times[i + 1] - t0
        mean = z + combine((f * dt, z), (-g2 * dt, pred.score))
        z = yield Move(mean + combine((np.sqrt(-g2 * dt), noise(z, i))), mean, pred.x0)


def heun(
    model: Model,
    z: State,
    grid: Grid,
    noise: NoiseSource = no_noise,
    *,
    churn: float = 0.0,
    churn_from: float = 0.05,
    churn_to: float = 1.0,
    churn_noise: float = 1.007,
) -> Moves:
    """Trapezoid in (z / a, kappa): the slope is eps^, averaged over both ends (EDM, alg. 1).

    The second evaluation is left out where no signal was, or no noise is left. `churn` is gamma of
    the stochastic variant (EDM, alg. 2): where `churn_from` <= kappa <= `churn_to`, the noise level
    is raised by this share first, with fresh noise. It is drawn on every step.
    """
    for i, t0, hop in hops(model.path, grid):
        t1 = grid.times[i + 1]
        if churn:
            z, t0 = _churned(
                model.path, z, t0, noise(z, i), churn, churn_from, churn_to, churn_noise
            )
            hop = Hop.between(model.path, t0, t1)
        pred = model(z, t0)
        moved = hop.ode(z, pred.x0)
        if not hop.ends_clean and not has_zero(hop.a0):
            slopes = pred.eps + model(moved, t1).eps
            span = hop.s1 - hop.s0 * hop.a1 / hop.a0
            moved = combine((hop.a1 / hop.a0, z), (span / 2, slopes))
        z = yield Move(moved, moved, pred.x0)


def _churned(
    path: Path,
    z: State,
    t: Level,
    drawn: State,
    churn: float,
    low: float,
    high: float,
    scale: float,
) -> tuple[State, Level]:
    """The state at a noise level raised by the share `churn`, in samples within the band."""
    kappa = path.kappa(t)
    raised = np.where((kappa >= low) & (kappa <= high), 1 + churn, 1.0) * kappa
    later = np.where(raised > kappa, path.t_of_lam(-np.log(raised)), t)
    ratio = path.a(later) / path.a(t)
    fresh = path.a(later) * np.sqrt(np.maximum(raised**2 - kappa**2, 0))
    return combine((ratio, z), (scale * fresh, drawn)), later


class Weights(NamedTuple):
    """Coefficients of z, of the value m, its slope D1, fresh noise, its bend D2, and the anchor."""

    z: Level
    m: Level
    slope: Level
    noise: Level = 0.0
    bend: Level = 0.0
    anchor: Level = 0.0


def _ode_data(hop: Hop, *, midpoint: bool) -> Weights:
    p = -np.expm1(-hop.h)
    exact = 1 - p / hop.h
    slope = hop.a1 * (p / 2 if midpoint else exact)
    bend = -hop.a1 * (exact / hop.h - 0.5)
    return Weights(hop.ratio, hop.a1 * p, slope, bend=bend, anchor=hop.drag)


def _ode_noise(hop: Hop, *, midpoint: bool) -> Weights:
    p = np.expm1(hop.h)
    exact = p / hop.h - 1
    slope = -hop.s1 * (p / 2 if midpoint else exact)
    return Weights(hop.a1 / hop.a0, -hop.s1 * p, slope, bend=-hop.s1 * (exact / hop.h - 0.5))


def _sde_data(hop: Hop, *, midpoint: bool) -> Weights:
    p = -np.expm1(-2 * hop.h)
    slope = p / 2 if midpoint else 1 - p / (2 * hop.h)
    kept, fresh = hop.ratio * np.exp(-hop.h), hop.s1 * np.sqrt(p)
    drag = hop.drag * np.exp(-hop.h) / hop.a0
    return Weights(kept, hop.a1 * p, hop.a1 * slope, fresh, anchor=drag)


def _sde_noise(hop: Hop, *, midpoint: bool) -> Weights:
    p = np.expm1(hop.h)
    slope = p / 2 if midpoint else p / hop.h - 1
    fresh = hop.s1 * np.sqrt(np.expm1(2 * hop.h))
    return Weights(hop.a1 / hop.a0, -2 * hop.s1 * p, -2 * hop.s1 * slope, fresh)


def multistep(
    reading: str,
    weights: Callable[..., Weights],
    order: int,
    *,
    stochastic: bool = False,
    one_step: bool = False,
) -> Callable[..., Moves]:
    """A solver that extends the model's last values along a line, or with order 3 along a parabola.

        z' = c_z z + c_m m + c_d D1 + c_c D2 + c_n xi

        order 2    D1 = (m - m') / r,    D2 = 0,    r = h' / h
        order 3    D1 = E + r D2,    D2 = (E - E') / (r + r'),
                   E = (m - m') / r,    E' = (m' - m'') / r',    r' = h'' / h

    `reading` is the value m, "x0" or "eps". `flavour` is "exact" (the line is integrated
    exactly) or "midpoint" (its value in the middle is taken; the default of diffusers). With
    `taper`, runs of fewer than ten steps lower the order towards the end; see `_order_at`.
    """

    def moves(
        model: Model,
        z: State,
        grid: Grid,
        noise: NoiseSource = no_noise,
        *,
        flavour: str = "exact",
        taper: bool = False,
    ) -> Moves:
        if flavour not in ("exact", "midpoint"):
            raise SamplerError(f'Unknown flavour "{flavour}".', "Use exact or midpoint.")
        before: tuple[tuple[State, Level], ...] = ()
        for i, t0, hop in hops(model.path, grid, one_step=one_step):
            pred = model(z, t0)
            m = getattr(pred, reading)
            c = None if hop.ends_clean else weights(hop, midpoint=flavour == "midpoint")
            mean = hop.ode(z, pred.x0) if c is None else combine((c.z, z), (c.m, m))
            bend = _order_at(i + 1, grid.steps, order, taper) - 1
            if c is not None and bend:
                mean = mean + _bent(c, hop.h, m, *before[:bend])
            if c is not None and model.anchor is not None and np.any(c.anchor):
                mean = mean + combine((c.anchor, model.anchor))
            moved = mean
            if stochastic:
                # drawn on a last step without noise too, as published samplers do
                drawn = noise(z, i)
                moved = mean if c is None else mean + combine((c.noise, drawn))
            before = ((m, hop.h), *before)[: order - 1]
            z = yield Move(moved, mean, pred.x0)

    return moves


def _order_at(step: int, steps: int, order: int, taper: bool) -> int:
    """The order of a step, counted from 1: what the history allows.

    With `taper`, the released MR sampler's rule for fewer than ten steps: from the first step of
    full order on, step N - k is of order k, and the last one of full order again.
    """
    if step < order:
        return step
    return min(order, steps - step) if taper and step < steps < 10 else order


def _bent(
    c: Weights,
    h: Level,
    m: State,
    last: tuple[State, Level],
    older: tuple[State, Level] | None = None,
) -> State:
    """c_d D1 + c_c D2 from the values before m, newest first, each with the length of its step."""
    m1, h1 = last
    if older is None:
        return combine((c.slope * h / h1, m - m1))
    m2, h2 = older
    bend = (c.slope * h1 / h + c.bend) * h / (h1 + h2)
    e, before = combine((h / h1, m - m1)), combine((h / h2, m1 - m2))
    return combine((c.slope, e), (bend, e - before))


def unipc2(model: Model, z: State, grid: Grid, noise: NoiseSource = no_noise) -> Moves:
    """UniPC of order 2, B(h) = e^(-h) - 1: each evaluation also corrects the step before it.

    The yielded state is the prediction that the next evaluation is made at. The last step has no
    evaluation after it and stays uncorrected.
    """
    correct: Callable[[State], State] | None = None
    before: tuple[State, Level] | None = None
    for _, t0, hop in hops(model.path, grid):
        x0 = model(z, t0).x0
        if correct is not None:
            z = z + correct(x0)
        moved, slope = hop.ode(z, x0), None
        r: Level = 0.0
        if before is not None and not hop.ends_clean:
            r = -before[1] / hop.h
            slope = combine((1 / r, before[0] - x0))
            moved = moved + combine((-hop.a1 * np.expm1(-hop.h) / 2, slope))
        correct, before = partial(_unipc_correction, hop, x0, slope, r), (x0, hop.h)
        z = yield Move(moved, moved, x0)


def _unipc_correction(hop: Hop, x0: State, slope: State | None, r: Level, x0_after: State) -> State:
    """What the prediction lacked, now that the clean estimate at its end is known."""
    b = np.expm1(-hop.h)
    if slope is None:
        return combine((-hop.a1 * b / 2, x0_after - x0))
    p2 = -b / hop.h - 1
    p3 = -p2 / hop.h - 0.5
    # rho solves [1 1; r 1] rho = [p2, 2 p3] / b
    rho1 = (p2 - 2 * p3) / b / (1 - r)
    rho2 = p2 / b - rho1
    return combine((-hop.a1 * b * (rho1 - 0.5), slope), (-hop.a1 * b * rho2, x0_after - x0))


_DPM = "Lu et al. 2022, arXiv:2211.01095"
_MRS = "Li et al. 2025, arXiv:2502.07856"
_IRSDE = "Luo et al. 2023, arXiv:2301.11699"

_ALL = (
    Solver(
        "ddim",
        "DDIM",
        ddim,
        1,
        "Song et al. 2021, arXiv:2010.02502",
        aliases=("euler", "dpmpp_1"),
        note="Euler's step in (z / a, kappa); eta > 0 adds noise.",
    ),
    Solver("heun", "Heun", heun, 2, "Karras et al. 2022, arXiv:2206.00364", evals_per_step=2),
    Solver(
        "dpmpp_2m",
        "DPM-Solver++ 2M",
        partial(multistep("x0", _ode_data, 2), flavour="midpoint"),
        2,
        _DPM,
        note="The slope's middle value; the default of diffusers.",
    ),
    Solver(
        "dpmpp_2m_exact",
        "DPM-Solver++ 2M exact",
        multistep("x0", _ode_data, 2),
        2,
        _DPM,
        aliases=("mrs_ode_d_2",),
        note='The slope integrated exactly; "heun" in diffusers.',
    ),
    Solver(
        "dpm_2m_eps",
        "DPM-Solver 2M",
        multistep("eps", _ode_noise, 2),
        2,
        "Lu et al. 2022, arXiv:2206.00927",
        aliases=("mrs_ode_n_2",),
        note="On the noise estimate instead of the clean one.",
    ),
    Solver(
        "dpmpp_3m",
        "DPM-Solver++ 3M",
        multistep("x0", _ode_data, 3),
        2,
        _DPM,
        aliases=("mrs_ode_d_3",),
        note="As released: half of the bend that a third order takes, so the order is 2.",
    ),
    Solver(
        "dpm_3m_eps",
        "DPM-Solver 3M",
        multistep("eps", _ode_noise, 3),
        2,
        "Lu et al. 2022, arXiv:2206.00927",
        aliases=("mrs_ode_n_3",),
        note="On the noise estimate instead of the clean one; of order 2 as well.",
    ),
    Solver(
        "unipc2",
        "UniPC 2",
        unipc2,
        3,
        "Zhao et al. 2023, arXiv:2302.04867",
        note="Order 2, raised to 3 by the corrector.",
    ),
    Solver(
        "ancestral",
        "Ancestral",
        multistep("x0", _sde_data, 1, stochastic=True),
        1,
        "Ho et al. 2020, arXiv:2006.11239",
        stochastic=True,
        aliases=("sde_dpmpp_1", "euler_ancestral", "mrs_sde_d_1"),
        note="Posterior sampling with a stride; DDIM with eta = 1.",
    ),
    Solver(
        "sde_dpmpp_2m",
        "SDE-DPM-Solver++ 2M",
        partial(multistep("x0", _sde_data, 2, stochastic=True), flavour="midpoint"),
        2,
        _DPM,
        stochastic=True,
        note="The slope's middle value; the default of diffusers.",
    ),
    Solver(
        "sde_dpmpp_2m_exact",
        "SDE-DPM-Solver++ 2M exact",
        multistep("x0", _sde_data, 2, stochastic=True),
        2,
        _DPM,
        stochastic=True,
        aliases=("mrs_sde_d_2",),
        note="The slope integrated exactly.",
    ),
    Solver(
        "sde_dpm_1",
        "SDE-DPM-Solver 1",
        multistep("eps", _sde_noise, 1, stochastic=True),
        1,
        _DPM,
        stochastic=True,
        aliases=("mrs_sde_n_1",),
        note="Unstable below 10 steps.",
    ),
    Solver(
        "sde_dpm_2",
        "SDE-DPM-Solver 2M",
        multistep("eps", _sde_noise, 2, stochastic=True),
        2,
        _DPM,
        stochastic=True,
        aliases=("mrs_sde_n_2",),
        note="Unstable below 10 steps.",
    ),
    Solver("euler_t", "Euler in t", euler_t, 1, "the naive baseline"),
    Solver("rk4", "Runge-Kutta 4 in t", rk4, 4, "Kutta 1901", evals_per_step=4),
    Solver(
        "euler_maruyama",
        "Euler-Maruyama",
        euler_maruyama,
        1,
        "Song et al. 2021, arXiv:2011.13456",
        stochastic=True,
    ),
    Solver(
        "reverse_diffusion",
        "Reverse diffusion",
        partial(pc, predictor="reverse_diffusion"),
        1,
        "Song et al. 2021, arXiv:2011.13456",
        stochastic=True,
        note="The reverse of the process taken link by link.",
    ),
)

_SONG = "Song et al. 2021, arXiv:2011.13456"

_OTHERS = (
    Solver(
        "mrs_ode_d_1",
        "MRS-ODE-d-1",
        multistep("x0", _ode_data, 1),
        1,
        _MRS,
        note="DDIM, where lambda is ln(a / s); not where the tables are read as released.",
    ),
    Solver("mrs_ode_n_1", "MRS-ODE-n-1", multistep("eps", _ode_noise, 1), 1, _MRS, note="As well."),
    Solver(
        "pc",
        "Predictor-corrector",
        pc,
        1,
        _SONG,
        stochastic=True,
        note="Its cost depends on the corrector, and a sample on its batch.",
    ),
    Solver("rk45", "Runge-Kutta 4(5)", rk45, 5, _SONG, note="Adaptive: the cost is what it took."),
    Solver(
        "posterior_released",
        "Posterior, as released",
        multistep("x0", _sde_data, 1, stochastic=True, one_step=True),
        1,
        _IRSDE,
        stochastic=True,
        note="Moves one table step at each visited time; strided posterior sampling is ancestral.",
    ),
    Solver(
        "euler_maruyama_released",
        "Euler-Maruyama, as released",
        partial(euler_maruyama, one_step=True),
        1,
        _IRSDE,
        stochastic=True,
        note="Moves one table step at each visited time.",
    ),
)

SOLVERS: dict[str, Solver] = {entry.name: entry for entry in _ALL}
"""Solvers of a fixed cost, in which every sample is alone."""
_BY_NAME = SOLVERS | {entry.name: entry for entry in _OTHERS}
_BY_NAME |= {alias: entry for entry in _ALL for alias in entry.aliases}


def find(name: str) -> Solver:
    """The solver of this name or alias; raises `SamplerError` with the names there are."""
    entry = _BY_NAME.get(name)
    if entry is None:
        raise SamplerError(
            f'There is no solver "{name[:40]}".', f"Choose {', '.join(SOLVERS)}, pc, rk45."
        )
    return entry
