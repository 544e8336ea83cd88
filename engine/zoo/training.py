"""The training loop of all shipped checkpoints: warm-up, decay, averaged weights, resume."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.models.devices import accelerator, has_bfloat16_units, is_accelerator, pays_to_compile

log = logging.getLogger(__name__)
PACED_BY = 20  # steps after which the length of a training is foreseen


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train. The rate is constant until `decay_from` and then falls to
    1/50 of it.

    A run ends after `steps`, or after `seconds` where these are fewer: on a lent GPU the clock is
    what is short, and the rate then falls by the clock. It may be stopped at any time and resumed
    with another number of steps: a smaller one begins the decay now.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    decay_from: float = 0.6
    ema: float = 0.999
    seed: int = 0
    save_every: float = 120.0  # seconds
    seconds: float = math.inf

    def share(self, step: int, elapsed: float = 0.0) -> float:
        """How much of the run is over, 0 to 1."""
        return min(1.0, max(step / self.steps, elapsed / self.seconds))

    def rate(self, step: int, elapsed: float = 0.0) -> float:
        """Learning rate at a step, `elapsed` seconds after the start."""
        late = max(0.0, (self.share(step, elapsed) - self.decay_from) / (1 - self.decay_from))
        fall = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, late)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * fall


@dataclass(frozen=True)
class Options:
    """What a build may spend: seconds of the clock, or steps where these are given.

    `seconds` covers the training alone; data, export and examination come on top.
    """

    seconds: float = math.inf
    steps: int | None = None
    anyway: bool = False  # publish what is below its bars
    device: str = field(default_factory=lambda: device_here())

    def plan(self, steps: int, learning_rate: float, share: float = 1.0, **more: Any) -> Plan:
        """A plan within these limits; `share` is this stage's part of the seconds."""
        return Plan(self.steps or steps, learning_rate, seconds=share * self.seconds, **more)


# Figures are tensors or numbers; tensors are read only when they are printed, as reading one waits
# for the device.
Figures = dict[str, Tensor | float]
LossOf = Callable[[np.random.Generator, torch.Generator], tuple[Tensor, Figures]]


def device_here() -> str:
    """Where to train: on the accelerator if there is one."""
    return accelerator() or "cpu"


def half_precision(device: str | torch.device, *, on_cpu: bool = False) -> torch.autocast:
    """bfloat16 for what a network computes on a GPU; weights, losses and optimiser stay float32.

    Processors without units for bfloat16 are several times slower with it: the CPU keeps float32,
    unless `on_cpu` asks for it where there are such units.
    """
    kind = torch.device(device).type
    is_wanted = on_cpu or is_accelerator(kind)
    return torch.autocast(kind, torch.bfloat16, enabled=is_wanted and has_bfloat16_units(kind))


def train(
    modules: Sequence[nn.Module],
    loss_of: LossOf,
    plan: Plan,
    checkpoint: Path,
    *,
    before_step: Callable[[int], None] | None = None,
    on_save: Callable[[int], None] | None = None,
) -> int:
    """Train the modules' parameters and leave their moving averages in them. Returns the steps
    done.

    `loss_of` draws its minibatch from the generators it is given, the second of which lives on the
    device of the parameters; they depend on seed and step alone, so a resumed run sees the batches
    that an uninterrupted one would have seen. `before_step` is called with the number of each step,
    `on_save` with the averaged weights in place. The modules are compiled once the pace of the
    first steps tells that it pays.
    """
    run = _Run([p for module in modules for p in module.parameters() if p.requires_grad], plan)
    step = run.load(checkpoint) if checkpoint.exists() else 0
    rank = dist.get_rank() if dist.is_initialized() else 0
    saved, begun, first, losses = time.monotonic(), time.monotonic(), step, []
    noise = torch.Generator(run.parameters[0].device)
    elapsed, is_over = 0.0, step >= plan.steps
    while not is_over:
        draw = np.random.default_rng([plan.seed, step, rank])
        if before_step is not None:
            before_step(step)
        noise.manual_seed((plan.seed * 64 + rank) * 1_000_003 + step)
        loss, figures = loss_of(draw, noise)
        run.update(loss, plan.rate(step, elapsed), step)
        step += 1
        losses.append({name: torch.as_tensor(value).detach() for name, value in figures.items()})
        if step % 100 == 0 and rank == 0:
            pace = (step - first) / (time.monotonic() - begun)
            means = {key: round(_mean([f[key] for f in losses]), 4) for key in figures}
            log.info("step %d of %d, %.2f a second, %s", step, plan.steps, pace, json.dumps(means))
            losses.clear()
        elapsed = _of_first(time.monotonic() - begun)
        if step - first == PACED_BY:
            left = min(elapsed / PACED_BY * (plan.steps - step), plan.seconds - elapsed)
            if pays_to_compile(str(run.parameters[0].device), left):
                for module in modules:
                    module.compile()
        is_over = plan.share(step, elapsed) >= 1
        if rank == 0 and (time.monotonic() - saved > plan.save_every or is_over):
            run.save(checkpoint, step)
            if on_save is not None:
                with run.averaged():
                    on_save(step)
            saved = time.monotonic()
    run.put(run.average)
    return step


def _mean(figures: Sequence[Tensor]) -> float:
    return float(torch.stack(list(figures)).float().mean())


class _Run:
    """Parameters, their averages and the optimiser, saved together as one safetensors file."""

    def __init__(self, parameters: list[nn.Parameter], plan: Plan):
        self.parameters, self.plan = parameters, plan
        self.average = [p.detach().clone() for p in parameters]
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=plan.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=1e-3,
            fused=True,
        )

    def update(self, loss: Tensor, rate: float, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _share_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        keep = min(self.plan.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list[Tensor](self.parameters), 1 - keep)

    def put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def averaged(self) -> "_Averaged":
        return _Averaged(self)

    def save(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for index, parameter in enumerate(self.parameters):
            state = self.optimizer.state.get(parameter, {})
            tensors[f"parameter.{index}"] = parameter.detach().contiguous()
            tensors[f"average.{index}"] = self.average[index].contiguous()
            tensors[f"first.{index}"] = state.get("exp_avg", self.first[index]).contiguous()
            tensors[f"second.{index}"] = state.get("exp_avg_sq", self.second[index]).contiguous()
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata={"step": str(step)})
        os.replace(part, path)

    def load(self, path: Path) -> int:
        with safe_open(path, "pt", device=str(self.parameters[0].device)) as file:
            step = int(file.metadata()["step"])
            for index, parameter in enumerate(self.parameters):
                with torch.no_grad():
                    parameter.copy_(file.get_tensor(f"parameter.{index}"))
                self.average[index] = file.get_tensor(f"average.{index}")
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=self._steps_on(parameter)),
                    "exp_avg": file.get_tensor(f"first.{index}").clone(),
                    "exp_avg_sq": file.get_tensor(f"second.{index}").clone(),
                }
        log.info("resuming at step %d from %s", step, path.name)
        return step

    def _steps_on(self, parameter: nn.Parameter) -> torch.device:
        """Where the optimiser counts: beside the weights when it is fused, else on the CPU."""
        return parameter.device if parameter.is_cuda else torch.device("cpu")


def join_workers() -> None:
    """Train together with the other processes that `torchrun` started, if it did.

    Each takes its own minibatch and one thread: two such workers are much faster than one with two
    threads, which wait for one another at every layer.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")


def _of_first(elapsed: float) -> float:
    """The first worker's clock, by which all of them stop after the same step."""
    if not dist.is_initialized():
        return elapsed
    clock = torch.tensor(elapsed, dtype=torch.float64)
    dist.broadcast(clock, 0)
    return float(clock)


def _share_gradients(parameters: list[nn.Parameter]) -> None:
    if dist.is_initialized():
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, shared in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(shared.view_as(gradient))


class _Averaged:
    """Within the block the parameters hold their averages."""

    def __init__(self, run: _Run):
        self.run = run

    def __enter__(self) -> None:
        self.current = [p.detach().clone() for p in self.run.parameters]
        self.run.put(self.run.average)

    def __exit__(self, *_: object) -> None:
        self.run.put(self.current)
