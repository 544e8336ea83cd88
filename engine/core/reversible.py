"""Things that run both ways, and how exactly they come back.

Patches, samplers and merges keep this protocol, and so do the networks of `engine.reversible`,
whose `ReversibleSequence.given(context)` is a `Reversible`: one measure for all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch

from engine.core.catalog import Exactness, RoundTrip
from engine.core.errors import BadInput
from engine.core.precision import at_home, wide

X = TypeVar("X")
Y = TypeVar("Y")


@runtime_checkable
class Reversible(Protocol[X, Y]):
    """A computation with an inverse, on tensors or on tuples, mappings, dataclasses of them."""

    def forward(self, x: X) -> Y: ...

    def inverse(self, y: Y) -> X: ...


def round_trip(pair: Reversible[X, Y], x: X, *, steps: int = 1) -> RoundTrip:
    """The measure of inverse(forward(x)) against x; see `compare`."""
    return compare(x, pair.inverse(pair.forward(x)), steps=steps)


def compare(x: object, back: object, *, steps: int = 1) -> RoundTrip:
    """How `back` agrees with `x`, tensor by tensor.

    Round-off is 64 units in the last place of the coarsest float among them, times the number of
    `steps` that were taken: each step rounds a few times, and errors at worst add up.
    Raises `BadInput` when the two do not have the same tensors.
    """
    gone, came = list(_tensors(x)), list(_tensors(back))
    if len(gone) != len(came):
        raise BadInput("What came back has another number of tensors than what went in.")
    here = at_home([*gone, *came])
    pairs = list(zip(here, here[len(gone) :], strict=False))
    for a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            raise BadInput(
                f"A {tuple(a.shape)} {a.dtype} tensor came back as {tuple(b.shape)} {b.dtype}."
            )
    error = max((_largest(a, b) for a, b in pairs), default=0.0)
    size = max((_size(a) for a, _ in pairs), default=0.0)
    numbers = sum(a.numel() for a, _ in pairs)
    equal = sum(_equal_numbers(a, b) for a, b in pairs)
    relative = error / size if size else error
    bound = 64 * steps * max((_epsilon(a) for a, _ in pairs), default=0.0)
    if equal == numbers:
        exactness = Exactness.BITWISE
    else:
        exactness = Exactness.ROUND_OFF if relative <= bound else Exactness.APPROXIMATE
    return RoundTrip(error, relative, equal / numbers if numbers else 1.0, bound, exactness)


def missed(edits: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The part of an edit that a file of it does not bring, 0 for none and 1 for all of it.

    Pairs are what a tensor changes by: read back from the file, and in the whole edit. The measure
    is ||found - whole|| / ||whole|| in Frobenius norms over all pairs together; for an edit that
    changes nothing, 0 where the file changes nothing either.
    """
    seen = Missed()
    for found, whole in edits:
        seen.add(found, whole)
    return seen.share


class Missed:
    """`missed`, pair after pair, for edits that are too large to be held at once."""

    def __init__(self) -> None:
        self.gap = self.size = 0.0

    def add(self, found: torch.Tensor, whole: torch.Tensor) -> None:
        """One more tensor: what it changes by according to the file, and in the whole edit."""
        found, whole = at_home([found, whole])
        wide = _wide(whole)
        self.gap += float((_wide(found) - wide).square().sum())
        self.size += float(wide.square().sum())

    @property
    def share(self) -> float:
        """The part that is missed so far."""
        return (self.gap / self.size) ** 0.5 if self.size else float(self.gap > 0)


def missed_of_weights(
    found: Mapping[str, torch.Tensor],
    edited: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
) -> float:
    """`missed` for weights: of a file, of the whole edit, and those both start from.

    What the file does not hold stays as in the base.
    """
    read = {name: found.get(name, base[name]) for name in edited}
    here = at_home([state[name] for state in (read, edited, base) for name in edited])
    count = len(edited)
    threes = zip(here[:count], here[count : 2 * count], here[2 * count :], strict=True)
    return missed((_wide(f) - _wide(b), _wide(e) - _wide(b)) for f, e, b in threes)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value.detach()
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference; infinite where one is NaN or infinite and the other is not equal."""
    wide_a, wide_b = _wide(a), _wide(b)
    gaps = (wide_a - wide_b).abs()
    same = (wide_a == wide_b) | (wide_a.isnan() & wide_b.isnan())
    gaps = torch.where(same, 0.0, gaps).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return float(gaps.max()) if gaps.numel() else 0.0


def _size(tensor: torch.Tensor) -> float:
    wide = _wide(tensor).abs()
    finite = wide[wide.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return wide(real)


def _equal_numbers(a: torch.Tensor, b: torch.Tensor) -> int:
    size = a.element_size()
    rows = [t.contiguous().reshape(-1).view(torch.uint8).reshape(-1, size) for t in (a, b)]
    return int((rows[0] == rows[1]).all(dim=1).sum())


def _epsilon(tensor: torch.Tensor) -> float:
    has_fraction = tensor.is_floating_point() or tensor.is_complex()
    return torch.finfo(tensor.dtype).eps if has_fraction else 0.0
