"""From a noisy spectrogram to a clean one, through the one sampler interface.

pc      the paper's: Euler's reverse step, before it a corrector at the same noise level
ode     the same flow without noise, by DPM-Solver++ 2M; not in the paper
once    the clean estimate at t = 1: the network used as a predictor, one evaluation
mean    the same, asked again near t = 1 about states drawn around its last answer: no walk follows

The state at t = 1 should hold a(1) (x0 - y), with the paper's theta 22 % of what separates noisy
from clean; the start, y + s(1) z, holds none of it, as x0 is what is looked for. A network that has
learned to read that trace takes its absence for a recording with little noise. The mismatch is
known: Lay et al. 2023, arXiv:2302.14748, change the process. The model inside has a larger theta,
and two settings of ours mend the start of any model; the paper's values, 0 and 1, leave both out.
The first puts in the trace that a recording would leave of which the share c = `noise_share` is
noise; and at every t above `renew_above` the state is drawn anew around the latest clean estimate,
so that after a few of these trace and estimate agree:

    x_1 = y - a(1) c y + s(1) z,    x_t = y + a(t) (x0^ - y) + s(t) z
"""

from collections.abc import Callable, Iterator
from typing import TypedDict, Unpack

import numpy as np

from engine.core.shapes import Complex, Tensor
from engine.diffusion import grids
from engine.diffusion.denoiser import Model, combine
from engine.diffusion.grids import Grid
from engine.diffusion.moves import Step
from engine.diffusion.noise import Noise
from engine.diffusion.solvers import solve

SAMPLERS = ("pc", "ode", "mean", "once")
MEAN_STEPS, MEAN_UNTIL = 8, 0.95
CORRECTORS = ("ald", "langevin", "none")


class Settings(TypedDict, total=False):
    """How to walk; what is left out has the paper's value."""

    sampler: str
    steps: int
    corrector: str
    snr: float
    renew_above: float
    noise_share: float


PAPER = Settings(sampler="pc", steps=30, corrector="ald", snr=0.5, renew_above=1.0, noise_share=0.0)


def walk(
    model: Model, y: Complex[Tensor, "b 1 f t"], noise: Noise, **settings: Unpack[Settings]
) -> Iterator[Step]:
    """The reverse process from y plus noise; the last step is the clean estimate."""
    chosen: Settings = {**PAPER, **settings}
    sampler, steps = chosen["sampler"], chosen["steps"]
    z = start(model, y, noise, chosen["noise_share"])
    hook = _renewing(model, noise, chosen["renew_above"])
    if sampler == "once" or (sampler == "mean" and steps == 1):
        x0 = model(z, model.path.t_max).x0
        yield Step(0, 0.0, x0, x0, x0, 1)
    elif sampler == "mean":
        times = np.linspace(model.path.t_max, MEAN_UNTIL, steps)
        hook = _renewing(model, noise, 0.0)
        yield from solve("ddim", model, z, grids.timesteps(times, "x0"), hook=hook)
    elif sampler == "ode":
        yield from solve("dpmpp_2m", model, z, ode_grid(model, steps), hook=hook)
    else:
        yield from solve(
            "pc",
            model,
            z,
            grids.sgmse(model.path, steps),
            noise,
            hook=hook,
            predictor="euler_maruyama",
            corrector=chosen["corrector"],
            snr=chosen["snr"],
        )


def start(
    model: Model, y: Complex[Tensor, "b 1 f t"], noise: Noise, noise_share: float
) -> Complex[Tensor, "b 1 f t"]:
    """The state at t = 1, centred at y."""
    path = model.path
    return combine((-path.a(path.t_max) * noise_share, y), (1.0, noise.start(y, path.prior_std)))


def _renewing(model: Model, noise: Noise, above: float) -> Callable[[Step], Tensor]:
    """Draws the state anew around the clean estimate, at times above this one."""
    a, s = model.path.a, model.path.s

    def renewed(step: Step) -> Tensor:
        if step.t <= above:
            return step.z
        drawn = noise(step.z, step.i, f"renewed {step.role}")
        return combine((a(step.t), step.x0), (s(step.t), drawn))

    return renewed


def ode_grid(model: Model, steps: int) -> Grid:
    """Equal steps in the log signal-to-noise ratio, the last one to no noise."""
    if steps == 1:
        return grids.timesteps(np.array([model.path.t_max, 0.0]))
    return grids.uniform_lam(model.path, steps, to_zero=True)


def evaluations(sampler: str, steps: int, corrector: str) -> int:
    """What a walk will cost; the counter at the network says what it did cost."""
    if sampler == "once":
        return 1
    return steps * (2 if sampler == "pc" and corrector != "none" else 1)
