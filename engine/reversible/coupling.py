"""One invertible rewriting of a stream, and the pairs that most networks are made of."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.core.errors import BadInput
from engine.core.precision import at_home
from engine.core.shapes import Float, Tensor


class Coupling(nn.Module):
    """s_target <- scale * s_target + fn(s_reads, c), where fn is any module and scale is not zero.

    `scale` is a number, or a parameter that broadcasts to the stream. `ctx` are places in the
    context. A module that is used at several steps of a solver can be told which one it is:
    `step_id` is handed to it as a keyword where it is given.
    """

    def __init__(
        self,
        fn: nn.Module,
        target: int,
        reads: Sequence[int],
        *,
        scale: float | Tensor = 1.0,
        ctx: Sequence[int] = (),
        step_id: int | None = None,
    ) -> None:
        super().__init__()
        self.fn, self.target, self.reads = fn, target, tuple(reads)
        self.scale, self.ctx, self.step_id = scale, tuple(ctx), step_id
        if target in self.reads:
            raise BadInput(
                f"A coupling cannot read stream {target}, which it rewrites.",
                "Read the other streams, or split this one.",
            )
        if not _is_invertible(scale):
            raise _not_invertible(scale)
        check_steady(fn)

    def change(self, streams: Sequence[Tensor], context: Sequence[Tensor]) -> Float[Tensor, "..."]:
        """F(s_reads, c) in the number format of the stream it changes, whatever autocast does.

        Raises `BadInput` when F writes into what it reads.
        """
        given = [streams[i] for i in self.reads] + [context[i] for i in self.ctx]
        versions = _versions(given)
        named = {} if self.step_id is None else {"step_id": self.step_id}
        change: Tensor = self.fn(*given, **named)
        if _versions(given) != versions:
            raise BadInput(
                f"{type(self.fn).__name__} writes into its input, which could not be restored.",
                "Use the form that is not in place, such as nn.ReLU() without inplace=True.",
            )
        return change.to(streams[self.target].dtype)

    def forward(self, streams: Sequence[Tensor], context: Sequence[Tensor]) -> Float[Tensor, "..."]:
        """The stream after the coupling."""
        return self.scaled(streams[self.target]) + self.change(streams, context)

    def inverse(self, streams: Sequence[Tensor], context: Sequence[Tensor]) -> Float[Tensor, "..."]:
        """The stream before the coupling."""
        return self.unscaled(streams[self.target] - self.change(streams, context))

    def scaled(self, stream: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """a * s; a stream scaled by 1 is not multiplied, so it keeps its bits and its cost."""
        return stream if self.has_no_scale else self.scale * stream

    def unscaled(self, stream: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """s / a."""
        return stream if self.has_no_scale else stream / self.scale

    @property
    def has_no_scale(self) -> bool:
        return not isinstance(self.scale, Tensor) and self.scale == 1

    def trained(self) -> Iterator[Tensor]:
        """What gets a gradient in it, the scale too."""
        yield from (p for p in self.fn.parameters() if p.requires_grad)
        if isinstance(self.scale, Tensor) and self.scale.requires_grad:
            yield self.scale

    def size_of_scale(self) -> float:
        """The smallest |a|: its inverse is how an error grows when this coupling is undone."""
        if isinstance(self.scale, Tensor):
            return float(self.scale.detach().abs().min())
        return abs(self.scale)


def check_scales(couplings: Sequence[Coupling]) -> None:
    """Refuses a scale that is zero somewhere; the host waits once for those on a device."""
    scales = [c.scale for c in couplings if isinstance(c.scale, Tensor) and not c.scale.is_meta]
    for scale in at_home([one for one in scales if one.device.type != "cpu"]):
        if not _is_invertible(scale):
            raise _not_invertible(scale)


def _not_invertible(scale: float | Tensor) -> BadInput:
    return BadInput(
        f"A stream cannot be scaled by {scale!s:.60} and come back.",
        "Take a scale that is finite and not zero; 1 loses nothing.",
    )


def _is_invertible(scale: float | Tensor) -> bool:
    if isinstance(scale, Tensor):
        # Those of a device are asked all at once, by the sequence.
        return scale.device.type != "cpu" or bool((scale.detach() != 0).all())
    return scale != 0 and math.isfinite(scale)


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was written to; tensors of inference mode do not count."""
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def check_steady(fn: nn.Module) -> None:
    """Raises `BadInput` for batch normalisation in training, whose running statistics the
    recomputation would update a second time."""
    for name, module in fn.named_modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            raise BadInput(
                f"{name or type(fn).__name__} is a batch normalisation: computed twice, its "
                "running statistics would move twice.",
                "Use GroupNorm or LayerNorm, or freeze it with .eval().",
            )


def additive(first: int, f: nn.Module, g: nn.Module, *, ctx: Sequence[int] = ()) -> list[Coupling]:
    """The pair of a RevNet on streams first and first + 1: x1 += F(x2); x2 += G(x1).

    Gomez et al., "The Reversible Residual Network", 2017, equation 6.
    """
    second = first + 1
    return [
        Coupling(f, first, (second,), ctx=tuple(ctx)),
        Coupling(g, second, (first,), ctx=tuple(ctx)),
    ]


class Scaled(nn.Module):
    """factor * fn(x), for lists such as leapfrog, q += h p, where F is another module's multiple.

    With no module it is the multiple of x itself.
    """

    def __init__(self, factor: float, fn: nn.Module | None = None) -> None:
        super().__init__()
        self.factor, self.fn = factor, fn

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.factor * (x if self.fn is None else self.fn(x))


def leapfrog(force: nn.Module, step: float, count: int) -> list[Coupling]:
    """`count` symplectic steps on position q (stream 0) and momentum p (stream 1):

    p += h/2 F(q);  q += h p;  p += h/2 F(q)
    """
    kick, drift = Scaled(step / 2, force), Scaled(step)
    one = [Coupling(kick, 1, (0,)), Coupling(drift, 0, (1,)), Coupling(kick, 1, (0,))]
    return one * count


def momentum(fn: nn.Module, gamma: float) -> list[Coupling]:
    """A momentum residual block on x (stream 0) and velocity v (stream 1):

        v <- gamma v + (1 - gamma) F(x);  x <- x + v

    Sander et al., "Momentum Residual Neural Networks", 2021, equation 2.
    """
    return [
        Coupling(Scaled(1 - gamma, fn), 1, (0,), scale=gamma),
        Coupling(nn.Identity(), 0, (1,)),
    ]


def has_half_precision(streams: Sequence[Tensor]) -> bool:
    """Whether a stream is kept in a format too coarse to be walked back through."""
    return any(stream.dtype in (torch.float16, torch.bfloat16) for stream in streams)
