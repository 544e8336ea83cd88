"""A flow map: a small network that learns where the curve ends, and jumps there in one call.

With noise level as time (a = 1, s = t) the probability flow takes x at t to G(x, t -> r) at r. The
network g is built into

    G = (r / t) x + (1 - r / t) g(x, t, r)

so that G(x, t -> t) = x without being learned. Three ways to train the same network:

    distillation   G is to end where a fine solver ends, for random t and r
    consistency    G(x_t, t -> t_min) is to equal, with its gradient stopped, what the network says
                   one step further down the same curve
    mean flow      (x - G) / (t - r) is the velocity averaged over the jump; this average obeys an
                   equation that needs the velocity at t alone, and one derivative along the curve

References: Kim et al., Consistency Trajectory Models, ICLR 2024; Song et al., Consistency Models,
ICML 2023; Geng et al., Mean Flows for One-step Generative Modeling, 2025.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import nn

from engine.core import rng
from engine.core.job import Progress, Steps
from engine.core.settings import OneOf, Range, Text
from engine.core.shapes import Float, Int, Tensor
from engine.diffusion import grids, schedules
from engine.diffusion.mixture import Mixture
from engine.diffusion.solvers import run as run_solver
from engine.diffusion.solvers import solve
from engine.sampling.principles import TARGETS, WORLDS
from engine.sampling.principles.world import LONGEST_WORLD, world_of

EDM = schedules.edm(t_min=0.02, t_max=10.0)
LEVELS = 64
STRIDE = 8
"""Levels of the teacher's curves; consistency compares levels so many apart."""
SHOWN, BANK = 400, 4096
BETWEEN = 1.0
"""Noise level at which two calls meet."""


@dataclass(frozen=True)
class Rival:
    """DDIM with so many evaluations, from the same noise."""

    nfe: int
    error: float


@dataclass(frozen=True)
class FlowMap:
    """How far the training is. `cloud` is where one call lands, `truth` where the curves end.

    `losses` are means over groups of steps, `errors` the mean distance of one call to the truth at
    the step numbers `at`. `two_calls` is the error of t_max -> 1 -> t_min; consistency has none,
    as it must add noise between calls and so leaves the curve.
    """

    target: str
    parameters: int
    at: np.ndarray
    losses: np.ndarray
    errors: np.ndarray
    cloud: np.ndarray
    truth: np.ndarray
    rivals: tuple[Rival, ...] = ()
    one_call: float | None = None
    two_calls: float | None = None


def distil(
    *,
    seed: int,
    world: Annotated[str, Text(LONGEST_WORLD)] = WORLDS["ring of 8"],
    target: Annotated[str, OneOf(TARGETS)] = "distillation",
    steps: Annotated[int, Range(1, 20_000)] = 1500,
    batch: Annotated[int, Range(8, 4096)] = 512,
) -> Steps[FlowMap]:
    """Train a flow map of the world, and compare one call of it with DDIM."""
    density = world_of(world)
    bank_size = min(BANK, 8 * batch)
    starts = noised(density, bank_size, seed, "bank")
    teacher = yield from _kept(curves(density, starts), steps, "the teacher's curves")
    teacher = teacher.float()
    tests = noised(density, SHOWN, seed, "test")
    truth = (yield from _kept(curves(density, tests), steps, "the true curves"))[-1]
    flow_map = FlowMap(
        target,
        0,
        np.zeros(0),
        np.zeros(0),
        np.zeros(0),
        np.zeros((0, 2)),
        truth.numpy(),
        tuple(rivals(density, tests, truth)),
    )
    net = Net(seed)
    flow_map = replace(flow_map, parameters=sum(weight.numel() for weight in net.weights))
    optimizer = torch.optim.Adam(net.weights, lr=2e-3)
    generator = rng.generator(seed, "train")
    every, recent = max(1, min(50, steps // 30)), []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + math.cos(math.pi * (step - 1) / steps))
        with torch.enable_grad():
            loss = LOSSES[target](net, density, teacher, batch, generator)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        recent.append(float(loss.detach()))
        if step % every == 0 or step == steps:
            flow_map = _measured(flow_map, net, tests, step, recent)
            recent = []
            yield Progress(step, steps, f"one call errs by {flow_map.errors[-1]:.3f}", flow_map)
    return replace(
        flow_map,
        one_call=float(flow_map.errors[-1]),
        two_calls=None if target == "consistency" else _gap(two_calls(net, tests.float()), truth),
    )


def _kept(
    states: Iterator[Float[Tensor, "b 2"]], steps: int, note: str
) -> Steps[Float[Tensor, "n b 2"]]:
    """All states of the curves, told level by level."""
    kept = []
    for level, state in enumerate(states):
        kept.append(state)
        if level % 4 == 0:
            yield Progress(0, steps, f"{note}, level {level} of {LEVELS}")
    return torch.stack(kept)


def curves(world: Mixture, x: Float[Tensor, "b 2"]) -> Iterator[Float[Tensor, "b 2"]]:
    """The teacher: states on the true curves at 64 levels, by 128 evaluations of Heun's method."""
    yield x
    for step in solve("heun", world.model(EDM), x, grids.uniform_lam(EDM, LEVELS)):
        yield step.z


def noised(world: Mixture, count: int, seed: int, role: str) -> Float[Tensor, "b 2"]:
    """Draws of p_t at t_max."""
    generator = rng.generator(seed, role)
    x0 = world.sample(count, generator)
    return x0 + EDM.t_max * rng.noise(x0.shape, generator, dtype=torch.float64)


def rivals(world: Mixture, x: Float[Tensor, "b 2"], truth: Float[Tensor, "b 2"]) -> Iterator[Rival]:
    """DDIM with 1, 2, 4, 8 and 16 evaluations over the same levels."""
    for nfe in (1, 2, 4, 8, 16):
        end = run_solver("ddim", world.model(EDM), x, grids.uniform_lam(EDM, nfe))
        yield Rival(nfe, _gap(end, truth))


# ---------------------------------------------------------------------- the network


class Net:
    """g(x, t, r): three hidden layers of 128, on x scaled to unit size and waves of log time."""

    def __init__(self, seed: int, width: int = 128, waves: int = 1) -> None:
        self.waves = torch.arange(1, waves + 1) * math.pi
        sizes = [2 + 2 + 4 * waves, width, width, width, 2]
        generator = rng.generator(seed, "weights")
        self.weights: list[Tensor] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            drawn = rng.noise((fan_in, fan_out), generator) * math.sqrt(2 / fan_in)
            self.weights += [drawn.requires_grad_(), torch.zeros(fan_out, requires_grad=True)]
        # g starts at 0, so that a network which learns from its own words begins without noise
        self.weights[-2].data.zero_()

    def __call__(
        self, x: Float[Tensor, "b 2"], log_t: Float[Tensor, " b"], log_r: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 2"]:
        h = torch.cat(
            [
                x / torch.sqrt(1 + torch.exp(2 * log_t))[:, None],
                self._clock(log_t),
                self._clock(log_r),
            ],
            dim=1,
        )
        for weight, bias in zip(self.weights[:-2:2], self.weights[1:-2:2], strict=True):
            h = nn.functional.silu(h @ weight + bias)
        return h @ self.weights[-2] + self.weights[-1]

    def _clock(self, log_t: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
        low, high = math.log(EDM.t_min), math.log(EDM.t_max)
        share = ((log_t - low) / (high - low))[:, None]
        return torch.cat([share, torch.sin(self.waves * share), torch.cos(self.waves * share)], 1)

    def jump(
        self, x: Float[Tensor, "b 2"], log_t: Float[Tensor, " b"], log_r: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 2"]:
        """G(x, t -> r) = (r / t) x + (1 - r / t) g."""
        kept = torch.exp(log_r - log_t)[:, None]
        return kept * x + (1 - kept) * self(x, log_t, log_r)


def two_calls(net: Net, x: Float[Tensor, "b 2"]) -> Float[Tensor, "b 2"]:
    """Jump to the noise level between, and from there to the data."""
    top, mid, end = (_logs(x, level) for level in (EDM.t_max, BETWEEN, EDM.t_min))
    with torch.no_grad():
        return net.jump(net.jump(x, top, mid), mid, end)


# ---------------------------------------------------------------------- three losses


def distillation_loss(
    net: Net, world: Mixture, bank: Tensor, batch: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """From a random level to a random lower one; to the lowest in half of the cases."""
    row, t = _pick(bank, batch, generator)
    down = torch.rand(batch, generator=generator)
    r = t + 1 + (down * (LEVELS - t)).long()
    r = torch.where(torch.rand(batch, generator=generator) < 0.5, LEVELS, r.clamp(max=LEVELS))
    jumped = net.jump(bank[t, row], LOG_LEVELS[t], LOG_LEVELS[r])
    return (jumped - bank[r, row]).square().sum(1).mean()


def consistency_loss(
    net: Net, world: Mixture, bank: Tensor, batch: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Two neighbours on a curve are to jump to the same end; the lower one is the teacher."""
    row, t = _pick(bank, batch, generator)
    lower = (t + STRIDE).clamp(max=LEVELS)
    end = LOG_LEVELS[-1].expand(batch)
    with torch.no_grad():
        target = net.jump(bank[lower, row], LOG_LEVELS[lower], end)
    jumped = net.jump(bank[t, row], LOG_LEVELS[t], end)
    return (jumped - target).square().sum(1).mean()


def mean_flow_loss(
    net: Net, world: Mixture, bank: Tensor, batch: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """g against the value that the mean-flow identity gives it."""
    row, t = _pick(bank, batch, generator)
    r = t + (torch.rand(batch, generator=generator) * (LEVELS + 1 - t)).long()
    kind = torch.rand(batch, generator=generator)
    # a quarter stays at t, which is plain flow matching, and a half goes all the way
    r = torch.where(kind < 0.25, t, torch.where(kind < 0.75, LEVELS, r.clamp(max=LEVELS)))
    x, log_t, log_r = bank[t, row], LOG_LEVELS[t], LOG_LEVELS[r]
    level = torch.exp(log_t).double().numpy()
    x0 = world.model(EDM)(x.double(), level).x0.float()
    g, target = mean_flow_target(net, x, x0, log_t, log_r)
    return (g - target).square().sum(1).mean()


def mean_flow_target(
    net: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Float[Tensor, "b 2"],
    x0: Float[Tensor, "b 2"],
    log_t: Float[Tensor, " b"],
    log_r: Float[Tensor, " b"],
) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b 2"]]:
    """g, and what it should be: x0 + (1 - r/t) (g - x0 - dg/dlog t), gradient stopped.

    The averaged velocity U = (x - G)/(t - r) = (x - g)/t obeys U = u - (t - r) dU/dt, with
    u = (x - x0)/t and d/dt taken along the curve; put in, this is the line above. The derivative of
    g is one Jacobian-vector product along (x - x0, 1) in (x, log t).
    """
    # not torch.func.jvp: the first use of forward mode compiles decompositions, with a warning
    with torch.enable_grad():
        _, along = torch.autograd.functional.jvp(
            lambda at, time: net(at, time, log_r), (x, log_t), (x - x0, torch.ones_like(log_t))
        )
    g = net(x, log_t, log_r)
    share = 1 - torch.exp(log_r - log_t)[:, None]
    return g, (x0 + share * (g - x0 - along.detach())).detach()


LOSSES = {
    "distillation": distillation_loss,
    "consistency": consistency_loss,
    "mean_flow": mean_flow_loss,
}
LOG_LEVELS = torch.from_numpy(np.log(grids.uniform_lam(EDM, LEVELS).times)).float()


def _pick(
    bank: Tensor, batch: int, generator: torch.Generator
) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    row = torch.randint(bank.shape[1], (batch,), generator=generator)
    return row, torch.randint(LEVELS, (batch,), generator=generator)


def _measured(
    flow_map: FlowMap, net: Net, tests: Float[Tensor, "b 2"], step: int, recent: list[float]
) -> FlowMap:
    x = tests.float()
    with torch.no_grad():
        cloud = net.jump(x, _logs(x, EDM.t_max), _logs(x, EDM.t_min))
    error = _gap(cloud, torch.from_numpy(flow_map.truth))
    return replace(
        flow_map,
        at=np.append(flow_map.at, step),
        losses=np.append(flow_map.losses, np.mean(recent)),
        errors=np.append(flow_map.errors, error),
        cloud=cloud.numpy(),
    )


def _logs(x: Float[Tensor, "b 2"], level: float) -> Float[Tensor, " b"]:
    return torch.full((len(x),), math.log(level))


def _gap(x: Float[Tensor, "b 2"], truth: Float[Tensor, "b 2"]) -> float:
    return float((x.double() - truth).norm(dim=1).mean())
