"""Noise for samplers: a function of (seed, sample index, step, role), and of nothing else.

So a sample comes out equal alone or in a batch, and stopping or repeating a run shifts no numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from engine.core import rng
from engine.core.errors import SamplerError
from engine.core.shapes import Num, Tensor


@runtime_checkable
class NoiseSource(Protocol):
    def __call__(
        self, like: Num[Tensor, "b *d"], step: int, role: str = "step"
    ) -> Num[Tensor, "b *d"]: ...


@dataclass(frozen=True)
class Noise:
    """Standard normal noise; complex noise has E|z|^2 = 1. `first` is the index of sample 0."""

    seed: int
    first: int = 0

    def __call__(
        self, like: Num[Tensor, "b *d"], step: int, role: str = "step"
    ) -> Num[Tensor, "b *d"]:
        parts = 2 if like.is_complex() else 1
        rows = [
            rng.noise((*like.shape[1:], parts), rng.generator(self.seed, role, step, index))
            for index in range(self.first, self.first + len(like))
        ]
        drawn = torch.stack(rows).to(like.device)
        if like.is_complex():
            return torch.view_as_complex(drawn / math.sqrt(2)).to(like.dtype)
        return drawn[..., 0].to(like.dtype)

    def start(self, like: Num[Tensor, "b *d"], std: float = 1.0) -> Num[Tensor, "b *d"]:
        """The state that sampling begins from: noise of standard deviation `std`."""
        return std * self(like, 0, "start")

    @staticmethod
    def replay(draws: Sequence[Num[Tensor, "b *d"]]) -> "Replay":
        """Recorded draws, given out in order; for golden tests against published code."""
        return Replay(draws)


class Stream:
    """One stream of noise for a whole crowd, much quicker than `Noise`.

    For crowds of points whose number is fixed: a sample depends on its batch and on what was drawn
    before it.
    """

    def __init__(self, seed: int) -> None:
        self._generator = rng.generator(seed, "stream")

    def __call__(
        self, like: Num[Tensor, "b *d"], step: int, role: str = "step"
    ) -> Num[Tensor, "b *d"]:
        return rng.noise(like.shape, self._generator, device=like.device, dtype=like.dtype)


def no_noise(like: Num[Tensor, "b *d"], step: int, role: str = "step") -> Num[Tensor, "b *d"]:
    """The source of solvers that draw none."""
    raise SamplerError("This solver draws noise, but no source of noise was given.")


class Replay:
    """Gives out recorded draws one after another."""

    def __init__(self, draws: Sequence[Num[Tensor, "b *d"]]) -> None:
        self._draws = iter(draws)

    def __call__(
        self, like: Num[Tensor, "b *d"], step: int, role: str = "step"
    ) -> Num[Tensor, "b *d"]:
        drawn = next(self._draws, None)
        if drawn is None:
            raise SamplerError(f"The recorded noise ended before step {step} ({role}).")
        return torch.as_tensor(drawn).to(like)
