"""The golden arrays of the official notebook: levels, integrators, chain and hand-over.

`dmcmc_chain.npz` was made in float32 from a mixture of five equal Gaussians in 3 x 4 x 4 numbers,
with a stand-in classifier: the level whose logarithm is nearest to that of the spread of x.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from engine.core.golden import Golden, apart, arrays_of, collect
from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.diffusion.chain import Start, hand_over, langevin_gibbs, noise_levels
from engine.diffusion.mixture import Mixture
from engine.diffusion.noise import Noise, Replay
from engine.sampling.denoising_mcmc.integrators import Asks, integrate, noise_path

TOLERANCE = 5e-6
Comparison = tuple[str, np.ndarray, np.ndarray, float]
"""Name, what is found here, what it should be, and the largest difference allowed."""


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare what runs here with the arrays; there is nothing random in it."""
    compared = (
        (name, apart(value, expected), tolerance)
        for name, value, expected, tolerance in comparisons()
    )
    return (yield from collect(compared, 15))


def comparisons() -> Iterator[Comparison]:
    """Integrators from given states, then a chain of four transitions and what follows it."""
    golden = arrays_of("dmcmc_chain")
    sigmas = noise_levels(s_max=float(golden["sigma_max"]))
    there = golden["grid_sigma"].astype(np.float64)
    yield "noise levels, relative", sigmas[golden["grid_idx"]] / there, there / there, 1e-5
    on, steps = world(golden), int(golden["N"])
    x, sigma = torch.from_numpy(golden["x"]), golden["s"].astype(np.float64)
    for name, key in (("kar1", "kar1"), ("kar2", "kar2"), ("rd", "pc_rd"), ("em", "pc_em")):
        noise = replay(golden.get(f"{key}_noise", np.zeros((0, 1))))
        *_, last = integrate(on, name, x, sigma, steps, noise)
        yield f"{name}, {steps} steps", last.z.numpy(), golden[key], TOLERANCE
        yield f"{name}: evaluations", np.array(last.nfe), golden[f"{key}_nfe"], 0.0
    yield from chain(golden, on, x, sigma, sigmas)


def chain(
    golden: Mapping[str, np.ndarray],
    on: Asks,
    x: Float[Tensor, "b c h w"],
    sigma: np.ndarray,
    sigmas: np.ndarray,
) -> Iterator[Comparison]:
    """Four transitions, the state of least noise, the integrator from there, and Tweedie."""
    model, noise = on.model(noise_path(50.0)), replay(golden["dlg_noise"])

    def nearest(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        spread = torch.log(x.double().flatten(1).std(dim=1) + 1e-6)
        return -(spread[:, None] - torch.from_numpy(np.log(sigmas))).abs()

    walk = langevin_gibbs(model, x, sigma, sigmas, nearest, noise, eta=float(golden["eta"]))
    start: Start = list(hand_over(walk, x, sigma, int(golden["skip"])))[-1]
    visits = np.stack([visit.x.numpy() for visit in start.visits])
    yield "chain: states", visits, golden["dlg_x"], TOLERANCE
    levels = np.stack([visit.sigma for visit in start.visits])
    yield "chain: levels, relative", levels / golden["dlg_s"], levels / levels, 1e-5
    yield "state of least noise", start.x.numpy(), golden["dlg_xmin"], TOLERANCE
    yield "least noise", start.sigma, golden["dlg_smin"].astype(np.float64), TOLERANCE
    *_, last = integrate(on, "kar1", start.x, start.sigma, int(golden["N"]))
    yield "kar1 from the chain", last.z.numpy(), golden["dlg_kar1"], TOLERANCE
    tweedie = model(last.z, 1e-2).x0
    yield "Tweedie at 0.01", tweedie.numpy(), golden["dlg_tweedie"], TOLERANCE


def world(golden: Mapping[str, np.ndarray]) -> Asks:
    """The exact score of the five equal Gaussians."""
    means = torch.from_numpy(golden["mu"]).double().flatten(1)
    ones = torch.ones(len(means), dtype=torch.float64)
    mixture = Mixture(ones, means, float(golden["v"]) * ones)

    def score(x: Float[Tensor, "b *d"], label: Float[Tensor, " b"], **_: Tensor) -> Tensor:
        wide = mixture.score(x.double().flatten(1), 1.0, label.double().numpy())
        return wide.reshape(x.shape).to(x)

    return Asks(score)


def replay(noise: np.ndarray) -> Replay:
    return Noise.replay([torch.from_numpy(one) for one in noise])
