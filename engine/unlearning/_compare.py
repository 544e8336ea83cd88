"""Two networks side by side: what they say, what their layers see, and how soon one relearns."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from engine.core.precision import state_at_home
from engine.core.shapes import Float, Tensor
from engine.unlearning._baselines import trainable
from engine.unlearning._case import outputs
from engine.unlearning._learning import epoch_order
from engine.unlearning._losses import classification, placed
from engine.unlearning._samples import Samples

MOST_LAYERS = 24


@dataclass(frozen=True)
class Agreement:
    """How two networks agree on some pictures: share of equal answers, and the mean divergence.

    The divergence is that of Jensen and Shannon, in bits: 0 for equal outputs, 1 at most.
    """

    same: float
    divergence: float
    count: int

    @classmethod
    def of(cls, a: Float[Tensor, "n k"], b: Float[Tensor, "n k"]) -> "Agreement":
        """Of two tables of probabilities."""
        m = (a + b) / 2
        parts = [torch.special.xlogy(p, p) - torch.special.xlogy(p, m) for p in (a, b)]
        divergence = sum(part.sum(1) for part in parts) / 2 / torch.tensor(2.0).log()
        same = (a.argmax(1) == b.argmax(1)).float().mean()
        return cls(float(same), float(divergence.mean()), len(a))


# ---------------------------------------------------------------------- layers


def layers_of(model: nn.Module, most: int = MOST_LAYERS) -> tuple[str, ...]:
    """Convolutions and linear layers, evenly spaced where there are more than `most`."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Linear
    named = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    if len(named) <= most:
        return tuple(named)
    return tuple(named[round(i * (len(named) - 1) / (most - 1))] for i in range(most))


@contextmanager
def _watched(model: nn.Module, names: Sequence[str], kept: dict[str, list[Tensor]]):  # type: ignore[no-untyped-def]
    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda module, inputs, output: kept[name].append(output.detach().flatten(1).float())

    handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def grams(
    model: nn.Module, samples: Samples, names: Sequence[str]
) -> Generator[None, None, dict[str, Float[Tensor, "n n"]]]:
    """Centred Gram matrix of each layer's outputs; yields after each batch."""
    return (yield from grams_of(model, names, outputs(model, samples)))


def grams_of(
    model: nn.Module, names: Sequence[str], passes: Generator[None, None, object]
) -> Generator[None, None, dict[str, Float[Tensor, "n n"]]]:
    """The same of passes through any network, as `passes` makes them, a batch at a time."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    with _watched(model, names, kept):
        yield from passes
    rows = {name: torch.cat(parts) for name, parts in kept.items()}
    products = state_at_home({name: x @ x.T for name, x in rows.items()})
    return {name: _centred(gram.double()) for name, gram in products.items()}


def _centred(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def similarity(
    a: Mapping[str, Float[Tensor, "n n"]], b: Mapping[str, Float[Tensor, "n n"]]
) -> dict[str, float]:
    """Linear CKA of each layer: <K, L> / (|K| |L|), 1 for equal up to rotation and scale.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414).
    """
    found = {}
    for name, k in a.items():
        size = float(k.norm() * b[name].norm())
        found[name] = float((k * b[name]).sum()) / size if size > 0 else 1.0
    return found


# ---------------------------------------------------------------------- relearning


@dataclass(frozen=True)
class Relearning:
    """How the forgotten comes back: accuracy on forgotten pictures that are not trained on.

    `steps` and `accuracy` go together; `back_at` is the first step at which `goal` is reached, None
    where it is not.
    """

    samples: int
    rate: float
    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    goal: float
    back_at: int | None


def relearned(
    model: nn.Module,
    forget: Samples,
    judge: Samples,
    *,
    samples: int,
    steps: int,
    rate: float,
    goal: float,
    seed: int,
) -> Generator[None, None, Relearning]:
    """Plain SGD on a few forgotten samples, with batch statistics held; yields after each step."""
    few = forget.some(samples, seed, "relearning")
    student = trainable(model).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=rate)
    marks, weight = _marks(steps), next(student.parameters())
    at, found = [0], [(yield from _accuracy(student, judge))]
    for step, places in zip(range(1, steps + 1), _endless(len(few), seed), strict=False):
        with torch.enable_grad():
            loss = classification(student, placed(few.batch(places), weight)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in marks:
            at.append(step)
            found.append((yield from _accuracy(student, judge)))
        yield
    back = next((s for s, a in zip(at, found, strict=True) if a >= goal), None)
    return Relearning(len(few), rate, tuple(at), tuple(found), goal, back)


def _marks(steps: int) -> set[int]:
    """1, 2, 3, 5, 8, ...: close together at first, and the last."""
    marks, a, b = {steps}, 1, 2
    while a < steps:
        marks.add(a)
        a, b = b, a + b
    return marks


def _endless(count: int, seed: int, size: int = 32) -> Iterator[Tensor]:
    epoch = 0
    while True:
        yield from epoch_order(count, seed, epoch).split(size)
        epoch += 1


def _accuracy(model: nn.Module, samples: Samples) -> Generator[None, None, float]:
    told = yield from outputs(model, samples)
    return float((told.argmax(1) == samples.labels).float().mean())
