"""A part of a sequence: couplings that are kept, or recomputed, together."""

from collections.abc import Sequence

from engine.core.shapes import Tensor
from engine.reversible.coupling import Coupling

Tap = tuple[int, int]
"""Coupling k and stream i: the stream as it is right after the coupling."""


class Segment:
    """Couplings first, first + 1, ... that share one autograd Function.

    `uses` are the streams that take part, `writes` those that come out changed.
    """

    def __init__(self, first: int, couplings: Sequence[Coupling], preserve_rng: bool | str) -> None:
        self.first, self.couplings, self.preserve_rng = first, tuple(couplings), preserve_rng
        self.writes = sorted({c.target for c in couplings})
        self.uses = sorted({i for c in couplings for i in (c.target, *c.reads)})
        self.parameters = list(dict.fromkeys(p for c in couplings for p in c.trained()))

    def taps(self, taps: Sequence[Tap]) -> list[Tap]:
        """Those that lie in this segment."""
        return [tap for tap in taps if 0 <= tap[0] - self.first < len(self.couplings)]

    def inner(self, taps: Sequence[Tap]) -> list[Tap]:
        """Taps whose stream is written by then and rewritten later: neither an input nor an
        output, so it must be handed out by itself."""
        return [
            tap for tap in dict.fromkeys(self.taps(taps))
            if self._written(tap, before=True) and self._written(tap, before=False)
        ]  # fmt: skip

    def tapped(
        self, tap: Tap, before: list[Tensor], inner: dict[Tap, Tensor], after: list[Tensor]
    ) -> Tensor:
        """The tapped stream: an inner one, the segment's output, or still its input."""
        if tap in inner:
            return inner[tap]
        return after[tap[1]] if self._written(tap, before=True) else before[tap[1]]

    def _written(self, tap: Tap, *, before: bool) -> bool:
        k, i = tap[0] - self.first, tap[1]
        part = self.couplings[: k + 1] if before else self.couplings[k + 1 :]
        return any(coupling.target == i for coupling in part)

    def plain(
        self, now: list[Tensor], ctx: Sequence[Tensor], wanted: Sequence[Tap]
    ) -> dict[Tap, Tensor]:
        """The couplings, one after the other, on `now` in place."""
        found = dict[Tap, Tensor]()
        for k, coupling in enumerate(self.couplings, start=self.first):
            now[coupling.target] = coupling.forward(now, ctx)
            found |= {tap: now[tap[1]] for tap in wanted if tap[0] == k}
        return found

    def placed(self, tensors: Sequence[Tensor], count: int) -> list[Tensor]:
        """`count` streams with the used ones in their places; the others are never touched."""
        now = [tensors[0]] * count
        for i, tensor in zip(self.uses, tensors, strict=True):
            now[i] = tensor
        return now

    def replayed(
        self, wanted: Sequence[Tap], count: int, used: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """What a checkpoint computes twice."""
        now = self.placed(tensors[:used], count)
        found = self.plain(now, tensors[used:], wanted)
        return *(now[i] for i in self.writes), *(found[tap] for tap in wanted)
