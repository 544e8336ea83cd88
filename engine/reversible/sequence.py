"""The reversible sequence: a list of couplings that keeps its last streams and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from engine.core.errors import BadInput
from engine.core.shapes import Tensor
from engine.reversible.backward import Reversed
from engine.reversible.coupling import Coupling, check_scales, check_steady, has_half_precision
from engine.reversible.replay import accelerators, is_same, noise_now
from engine.reversible.segment import Segment, Tap

Streams = tuple[Tensor, ...]
Mode = Literal["plain", "checkpoint", "selective", "reversible"]
MODES: tuple[Mode, ...] = get_args(Mode)
# What "selective" keeps because it is dear to compute; torch makes the rest again.
KEPT_PRODUCTS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.convolution.default,
]


class ReversibleSequence(nn.Module):
    """Couplings in a row, with their gradients at constant memory.

    `anchor_every` cuts the list into segments of so many couplings, and keeps the streams between
    them: the error of walking back starts afresh at each. Of the two checkpoint modes it is the
    length of a checkpointed segment, one coupling by default. `taps` are intermediate streams to
    hand out, each of which costs its own bytes. `preserve_rng="auto"` keeps the state of the
    generators for those couplings that drew from them, as dropout does.

    Double backward is refused, as are float16 and bfloat16 streams in "reversible" mode: F may run
    in half precision under autocast, but streams in it do not come back.
    """

    def __init__(
        self,
        couplings: Sequence[Coupling],
        *,
        taps: Sequence[Tap] = (),
        anchor_every: int | None = None,
        preserve_rng: bool | Literal["auto"] = "auto",
        mode: Mode = "reversible",
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise BadInput(f'There is no memory mode "{mode}".', f"Choose {', '.join(MODES)}.")
        if anchor_every is not None and anchor_every < 1:
            raise BadInput(f"anchor_every must be at least 1, got {anchor_every}.", "Leave it out.")
        check_scales(couplings)
        self.couplings = nn.ModuleList(couplings)
        self.taps, self.anchor_every = tuple(taps), anchor_every
        self.preserve_rng, self.mode = preserve_rng, mode

    @property
    def steps(self) -> list[Coupling]:
        """The couplings in their order."""
        return [coupling for coupling in self.couplings if isinstance(coupling, Coupling)]

    def forward(self, streams: Streams, ctx: Streams = ()) -> tuple[Streams, Streams]:
        """The streams after all couplings, and the tapped ones in the order of `taps`."""
        self._check(streams, ctx)
        now, tapped = list(streams), dict[Tap, Tensor]()
        for segment in self._segments():
            before = list(now)
            inner = self._run(segment, now, ctx)
            for tap in segment.taps(self.taps):
                tapped[tap] = segment.tapped(tap, before, inner, now)
        return tuple(now), tuple(tapped[tap] for tap in self.taps)

    def inverse(self, streams: Streams, ctx: Streams = ()) -> Streams:
        """The streams that `forward` came from; no gradients."""
        last = streams
        for _, last in self.trace(streams, ctx, backward=True):  # noqa: B007 (the last one counts)
            pass
        return last

    def trace(
        self, streams: Streams, ctx: Streams = (), *, backward: bool = False
    ) -> Iterator[tuple[int, Streams]]:
        """The streams after each coupling, or on the way back after each one is undone.

        Raises `BadInput` when F draws random numbers on the way back: nothing says which.
        """
        now, devices = list(streams), accelerators(streams)
        order = list(enumerate(self.steps))
        for k, coupling in reversed(order) if backward else order:
            noise = noise_now(devices)
            step = coupling.inverse if backward else coupling.forward
            # Not around the yield: whoever reads the trace keeps a mode of their own.
            with torch.no_grad():
                now[coupling.target] = step(now, ctx)
            if backward and not is_same(noise, noise_now(devices)):
                raise BadInput(
                    "A network with active dropout cannot be walked back.", "Call .eval() first."
                )
            yield k, tuple(now)

    def given(self, *ctx: Tensor) -> "Given":
        """Both ways under one context, as `engine.core.reversible.round_trip` takes them."""
        return Given(self, ctx)

    def _segments(self) -> Iterator[Segment]:
        whole = max(len(self.couplings), 1)
        least = 1 if self.mode in ("checkpoint", "selective") else whole
        length = whole if self.mode == "plain" else self.anchor_every or least
        for first in range(0, len(self.couplings), length):
            yield Segment(first, self.steps[first : first + length], self.preserve_rng)

    def _run(self, segment: Segment, now: list[Tensor], ctx: Streams) -> dict[Tap, Tensor]:
        """Brings `now` forward by a segment; gives tapped streams that it rewrote later."""
        wanted = segment.inner(self.taps)
        trained = [*(now[i] for i in segment.uses), *ctx, *segment.parameters]
        is_kept = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in trained)
        if self.mode == "plain" or not is_kept:
            return segment.plain(now, ctx, wanted)
        inputs = [now[i] for i in segment.uses]
        out: Streams
        if self.mode != "reversible":
            more: Any = {"context_fn": _keeping_products} if self.mode == "selective" else {}
            out = checkpoint(
                segment.replayed, wanted, len(now), len(inputs), *inputs, *ctx,
                use_reentrant=False, preserve_rng_state=self.preserve_rng is not False, **more,
            )  # fmt: skip
        else:
            out = Reversed.apply(segment, wanted, len(now), *inputs, *ctx, *segment.parameters)
        for i, stream in zip(segment.writes, out, strict=False):
            now[i] = stream
        return dict(zip(wanted, out[len(segment.writes) :], strict=True))

    def _check(self, streams: Streams, ctx: Streams) -> None:
        named = {i for c in self.steps for i in (c.target, *c.reads)}
        if named and max(named) >= len(streams):
            raise BadInput(
                f"The couplings work on {max(named) + 1} streams; {len(streams)} were given."
            )
        if max((i for c in self.steps for i in c.ctx), default=-1) >= len(ctx):
            raise BadInput(f"The couplings read more context than the {len(ctx)} tensors given.")
        for k, i in self.taps:
            if not (0 <= k < len(self.couplings) and 0 <= i < len(streams)):
                raise BadInput(f"There is no stream {i} after coupling {k} to tap.")
        if self.mode == "reversible" and has_half_precision(streams):
            raise BadInput(
                "Streams in half precision do not come back.",
                "Keep them in float32, and let F run in bfloat16 under autocast.",
            )
        check_steady(self)


def _keeping_products() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return create_selective_checkpoint_contexts(KEPT_PRODUCTS)


@dataclass(frozen=True)
class Given:
    """A sequence under one context, a `Reversible`."""

    sequence: ReversibleSequence
    ctx: Streams

    def forward(self, x: Streams) -> Streams:
        with torch.no_grad():
            return self.sequence(x, self.ctx)[0]

    def inverse(self, y: Streams) -> Streams:
        return self.sequence.inverse(y, self.ctx)
