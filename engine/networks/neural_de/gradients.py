"""The job that compares ways to a gradient on one field: memory, evaluations, error."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import nn

from engine.core import rng
from engine.core.job import Progress, Steps
from engine.core.settings import OneOf, Range
from engine.core.shapes import Float, Tensor
from engine.networks import _solvers as solvers
from engine.networks._solvers import Times
from engine.networks.neural_de import SWEEPS, WAYS
from engine.networks.neural_de.fields import Counted, Learned, drawn_weights, undrawn
from engine.networks.neural_de.results import Gradients, Point
from engine.reversible import suggest_anchor
from engine.reversible.memory import kept_bytes

SIZE, WIDTH, SPAN = 8, 32, 4.0
COUNTS = (16, 64, 256, 1024)


class Damped(nn.Module):
    """A network minus rate times y: the knob that makes a field dissipative."""

    def __init__(self, rate: float, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.rate = rate
        with undrawn():
            self.network = Learned(SIZE, WIDTH).to(dtype)
        drawn_weights(self.network, seed, "weights")

    def forward(self, t: float, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        out: Tensor = self.network(t, y)
        return out - self.rate * y if self.rate else out


End = Callable[[nn.Module, Times, Tensor], Tensor]
"""y_N of a field, times and y_0, with the graph of one way to a gradient."""


@dataclass(frozen=True)
class Way:
    """`end` is a way to a gradient, `exact` autograd through the very same steps."""

    end: End
    exact: End


def ways(c: float, dtype: torch.dtype) -> dict[str, Way]:
    """The ways by name; `WAYS` has their titles."""

    def heun(mode: solvers.Mode) -> End:
        def end(field: nn.Module, times: Times, y: Tensor) -> Tensor:
            segment = 2 * math.ceil(times.steps**0.5) if mode == "checkpoint" else None
            made = solvers.reversible_heun(field, times, mode=mode, anchor_every=segment)
            return made((y, y * 1.0))[0][0]

        return end

    def foster(mode: solvers.Mode, anchored: bool = False) -> End:
        def end(field: nn.Module, times: Times, y: Tensor) -> Tensor:
            steps = suggest_anchor([c] * times.steps, dtype, 1e4 * torch.finfo(dtype).eps)
            segment = 2 * steps if anchored else None
            made = solvers.mccallum_foster(field, times, c=c, mode=mode, anchor_every=segment)
            return made((y, y * 1.0))[0][0]

        return end

    return {
        "plain": Way(heun("plain"), heun("plain")),
        "checkpoint": Way(heun("checkpoint"), heun("plain")),
        "adjoint": Way(solvers.adjoint, _midpoint),
        "reversible": Way(heun("reversible"), heun("plain")),
        "foster": Way(foster("reversible"), foster("plain")),
        "foster_anchored": Way(foster("reversible", anchored=True), foster("plain")),
    }


def _midpoint(field: nn.Module, times: Times, y: Tensor) -> Tensor:
    return solvers.last_of(solvers.solve(solvers.midpoint, field, times, y))


def _accurate(field: nn.Module, times: Times, y: Tensor) -> Tensor:
    return solvers.last_of(solvers.solve(solvers.rk4, field, times, y))


def gradients(
    *,
    seed: int,
    sweep: Annotated[str, OneOf(SWEEPS)] = "steps",
    most: Annotated[int, Range(16, 1024, "256 take a few seconds.")] = 256,
    rate: Annotated[float, Range(0, 10, "0 is no damping, 2 is much.")] = 0.0,
    c: Annotated[float, Range(0.5, 1, "Try 0.95.")] = 0.95,
    batch: Annotated[int, Range(1, 64, "Try 16.")] = 16,
    precision: Annotated[str, OneOf(("float64", "float32"))] = "float64",
) -> Steps[Gradients]:
    """Gradients of a linear functional of y_N at 16, 64, 256 ... steps, by every way.

    `sweep` "steps" divides a time of 4 ever finer; "time" goes on at steps of 1/16.
    """
    dtype = getattr(torch, precision)
    field = Damped(rate, dtype, seed)
    generator = rng.generator(seed, "start")
    start, weights = (rng.noise((batch, SIZE), generator, dtype=dtype) for _ in range(2))
    counts = [count for count in COUNTS if count <= most]
    made = ways(c, dtype)
    shown, total = Gradients(sweep), len(counts) * len(made)
    for count in counts:
        times = Times.even(SPAN if sweep == "steps" else count / 16, count)
        fine = Times.even(times.values[-1], max(256, 2 * count))
        yield Progress(len(shown.points), total, f"{count} steps: an accurate solve", shown)
        truth, *_ = _found(_accurate, field, fine, start, weights)
        exact: dict[str, list[Tensor]] = {}
        for name, way in made.items():
            yield Progress(len(shown.points), total, f"{count} steps, {WAYS[name]}", shown)
            grads, kept, evaluations = _found(way.end, field, times, start, weights)
            if _key(name) not in exact:
                exact[_key(name)] = _found(way.exact, field, times, start, weights)[0]
            point = Point(
                name, WAYS[name], count, times.values[-1], kept, evaluations,
                apart(grads, exact[_key(name)]), apart(grads, truth),
            )  # fmt: skip
            shown = replace(shown, points=(*shown.points, point))
    return replace(shown, notes=tuple(_notes(shown)))


def _key(name: str) -> str:
    """Ways that take the very same steps share one exact gradient."""
    return {"adjoint": "midpoint", "foster": "foster", "foster_anchored": "foster"}.get(
        name, "heun"
    )


def _found(
    end: End, field: nn.Module, times: Times, start: Tensor, weights: Tensor
) -> tuple[list[Tensor], int, int]:
    """Gradients, kept bytes, evaluations of both passes."""
    counted = Counted(field)
    y = start.clone().requires_grad_()
    with torch.enable_grad():
        with kept_bytes(counted, [y, weights]) as kept:
            loss = (end(counted, times, y) * weights).sum()
        total = kept.total
        found = torch.autograd.grad(loss, [y, *counted.parameters()])
    return list(found), total, counted.evaluations


def apart(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The norm of the difference of all gradients over the norm of the true ones."""
    gap = sum(
        float((a.double() - b.double()).square().sum()) for a, b in zip(found, truth, strict=True)
    )
    size = sum(float(b.double().square().sum()) for b in truth)
    share = math.sqrt(gap / size) if size > 0 and math.isfinite(gap) else math.inf
    return share if math.isfinite(share) else math.inf


def _notes(shown: Gradients) -> Iterator[str]:
    last = max(point.steps for point in shown.points)
    by = {point.method: point for point in shown.points if point.steps == last}
    share = 1 - by["checkpoint"].kept_bytes / by["plain"].kept_bytes
    yield (
        f"Checkpoints take {100 * share:.0f} % of what autograd keeps at {last} steps, with the "
        "same gradient; the reversible solver takes the rest."
    )
    if by["reversible"].truth_error > 10 * by["adjoint"].truth_error:
        yield (
            "On this field the parasitic mode has grown: the gradient of reversible Heun is that "
            "of its own solve, and its solve is wrong."
        )
