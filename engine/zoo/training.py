"""The training loop of all shipped checkpoints: warm-up, decay, averaged weights, resume."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train. The rate is constant until `decay_from` and then falls to
    1/50 of it.

    A run may be stopped at any time and resumed with another number of steps: a smaller one begins
    the decay now.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    decay_from: float = 0.6
    ema: float = 0.999
    seed: int = 0
    save_every: float = 120.0  # seconds

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        late = max(0.0, (step / self.steps - self.decay_from) / (1 - self.decay_from))
        fall = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, late)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * fall


LossOf = Callable[[np.random.Generator, torch.Generator], tuple[Tensor, dict[str, float]]]


def train(
    modules: Sequence[nn.Module],
    loss_of: LossOf,
    plan: Plan,
    checkpoint: Path,
    *,
    on_save: Callable[[int], None] | None = None,
) -> int:
    """Train the modules' parameters and leave their moving averages in them. Returns the steps
    done.

    `loss_of` draws its minibatch from the generators it is given; these depend on seed and step
    alone, so a resumed run sees the batches that an uninterrupted one would have seen. `on_save` is
    called with the averaged weights in place.
    """
    run = _Run([p for module in modules for p in module.parameters() if p.requires_grad], plan)
    step = run.load(checkpoint) if checkpoint.exists() else 0
    rank = dist.get_rank() if dist.is_initialized() else 0
    saved, begun, first, losses = time.monotonic(), time.monotonic(), step, []
    while step < plan.steps:
        draw = np.random.default_rng([plan.seed, step, rank])
        noise = torch.Generator().manual_seed((plan.seed * 64 + rank) * 1_000_003 + step)
        loss, figures = loss_of(draw, noise)
        run.update(loss, step)
        step += 1
        losses.append(figures)
        if step % 100 == 0 and rank == 0:
            pace = (step - first) / (time.monotonic() - begun)
            means = {key: round(float(np.mean([f[key] for f in losses])), 4) for key in figures}
            log.info("step %d of %d, %.2f a second, %s", step, plan.steps, pace, json.dumps(means))
            losses.clear()
        if rank == 0 and (time.monotonic() - saved > plan.save_every or step == plan.steps):
            run.save(checkpoint, step)
            if on_save is not None:
                with run.averaged():
                    on_save(step)
            saved = time.monotonic()
    run.put(run.average)
    return step


class _Run:
    """Parameters, their averages and the optimiser, saved together as one safetensors file."""

    def __init__(self, parameters: list[nn.Parameter], plan: Plan):
        self.parameters, self.plan = parameters, plan
        self.average = [p.detach().clone() for p in parameters]
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3
        )

    def update(self, loss: Tensor, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _share_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        keep = min(self.plan.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - keep)

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
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            for index, parameter in enumerate(self.parameters):
                with torch.no_grad():
                    parameter.copy_(file.get_tensor(f"parameter.{index}"))
                self.average[index] = file.get_tensor(f"average.{index}")
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"first.{index}").clone(),
                    "exp_avg_sq": file.get_tensor(f"second.{index}").clone(),
                }
        log.info("resuming at step %d from %s", step, path.name)
        return step


def join_workers() -> None:
    """Train together with the other processes that `torchrun` started, if it did.

    Each takes its own minibatch and one thread: two such workers are much faster than one with two
    threads, which wait for one another at every layer.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")


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
