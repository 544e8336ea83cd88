"""There and back where the score is exact: points to their latents and back, with their density.

The flow has no noise, so it returns; the reverse equation from the same latents ends elsewhere, in
the same density. The log density along the flow is compared with the true one.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from engine.core import rng
from engine.core.job import Progress, Steps, relay
from engine.core.settings import OneOf, Range
from engine.diffusion.adaptive import log_likelihood, travel
from engine.diffusion.denoiser import Model
from engine.diffusion.mixture import Mixture, ring
from engine.diffusion.noise import Stream
from engine.diffusion.predictors import released_grid
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import run as run_solver
from engine.sampling.score_sde import PROCESSES
from engine.sampling.score_sde.particles import density_of
from engine.sampling.score_sde.processes import LAST, process_of
from engine.sampling.score_sde.results import Returned

TIMES = 24


def run(
    *,
    seed: int,
    process: Annotated[str, OneOf(PROCESSES)] = "vp",
    points: Annotated[int, Range(1, 12)] = 6,
    others: Annotated[int, Range(1, 400)] = 40,
    nfe: Annotated[int, Range(4, 1000)] = 100,
    tolerance: Annotated[float, Range(1e-9, 0.1)] = 1e-5,
) -> Steps[Returned]:
    """Points of a ring of eight modes to their latents and back by the flow; `others` ends of the
    noisy equation from each latent; log densities. The score is exact, so it takes no model."""
    world, path, last = ring(variance=0.01), process_of(process), LAST[process]
    x = spread(world, points, seed)
    net = world.model(path)
    result = Returned(density_of(world, 1.0, 0.0), x.numpy())
    yield Progress(0, 2 * TIMES + 12, "points of the data", result)
    # equal steps in log noise: most of the way of a point is near the data
    lams = np.linspace(float(path.lam(last)), float(path.lam(1.0)), TIMES + 1)
    times = np.asarray(path.t_of_lam(lams), dtype=np.float64)
    times[0], times[-1] = last, 1.0
    track = [x.numpy()]
    for done, (t, z, _) in enumerate(travel(net, x, times, tolerance=tolerance), 1):
        track.append((z / scale_of(path, t)).numpy())
        result = replace(result, there=np.stack(track), nfe_there=net.nfe)
        yield Progress(done, 2 * TIMES + 12, "to the latents", result)
    latent, net, track = z, world.model(path), [track[-1]]
    back = travel(net, latent, times[::-1].copy(), tolerance=tolerance)
    for done, (t, z, _) in enumerate(back, TIMES + 1):
        track.append((z / scale_of(path, t)).numpy())
        result = replace(result, back=np.stack(track), nfe_back=net.nfe)
        yield Progress(done, 2 * TIMES + 12, "and back", result)
    result = replace(result, gap=float((z - x).norm(dim=1).max()))
    noise = Stream(seed)
    begun = latent.repeat_interleave(others, 0)
    ended = run_solver(
        "pc", world.model(path), begun, released_grid(nfe, last), noise, predictor="euler_maruyama"
    )
    elsewhere = ended.reshape(points, others, 2)
    left = (modes_of(world, ended) != modes_of(world, x).repeat_interleave(others)).double()
    result = replace(result, elsewhere=elsewhere.numpy(), nfe_noisy=nfe, left=float(left.mean()))
    yield Progress(2 * TIMES + 2, 2 * TIMES + 12, "with noise, from the same latents", result)

    def tell(t: float) -> Progress:
        share = int(9 * min(float(t), 1.0))
        return Progress(2 * TIMES + 2 + share, 2 * TIMES + 12, "the likelihood", result)

    likelihood = yield from relay(log_likelihood(differentiable(world, path), x, None), tell)
    truth = world.log_density(x)
    return replace(
        result,
        flow_nats=tuple(float(density) for density in likelihood.log_density),
        true_nats=tuple(float(density) for density in truth),
        nfe_likelihood=likelihood.nfe,
    )


def spread(world: Mixture, points: int, seed: int) -> torch.Tensor:
    """Points of the data in different modes as far as there are some."""
    generator = rng.generator(seed, "points")
    which = torch.randperm(len(world.means), generator=generator)[torch.arange(points) % 8]
    noise = rng.noise((points, 2), generator, dtype=torch.float64)
    return world.means[which] + world.variances[which].sqrt()[:, None] * noise


def differentiable(world: Mixture, path: Path) -> Model:
    """The exact model with gradients let through, for the divergence."""
    model = world.model(path)
    return Model(model.net, path, "eps", "t", grad=True)


def scale_of(path: Path, t: float) -> float:
    """The size of a state at time t, so that all times fit into one window."""
    return float(np.hypot(path.a(t), path.s(t)))


def modes_of(world: Mixture, x: torch.Tensor) -> torch.Tensor:
    """The nearest mode of each point."""
    return torch.cdist(x, world.means).argmin(dim=1)
