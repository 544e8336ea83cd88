"""The autograd Function of a segment: nothing but its last streams is kept.

Gomez et al., "The Reversible Residual Network", 2017, algorithm 1, for couplings of any number of
streams, with a scale and a context.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Tensor
from engine.reversible.coupling import Coupling
from engine.reversible.replay import (
    Autocast,
    Noise,
    accelerators,
    forked_noise,
    is_same,
    noise_now,
    set_noise,
)
from engine.reversible.segment import Segment, Tap


class Reversed(torch.autograd.Function):
    """Forward without a graph; backward undoes coupling by coupling, each computed once more.

    Parameters are inputs, so the Function is in the graph even if no stream asks for gradients,
    and `torch.autograd.grad` works. One used twice is passed once and its gradients add up.
    """

    @staticmethod
    def forward(
        ctx: Any, segment: Segment, wanted: Sequence[Tap], count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        used, own = len(segment.uses), len(segment.parameters)
        context = tensors[used : len(tensors) - own]
        now = [t.detach() for t in segment.placed(tensors[:used], count)]
        ctx.autocast, ctx.devices = Autocast.now(tensors[:used]), accelerators(tensors[:used])
        found, drawn = dict[Tap, Tensor](), list[Noise | None]()
        with ctx.autocast.again():
            for k, coupling in enumerate(segment.couplings, start=segment.first):
                noise = None if segment.preserve_rng is False else noise_now(ctx.devices)
                now[coupling.target] = coupling.forward(now, [c.detach() for c in context])
                if segment.preserve_rng == "auto" and noise is not None:
                    noise = None if is_same(noise, noise_now(ctx.devices)) else noise
                drawn.append(noise)
                found |= {tap: now[tap[1]] for tap in wanted if tap[0] == k}
        ctx.segment, ctx.wanted, ctx.counts = segment, wanted, (count, used, len(context), own)
        ctx.live = _live(segment, ctx.needs_input_grad[3:])
        ctx.has_noise = [noise is not None for noise in drawn]
        written = [now[i] for i in segment.writes]
        ends = [now[i] for i in segment.uses if i in segment.writes]
        others = [t for i, t in zip(segment.uses, tensors, strict=False) if i not in segment.writes]
        # Saved rather than kept as attributes: so they are counted, and checked for changes.
        states = itertools.chain.from_iterable(noise for noise in drawn if noise is not None)
        ctx.save_for_backward(*ends, *others, *context, *segment.parameters, *states)
        ctx.set_materialize_grads(False)
        return *written, *(found[tap] for tap in wanted)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise BadInput(
                "A reversible sequence has no second derivative.",
                'Leave create_graph out, or set mode="plain".',
            )
        return None, None, None, *_Walk(ctx, grads).back()


def _live(segment: Segment, asked: Sequence[bool]) -> list[set[int]]:
    """Streams that depend on something trained, before each coupling; `asked` tells which of the
    used streams and then of the context do from the start."""
    now = {i for i, is_asked in zip(segment.uses, asked, strict=False) if is_asked}
    context = asked[len(segment.uses) :]
    found = []
    for coupling in segment.couplings:
        found.append(set(now))
        is_trained = any(context[i] for i in coupling.ctx) or any(True for _ in coupling.trained())
        if is_trained or now & set(coupling.reads):
            now.add(coupling.target)
    return found


class _Walk:
    """One backward pass over a segment: streams, their gradients, and what has been gathered."""

    def __init__(self, ctx: Any, grads: Sequence[Tensor | None]) -> None:
        self.ctx, segment = ctx, ctx.segment
        count, used, contexts, own = ctx.counts
        saved = list(ctx.saved_tensors)
        order = [i for i in segment.uses if i in segment.writes]
        order += [i for i in segment.uses if i not in segment.writes]
        self.streams = [saved[0]] * count
        for i, tensor in zip(order, saved[:used], strict=True):
            self.streams[i] = tensor
        # The context as leaves of their own, so that one backward through F ends at them.
        asked = ctx.needs_input_grad[3 + used :]
        self.context = [
            tensor.detach().requires_grad_(is_asked)
            for tensor, is_asked in zip(saved[used : used + contexts], asked, strict=False)
        ]
        self.noise = iter(saved[used + contexts + own :][::-1])
        self.grads: list[Tensor | None] = [None] * count
        for i, grad in zip(segment.writes, grads, strict=False):
            self.grads[i] = grad
        self.taps = dict(zip(ctx.wanted, grads[len(segment.writes) :], strict=True))
        self.gathered = dict[Tensor, Tensor]()

    def back(self) -> list[Tensor | None]:
        """Gradients of the used streams, the context and the parameters."""
        segment = self.ctx.segment
        with forked_noise(self.ctx.devices), self.ctx.autocast.again():
            for k in reversed(range(len(segment.couplings))):
                for tap in [tap for tap in self.taps if tap[0] == segment.first + k]:
                    self._add(tap[1], self.taps[tap])
                if self.ctx.has_noise[k]:
                    states = [next(self.noise) for _ in (0, *self.ctx.devices)]
                    set_noise(tuple(states[::-1]), self.ctx.devices)
                self._undo(segment.couplings[k], self.ctx.live[k])
        gathered = (self.gathered.get(leaf) for leaf in (*self.context, *segment.parameters))
        return [*(self.grads[i] for i in segment.uses), *gathered]

    def _undo(self, coupling: Coupling, live: set[int]) -> None:
        """One recomputation of F serves its gradient and the stream before it."""
        i, grad = coupling.target, self.grads[coupling.target]
        streams = list(self.streams)
        for j in coupling.reads:
            streams[j] = streams[j].detach().requires_grad_(j in live)
        leaves = [*(streams[j] for j in coupling.reads), *(self.context[j] for j in coupling.ctx)]
        leaves = [t for t in leaves if t.requires_grad]
        leaves += [p for p in coupling.fn.parameters() if p.requires_grad]
        with torch.set_grad_enabled(grad is not None and bool(leaves)):
            change = coupling.change(streams, self.context)
        self.streams[i] = coupling.unscaled(self.streams[i] - change.detach())
        if grad is None:
            return
        if change.requires_grad:
            found = torch.autograd.grad(change, leaves, grad, allow_unused=True)
            for leaf, part in zip(leaves, found, strict=True):
                self._gather(leaf, part)
            for j in coupling.reads:
                self._add(j, self.gathered.pop(streams[j], None))
        if isinstance(coupling.scale, Tensor) and coupling.scale.requires_grad:
            part = (grad * self.streams[i]).sum_to_size(coupling.scale.shape)
            self._gather(coupling.scale, part)
        self.grads[i] = coupling.scaled(grad) if i in live else None

    def _add(self, i: int, grad: Tensor | None) -> None:
        if grad is not None:
            known = self.grads[i]
            self.grads[i] = grad if known is None else known + grad

    def _gather(self, leaf: Tensor, grad: Tensor | None) -> None:
        if grad is not None:
            known = self.gathered.get(leaf)
            self.gathered[leaf] = grad if known is None else known + grad
