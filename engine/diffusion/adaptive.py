"""The probability flow with error control: sampling, encoding, and the exact likelihood.

    dz/dt = f z - g^2 score / 2,        d log p / dt = - div of that along the curve

so that log p_0(x) = log p_1(z_1) + integral of the divergence from t = `last` to 1. The divergence
is estimated by one probe v with independent signs that stays the same over the whole curve
(Skilling and Hutchinson), v . grad (v . flow), or summed exactly in few dimensions. RK45 with
rtol = atol = 1e-5 on a flat float64 state, as in the published code; the whole batch is one system
and shares its steps. Reference: Song et al., ICLR 2021, section 4.3 and appendix D.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import RK45

from engine.core.errors import SamplerError
from engine.core.precision import at_home
from engine.core.shapes import Float, Tensor
from engine.diffusion.denoiser import Model, Pred, combine
from engine.diffusion.grids import Grid
from engine.diffusion.moves import Move, Moves, State
from engine.diffusion.noise import NoiseSource, no_noise
from engine.diffusion.schedules import Path

Velocity = Callable[[float, NDArray[np.float64]], NDArray[np.float64]]


def flow(pred: Pred) -> State:
    """The velocity dz/dt of the probability flow."""
    path, t = pred.path, pred.t
    return combine((path.drift(t), pred.z), (-path.diffusion_squared(t) / 2, pred.score))


def rk45(
    model: Model, z: State, grid: Grid, noise: NoiseSource = no_noise, *, tolerance: float = 1e-5
) -> Moves:
    """Runge-Kutta 4(5) that chooses its own steps; the grid only says when to report.

    A hook that changes the state starts the error control anew. The last evaluation before a
    report gives its clean estimate.
    """
    if grid.times.ndim > 1 or z.is_complex():
        raise SamplerError("RK45 takes real states and one grid for all.", "Choose another solver.")
    times, i = grid.times, 0
    while i < grid.steps:
        for _, moved, x0 in travel(model, z, times[i:], tolerance=tolerance):
            i += 1
            z = yield Move(moved, moved, x0)
            if z is not moved:
                break


def travel(
    model: Model, z: State, times: NDArray[np.float64], *, tolerance: float = 1e-5
) -> Iterator[tuple[float, State, State]]:
    """Time, state and clean estimate at each of `times` after the first, either way along the flow.

    From noise to data this is sampling, from data to noise it is encoding.
    """
    seen: list[State] = []

    def velocity(t: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        pred = model(_state(flat, z), t)
        seen[:] = [pred.x0]
        return flow(pred).cpu().double().numpy().ravel()

    for _, t, flat in integrate(velocity, _flat(z), times, tolerance):
        if t is not None:
            yield t, _state(flat, z), seen[0]


def integrate(
    velocity: Velocity, flat: NDArray[np.float64], times: NDArray[np.float64], tolerance: float
) -> Generator[tuple[float, float | None, NDArray[np.float64]], None, None]:
    """Yields (time reached, None, state) after every step, and (time, time, state) at `times`."""
    if not tolerance > 0:
        raise SamplerError(f"The tolerance must be above 0, got {tolerance:g}.", "1e-5 is usual.")
    solver = RK45(velocity, times[0], flat, times[-1], rtol=tolerance, atol=tolerance)
    sign, place = np.sign(times[-1] - times[0]), 1
    while solver.status == "running":
        said = solver.step()
        if solver.status == "failed":
            raise SamplerError(f"The flow could not be integrated at t = {solver.t:g}: {said}.")
        yield solver.t, None, solver.y
        while place < len(times) and sign * (solver.t - times[place]) >= 0:
            at_end = place == len(times) - 1
            state = solver.y if at_end else solver.dense_output()(times[place])
            yield solver.t, times[place], state
            place += 1


@dataclass(frozen=True)
class Likelihood:
    """log p_0 in nats and its latent, the state at t = 1."""

    log_density: Float[Tensor, " b"]
    latent: State
    nfe: int


def log_likelihood(
    model: Model,
    x: State,
    probe: State | None,
    *,
    last: float = 1e-5,
    tolerance: float = 1e-5,
) -> Generator[float, None, Likelihood]:
    """The log density of clean samples under the flow; yields the time reached so far.

    `model` must let gradients through. `probe` holds signs of the shape of x; None sums the exact
    divergence, one gradient a dimension. Taken at t = `last`, where x has almost no noise.
    """
    if not model.grad:
        raise SamplerError("The likelihood needs a model that lets gradients through.")
    path, begun, size = model.path, model.nfe, x.numel()

    def velocity(t: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.enable_grad():
            z = _state(flat[:size], x).requires_grad_()
            v = flow(model(z, t))
            here, terms = at_home([v, _divergence(v, z, probe)])
        parts = here.double().numpy().ravel(), terms.double().sum(1).numpy()
        return np.concatenate(parts)

    ended = np.concatenate([_flat(x), np.zeros(len(x))])
    for t, _, state in integrate(velocity, ended, np.array([last, 1.0]), tolerance):
        ended = state
        yield t
    latent = _state(ended[:size], x)
    gained = torch.from_numpy(ended[size:])
    return Likelihood(prior_log_density(path, latent) + gained, latent, model.nfe - begun)


def _divergence(v: State, z: State, probe: State | None) -> Float[Tensor, "b d"]:
    """Terms that add up to the divergence of each sample, where the samples are."""
    if probe is not None:
        (pull,) = torch.autograd.grad((v * probe).sum(), z)
        return (pull * probe).flatten(1)
    columns, terms = v.flatten(1), []
    for k in range(columns.shape[1]):
        (pull,) = torch.autograd.grad(columns[:, k].sum(), z, retain_graph=True)
        terms.append(pull.flatten(1)[:, k])
    return torch.stack(terms, 1)


def prior_log_density(path: Path, z: State) -> Float[Tensor, " b"]:
    """log N(z; 0, prior_std^2) over all numbers of a sample."""
    wide = z.cpu().double().flatten(1)
    variance = float(path.prior_std) ** 2
    size = wide.shape[1] * math.log(2 * math.pi * variance)
    return -(size + wide.square().sum(1) / variance) / 2


def bits_per_dim(
    log_density: Float[Tensor, " b"], dims: int, *, low: float, high: float
) -> Float[Tensor, " b"]:
    """-log2 p a dimension of 8-bit data that was dequantised and scaled to [low, high].

    The offset log2(256 / (high - low)) takes the scaling back: 7 for [-1, 1], 8 for [0, 1].
    """
    return -log_density / (dims * math.log(2)) + math.log2(256 / (high - low))


def _flat(z: State) -> NDArray[np.float64]:
    return z.cpu().double().numpy().ravel()


def _state(flat: NDArray[np.float64], like: State) -> State:
    return torch.from_numpy(flat.copy()).reshape(like.shape).to(like)
