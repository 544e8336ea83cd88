"""The schedulers of diffusers as solvers in the terms of this folder.

A scheduler keeps its state either as z = a x0 + s eps or, in the Euler and Heun family, as z / a;
steps are reported as z, so that all solvers can be compared. diffusers is imported inside
functions, and each class from its own module, because its front door costs seconds.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from engine.core import rng
from engine.core.errors import SamplerError
from engine.core.shapes import Num, Tensor
from engine.diffusion.denoiser import Kind, Model
from engine.diffusion.solvers import Step

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

KINDS: dict[str, Kind] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""`prediction_type` of diffusers in our words."""

MODULES = {
    "DDIM": "ddim",
    "DPMSolverMultistep": "dpmsolver_multistep",
    "UniPCMultistep": "unipc_multistep",
    "HeunDiscrete": "heun_discrete",
    "EulerDiscrete": "euler_discrete",
    "EulerAncestralDiscrete": "euler_ancestral_discrete",
    "LCM": "lcm",
    "TCD": "tcd",
}
"""`diffusers:<name>` means <name>Scheduler of diffusers.schedulers.scheduling_<module>."""

DISTILLED = ("LCM", "TCD")


def scheduler_like(
    config: Mapping[str, object], name: str, *, distilled: bool = False, **overrides: object
) -> "SchedulerMixin":
    """A fresh scheduler of class `name` with the noise schedule of a checkpoint's scheduler config.

    Raises `SamplerError` for a name that is not offered, and for LCM and TCD on weights that were
    not distilled for them.
    """
    check_name(name, distilled=distilled)
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}")
    return getattr(module, f"{name}Scheduler").from_config({**config}, **overrides)


def check_name(name: str, *, distilled: bool = False) -> None:
    """Raise `SamplerError` as `scheduler_like` would."""
    if name not in MODULES:
        raise SamplerError(
            f'There is no "diffusers:{name[:40]}" here.', f"Choose {', '.join(MODULES)}."
        )
    if name in DISTILLED and not distilled:
        raise SamplerError(
            f"{name} takes its few steps only with weights distilled for it.",
            "Load a consistency-distilled checkpoint, or choose another solver.",
        )


def set_nfe(scheduler: "SchedulerMixin", nfe: int) -> int:
    """Give the scheduler the most timesteps within `nfe` evaluations; returns their number."""
    for steps in range(nfe, 0, -1):
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) <= nfe:
            return len(scheduler.timesteps)
    raise SamplerError(f"{type(scheduler).__name__} cannot work with {nfe} network evaluations.")


def solve_diffusers(
    scheduler: "SchedulerMixin",
    model: Model,
    noise: Num[Tensor, "b *d"],
    *,
    seed: int = 0,
    same_start: bool = False,
) -> Iterator[Step]:
    """Walk with a diffusers scheduler whose timesteps are set, from unit noise.

    The network is asked through `model`, so an evaluation counts here as everywhere. The Euler and
    Heun family scales the noise by the largest kappa, which is 0.1 % less than our z = noise;
    `same_start` begins at that z, for comparisons from one state.
    """
    times = scheduler.timesteps.cpu()
    scale = float(torch.as_tensor(scheduler.init_noise_sigma))
    rescaled = scale != 1
    if rescaled and same_start:
        scale = 1 / float(model.path.a(float(times[0])))
    x = noise * scale
    extra = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = [rng.generator(seed, "step", index) for index in range(len(noise))]
    begun = model.nfe
    for i, t in enumerate(times):
        z = scheduler.scale_model_input(x, t).to(noise.dtype)
        pred = model(z, float(t))
        value = getattr(pred, KINDS[scheduler.config.prediction_type])
        x = scheduler.step(value, t, x, **extra, return_dict=False)[0]
        after = float(times[i + 1]) if i + 1 < len(times) else model.path.end
        z = x * float(model.path.a(after)) if rescaled else x
        yield Step(i, after, z, z, pred.x0, model.nfe - begun)
