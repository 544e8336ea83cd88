"""Denoising MCMC with a network: the chain's states, and the samples made of them.

The score is that of a VE network; the classifier of noise levels is a network of its own, trained
for pictures of one size and one largest level.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef
from engine.core.settings import OneOf, Range
from engine.core.shapes import Float, Tensor
from engine.diffusion.chain import PICKS, noise_levels
from engine.diffusion.noise import Stream
from engine.models.score import CLASSES, SIDE, ScoreBundle, load_readers, load_score
from engine.sampling.denoising_mcmc import INTEGRATORS
from engine.sampling.denoising_mcmc.integrators import Asks
from engine.sampling.denoising_mcmc.results import Album
from engine.sampling.denoising_mcmc.sampler import Chain, Plan, finish_from, from_noise

TOP = 50.0
"""The largest noise level that the classifier knows."""


def pictures(
    *,
    seed: int,
    model: ModelRef | str = "score-ve",
    integrator: Annotated[str, OneOf(INTEGRATORS)] = "kar1",
    nfe: Annotated[int, Range(4, 400)] = 20,
    share: Annotated[float, Range(0, 0.9)] = 0.5,
    eta: Annotated[float, Range(1e-3, 20)] = 0.5,
    count: Annotated[int, Range(1, 16)] = 4,
    burn_in: Annotated[int, Range(1, 200)] = 10,
    pick: Annotated[str, OneOf(PICKS)] = "argmax",
) -> Steps[Album]:
    """Samples of `count` chains, the states they began at, and as many from pure noise at equal
    total NFE."""
    plan = replace(Plan.split(integrator, nfe, share), tweedie=0.01)
    total = burn_in + 20
    yield Progress(0, total, "Loading the network")
    bundle = load_score(model)
    reader = Reader(bundle)
    on, noise = asks(bundle), Stream(seed + 1)
    like = torch.zeros(count, *bundle.shape)
    sigmas = noise_levels(s_max=float(bundle.path.prior_std))
    yield Progress(1, total, "the first state: 37 evaluations")
    begun = Chain.begun(on, like, sigmas, reader, seed=seed, eta=eta, pick=pick)
    chain = yield from relay(
        begun, lambda spent: Progress(1, total, f"the first state, {spent} evaluations")
    )
    album = Album(burn_in=on.nfe)
    for done, (visit, _) in enumerate(zip(chain.walk(), range(burn_in), strict=False), 2):
        album = replace(album, states=_pictures_of(bundle, visit.x, visit.sigma), burn_in=on.nfe,
                        sigmas=tuple(map(float, visit.sigma)))  # fmt: skip
        yield Progress(done, total, "burn-in", album)
    before = on.nfe
    start = chain.start(plan.skip)
    album = replace(album, states=_pictures_of(bundle, start.x, start.sigma), skip=plan.skip,
                    sigmas=tuple(map(float, start.sigma)))  # fmt: skip
    yield Progress(burn_in + 4, total, "handed over", album)
    for z in finish_from(on, plan, start.x, start.sigma, noise):
        album = replace(album, chained=bundle.pictures(z), nfe=on.nfe - before)
        yield Progress(burn_in + 8, total, "from the chain", album)
    album = replace(album, verdicts=verdicts_of(bundle, z))
    before = on.nfe
    top = float(sigmas[0])
    for z in from_noise(on, plan, like, top, noise):
        album = replace(album, vanilla=bundle.pictures(z), nfe_vanilla=on.nfe - before)
        yield Progress(burn_in + 14, total, "from pure noise", album)
    return replace(
        album,
        verdicts_vanilla=verdicts_of(bundle, z),
        classifier_calls=reader.calls,
        classifier_seconds=reader.seconds,
    )


def asks(bundle: ScoreBundle) -> Asks:
    """The network's score, told its noise level, on any exploding path."""
    if bundle.process != "ve":
        raise ModelMismatch(
            f"{bundle.card.title} is no VE network: its noise is not only added.",
            "Pick a VE one, such as score-ve.",
        )
    net: Callable = bundle.model
    return Asks(net, dtype=torch.float32, device=bundle.device)


class Reader:
    """log q(level | x) by the shipped classifier, counted apart from the score."""

    def __init__(self, bundle: ScoreBundle) -> None:
        if bundle.shape != (3, SIDE, SIDE) or bundle.path.prior_std != TOP:
            raise ModelMismatch(
                f"The classifier of levels knows {SIDE} x {SIDE} pictures with noise up to 50.",
                "Pick score-ve.",
            )
        self.network = load_readers().level
        self.calls, self.seconds = 0, 0.0

    def __call__(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        begun = time.monotonic()
        with torch.no_grad():
            logits = self.network.to(x.device)(x.float())
        self.calls += 1
        self.seconds += time.monotonic() - begun
        return torch.log_softmax(logits, dim=1)


def verdicts_of(bundle: ScoreBundle, x: Float[Tensor, "b 3 h w"]) -> tuple[str, ...]:
    """What the noisy classifier takes clean samples for."""
    with torch.no_grad():
        network = load_readers().noisy.to(x.device)
        probable = torch.softmax(network(x.float(), torch.full((len(x),), 0.01)), dim=1)
    best = probable.max(dim=1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(f"{CLASSES[index]} {sure:.0%}".replace("%", " %") for index, sure in pairs)


def _pictures_of(bundle: ScoreBundle, x: Float[Tensor, "b c h w"], sigma: np.ndarray) -> np.ndarray:
    """States as pictures, their spread drawn in so that colours do not overflow."""
    level = torch.from_numpy(sigma).to(x).reshape(-1, 1, 1, 1)
    return bundle.pictures(0.5 + (x - 0.5) / torch.sqrt(1 + level**2))
