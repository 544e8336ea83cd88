"""Measures the claim on RevNet pairs, and what reversibility costs beside checkpoints.

    python -m engine bench memory-lab          writes assets/claims/memory_lab.json

1. Bytes kept at 2, 8 and 32 blocks under every policy; reversible ones must be equal to the byte.
2. Operations of a training step, relative to plain autograd.
3. Gradients against plain autograd in float64 and float32, the worst of three seeds.
4. Processor seconds of a step against `torch.utils.checkpoint` per block, in turns, and those of
   memcnn where that package is installed: the median of the ratios. Seconds of the clock would tell
   of what else the machine does.
"""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import Plain
from engine.core.shapes import Tensor
from engine.networks.memory_lab import architectures as arch
from engine.networks.memory_lab.algorithm import POLICIES
from engine.reversible import ReversibleSequence
from engine.reversible.memory import measure

DEPTHS, WIDTH, BATCH, SEEDS = (2, 8, 32), 64, 64, 3
# Steps that are timed are larger, so that they take their time in products and not in Python.
TIMED_DEPTH, TIMED_WIDTH, TIMED_BATCH, REPEATS = 8, 128, 256, 5


def run(*, seed: int, repeats: int = REPEATS) -> Steps[Measured]:
    """All four."""
    begun = time.perf_counter()
    table: dict[str, Plain] = {}
    kept: dict[tuple[str, int], int] = {}
    flops: dict[tuple[str, int], int] = {}
    for depth in DEPTHS:
        for name in POLICIES:
            yield Progress(len(kept), len(DEPTHS) * len(POLICIES), f"{depth} blocks, {name}")
            sequence, streams = _network(name, depth, seed, torch.float32)
            cost = measure(_step(sequence, streams), sequence, streams)
            found = cost.live_bytes if name == "selective" else cost.kept_bytes
            kept[name, depth], flops[name, depth] = found, cost.flops
            table[f"{name}, {depth} blocks"] = {
                "kept": found,
                "peak": cost.peak_bytes,
                "gradients": cost.gradient_bytes,
                "operations": cost.flops,
            }
    yield Progress(1, 2, "Gradients")
    errors: dict[str, Plain] = {
        str(dtype).removeprefix("torch."): max(
            _gradient_error(seed + offset, dtype) for offset in range(SEEDS)
        )
        for dtype in (torch.float64, torch.float32)
    }
    yield Progress(1, 2, "Processor seconds")
    growth = {name: kept[name, DEPTHS[-1]] / kept[name, DEPTHS[0]] for name in POLICIES}
    return Measured.of(
        growth["plain"],
        growth["reversible"],
        (growth["plain"], growth["plain"]),
        seed=seed,
        begun=begun,
        figures={
            "bytes and operations": table,
            f"gradient error against plain autograd, worst of {SEEDS} seeds": errors,
            "operations relative to plain autograd": {
                f"{name}, {depth} blocks": flops[name, depth] / flops["plain", depth]
                for name, depth in flops
            },
            "processor seconds relative to a checkpoint per block": _ratios(seed, repeats),
        },
    )


def _network(
    name: str, depth: int, seed: int, dtype: torch.dtype, width: int = WIDTH, batch: int = BATCH
) -> tuple[ReversibleSequence, tuple[Tensor, ...]]:
    made = arch.built("revnet", depth, width, batch, seed, "")
    policy = POLICIES[name]
    sequence = ReversibleSequence(
        made.couplings, mode=policy.mode, anchor_every=policy.segment(2, depth, 4)
    ).to(dtype)
    return sequence, tuple(s.to(dtype).requires_grad_() for s in made.streams)


def _step(sequence: nn.Module, streams: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    return lambda: sum((s.square().mean() for s in sequence(streams)[0]), torch.zeros(()))


def _gradient_error(seed: int, dtype: torch.dtype) -> float:
    found = []
    for name in ("plain", "reversible"):
        sequence, streams = _network(name, DEPTHS[-1], seed, dtype)
        loss = _step(sequence, streams)()
        found.append(torch.autograd.grad(loss, list(sequence.parameters())))
    size = max(float(grad.abs().max()) for grad in found[0])
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) / size


def _ratios(seed: int, repeats: int) -> dict[str, Plain]:
    """Median ratio of processor seconds, the two in turns so that both see the same machine."""
    steps: dict[str, Callable[[], None]] = {}
    for name in ("checkpoint", "plain", "reversible", "anchored"):
        sequence, streams = _network(
            name, TIMED_DEPTH, seed, torch.float32, TIMED_WIDTH, TIMED_BATCH
        )
        steps[name] = _backward(_step(sequence, streams))
    if importlib.util.find_spec("memcnn") is not None:
        steps["memcnn"] = _backward(_memcnn(seed))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if repeat:
                seconds[name].append(time.process_time() - begun)
    truth = seconds.pop("checkpoint")
    return {
        name: statistics.median(a / b for a, b in zip(each, truth, strict=True))
        for name, each in seconds.items()
    }


def _backward(step: Callable[[], Tensor]) -> Callable[[], None]:
    return lambda: step().backward()


def _memcnn(seed: int) -> Callable[[], Tensor]:
    """The same pairs by memcnn, which takes both streams as halves of one tensor."""
    memcnn = importlib.import_module("memcnn")
    made = arch.built("revnet", TIMED_DEPTH, TIMED_WIDTH, TIMED_BATCH, seed, "")
    fns = [coupling.fn for coupling in made.couplings]
    blocks = [
        memcnn.InvertibleModuleWrapper(
            memcnn.AdditiveCoupling(Fm=f, Gm=g, split_dim=1), keep_input=False
        )
        for f, g in zip(fns[::2], fns[1::2], strict=True)
    ]
    network = nn.Sequential(*blocks)
    x = torch.cat(made.streams, 1).requires_grad_()
    # The wrapper frees what it is given, so each step gets a copy.
    return lambda: network(x * 1.0).square().mean()
