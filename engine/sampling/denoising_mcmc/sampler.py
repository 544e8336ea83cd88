"""Samples from the chain, and from pure noise, at equal total numbers of evaluations.

    n_skip transitions, the state of least noise among them, the integrator from there, Tweedie:

    NFE a sample = n_skip + evaluations of the integrator + 1

The chain goes on from where it was, not from the sample. What it spends before the first sample
(its first state by an integrator, and the burn-in) is counted apart.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import BadInput
from engine.diffusion.chain import LevelsOf, Start, Visit, hand_over, langevin_gibbs, pick_level
from engine.diffusion.moves import State
from engine.diffusion.noise import NoiseSource, Stream
from engine.sampling.denoising_mcmc.integrators import S_MIN, Asks, integrate, noise_path, steps_for

FIRST_STEPS, FIRST_NOISE = 20, 0.5


@dataclass(frozen=True)
class Plan:
    """How the evaluations of a sample are spent; `steps` is the n of the integrator's table."""

    integrator: str
    skip: int
    steps: int
    tweedie: float = S_MIN

    @classmethod
    def split(cls, integrator: str, nfe: int, share: float) -> "Plan":
        """`share` of the evaluations to the chain, one to Tweedie, the rest to the integrator.

        What an integrator of two evaluations a step cannot use goes to the chain.
        """
        rest = nfe - 1
        skip = min(round(share * rest), rest - fewest(integrator))
        if skip < 0:
            raise BadInput(
                f"{nfe} NFE are too few: {integrator} needs {fewest(integrator)}, Tweedie one.",
                "Raise the NFE.",
            )
        steps = steps_for(integrator, rest - skip)
        if share > 0:
            skip = rest - evaluations(integrator, steps)
        return cls(integrator, skip, steps)


def fewest(integrator: str) -> int:
    """The fewest evaluations at which an integrator is stable."""
    return 5 if integrator.startswith("kar") else 2


def evaluations(integrator: str, steps: int) -> int:
    """What `steps` of an integrator cost; for RK45 a guess, the counter says what it took."""
    return 2 * (steps - 1) - 1 if integrator.startswith("kar") else steps


@dataclass
class Chain:
    """Chains side by side; `noise` is one stream for all of them."""

    on: Asks
    sigmas: NDArray[np.float64]
    levels_of: LevelsOf
    noise: NoiseSource
    eta: float
    pick: str
    x: State
    sigma: NDArray[np.float64]
    stuck: int = 0

    @classmethod
    def begun(
        cls,
        on: Asks,
        like: State,
        sigmas: NDArray[np.float64],
        levels_of: LevelsOf,
        *,
        seed: int,
        eta: float,
        pick: str,
    ) -> Generator[int, None, "Chain"]:
        """The published first state: 37 evaluations of KAR2 from pure noise, and a little noise.

        Yields the evaluations so far and returns the chains.
        """
        noise = Stream(seed)
        top = np.full(len(like), sigmas[0])
        for step in integrate(on, "kar2", sigmas[0] * noise(like, 0), top, FIRST_STEPS, noise):
            x = step.z
            yield step.nfe
        x = x + FIRST_NOISE * noise(x, 0)
        level = pick_level(levels_of(x), noise, 0, pick)
        return cls(on, sigmas, levels_of, noise, eta, pick, x, sigmas[level.cpu().numpy()])

    def walk(self) -> Iterator[Visit]:
        """Transitions from the present state, which they move along."""
        model = self.on.model(noise_path(float(self.sigmas[0])))
        walk = langevin_gibbs(
            model, self.x, self.sigma, self.sigmas, self.levels_of, self.noise,
            eta=self.eta, pick=self.pick,
        )  # fmt: skip
        for visit in walk:
            self.x, self.sigma = visit.x, visit.sigma
            self.stuck += visit.stuck
            yield visit

    def start(self, skip: int) -> Start:
        """The best state of the next `skip` transitions."""
        *_, start = hand_over(self.walk(), self.x, self.sigma, skip)
        return start


def finish_from(
    on: Asks, plan: Plan, x: State, sigma: NDArray[np.float64], noise: NoiseSource
) -> Iterator[State]:
    """Clean guesses of the integrator, and last the sample after Tweedie's formula."""
    for step in integrate(on, plan.integrator, x, sigma, plan.steps, noise):
        z = step.z
        yield step.x0
    model = on.model(noise_path(float(np.max(sigma))))
    yield model(z, np.full(len(z), plan.tweedie)).x0


def from_noise(
    on: Asks, plan: Plan, like: State, s_max: float, noise: NoiseSource
) -> Iterator[State]:
    """The same integrator from pure noise with all the evaluations that the chain would share."""
    nfe = plan.skip + evaluations(plan.integrator, plan.steps)
    full_plan = replace(plan, skip=0, steps=steps_for(plan.integrator, nfe))
    top = np.full(len(like), s_max)
    return finish_from(on, full_plan, s_max * noise(like, 0), top, noise)


def last(states: Iterator[State]) -> State:
    """The end of a run."""
    *_, end = states
    return end


def counted(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The nearest mode of each sample."""
    return torch.cdist(x.flatten(1), means).argmin(dim=1)
