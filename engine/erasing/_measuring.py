"""What benchmarks share: rates put together, the machine, and the progress of a part."""

import os
import platform
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from engine.core.job import Progress, Steps, relay
from engine.erasing._evaluation import Rate

R = TypeVar("R")


def pooled(rates: Sequence[Rate]) -> Rate:
    """All pictures of several rates together."""
    hits, of = sum(rate.hits for rate in rates), sum(rate.of for rate in rates)
    return Rate.of_hits(np.arange(of) < hits)


def machine(device: str) -> str:
    """What the figures were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def told(steps: Steps[R], done: int, total: int, note: str) -> Generator[Progress, None, R]:
    """The progress of a part as words only; the bar stands where the whole is."""
    return (
        yield from relay(
            steps,
            lambda step: replace(
                step, done=done, total=total, note=f"{note}: {step.note}", preview=None
            ),
        )
    )
