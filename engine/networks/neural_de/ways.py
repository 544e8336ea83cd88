"""Forwards and backwards by one method, with what the panel shows of it."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from engine.core.reversible import compare
from engine.core.shapes import Array, Float, Tensor
from engine.networks import _solvers as solvers
from engine.networks._solvers import Times
from engine.networks.neural_de.results import WayBack
from engine.reversible import ReversibleSequence

BOUND = 1e6
"""States that grow beyond this are said to have left all bounds."""
DRAWN = 400

Pairs = list[tuple[Tensor, Tensor]]
"""States (y, z) at the times of a solve."""


def titles(c: float) -> dict[str, str]:
    """The methods by name."""
    return {
        "heun": "Heun, run with -h",
        "reversible_heun": "reversible Heun",
        "on_grid": "reversible Heun, kicks on a grid of 2⁻⁴⁰",
        "mccallum_foster": f"McCallum and Foster, c = {c:g}",
    }


def way_of(
    method: str, field: nn.Module, times: Times, start: Float[Tensor, "1 d"], c: float = 0.9
) -> WayBack:
    """The start, N steps of a method, and N steps back.

    Where states leave all bounds on the way, the rest is cut off and the way back starts there.
    """
    with torch.no_grad():
        if method == "heun":
            there, back = _one_step(field, times, start)
        else:
            there, back = _reversible(method, field, times, start, c)
    ys, backs = [y for y, _ in there], [y for y, _ in back]
    path, returned = _drawn(ys), _drawn(backs)
    kept = np.array([float((y - z).norm()) for y, z in there])
    misses = np.array([float((a - b).norm()) for a, b in zip(backs, reversed(ys), strict=False)])
    left = _left(there)
    left_at = times.values[left] if left is not None else None
    came = backs[-1]
    size = max(float(start.abs().max()), 1e-300)
    error = float((came - start).abs().max()) / size
    return WayBack(
        method, titles(c)[method], path, returned, _thinned(misses), _thinned(kept),
        error if np.isfinite(error) else float("inf"),
        digest(start), digest(came),
        compare((start,), (came,), steps=times.steps), left_at,
    )  # fmt: skip


def digest(y: Float[Tensor, "*d"]) -> str:
    """Twelve digits of the sha256 of the bytes."""
    return hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest()[:12]


def _one_step(field: nn.Module, times: Times, start: Tensor) -> tuple[Pairs, Pairs]:
    there = [(start, start)]
    for y in solvers.solve(solvers.heun, field, times, start):
        there.append((y, y))
        if not _is_bounded(y):
            break
    part = _first(times, len(there) - 1)
    end = there[-1][0]
    return there, [(y, y) for y in (end, *solvers.solve_back(solvers.heun, field, part, end))]


def _reversible(
    method: str, field: nn.Module, times: Times, start: Tensor, c: float
) -> tuple[Pairs, Pairs]:
    def built(times: Times) -> ReversibleSequence:
        if method == "mccallum_foster":
            return solvers.mccallum_foster(field, times, c=c)
        grid = solvers.GRID if method == "on_grid" else None
        return solvers.reversible_heun(field, times, every=1, grid=grid)

    sequence = built(times)
    per_step = len(sequence.steps) // times.steps
    there: Pairs = [(start, start.clone())]
    for k, (y, z) in sequence.trace(there[0]):
        if (k + 1) % per_step == 0:
            there.append((y, z))
            if not (_is_bounded(y) and _is_bounded(z)):
                break
    sequence = built(_first(times, len(there) - 1))
    back = [there[-1], *_every(sequence, there[-1], per_step)]
    return there, back


def _every(sequence: ReversibleSequence, end: tuple[Tensor, Tensor], per_step: int) -> Iterator:
    for k, (y, z) in sequence.trace(end, backward=True):
        if k % per_step == 0:
            yield y, z


def _first(times: Times, steps: int) -> Times:
    return Times(times.values[: steps + 1])


def _is_bounded(y: Tensor) -> bool:
    return bool((y.abs() < BOUND).all())  # false for NaN, too


def _left(there: Pairs) -> int | None:
    y, z = there[-1]
    return None if _is_bounded(y) and _is_bounded(z) else len(there) - 1


def _drawn(states: Sequence[Tensor]) -> Float[Array, "n 2"]:
    """At most some hundred states, the first and the last among them; those out of bounds cut."""
    rows = np.stack([y[0, :2].double().numpy() for y in states])
    return np.clip(np.nan_to_num(rows[_kept(len(rows))], nan=BOUND), -BOUND, BOUND)


def _thinned(values: Float[Array, " n"]) -> Float[Array, " m"]:
    values = np.nan_to_num(values, nan=BOUND, posinf=BOUND)
    return np.minimum(values[_kept(len(values))], BOUND)


def _kept(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, DRAWN)).round().astype(int))
