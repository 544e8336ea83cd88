"""The edit against the published formula, on projections of the shape of Stable Diffusion 1.4.

Random weights and random token states with the statistics of CLIP: rows of norm 27.7, a start token
shared by all texts. Encoding the texts is outside on both sides. The published formula runs on two
projections of each width and its seconds are scaled by their number; ours runs on all 32.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from engine.core import rng
from engine.core.shapes import Float, Tensor
from engine.erasing.rece import closed_form as cf
from engine.erasing.rece import per_layer

WIDTH, TOKENS, ROW_NORM = 768, 77, 27.7
COUNTS = {320: 10, 640: 10, 1280: 12}
TIMED_OF_EACH = 2
RETAINED = 10
EPOCHS, REG = 3, 0.1
REPEATS = 5
T = TypeVar("T")
UCE_SCALES = cf.Scales(1.0, 0.1, 0.5)
RECE_SCALES = cf.Scales(1.0, 0.1, 0.1)


@dataclass(frozen=True)
class Speed:
    """Processor seconds of both and their relative errors to float64, for one task."""

    task: str
    published_seconds: float
    our_seconds: float
    published_error: float
    our_error: float

    @property
    def factor(self) -> float:
        return self.published_seconds / self.our_seconds


@dataclass(frozen=True)
class Shapes:
    """The random checkpoint: projections, and texts as token states; `last` is the last word."""

    weights: list[Float[Tensor, "_ d"]]
    concept: Float[Tensor, "n d"]
    guide: Float[Tensor, "n d"]
    kept: list[Float[Tensor, "n d"]]
    last: int = 2

    @classmethod
    def draw(cls, seed: int) -> "Shapes":
        weights = [
            rng.noise((width, WIDTH), rng.generator(seed, "weight", width, index)) / WIDTH**0.5
            for width, count in COUNTS.items()
            for index in range(count)
        ]
        start = rng.noise((1, WIDTH), rng.generator(seed, "start"))
        texts = [_states(start, seed, index) for index in range(RETAINED + 3)]
        return cls(weights, texts[0], texts[1], texts[2:])

    def pair(self) -> cf.Pair:
        """The classic rows: last word, end token, padding."""
        return cf.Pair(self.concept[self.last :], self.guide[self.last :])

    def timed(self) -> dict[int, list[int]]:
        """Indices of the projections that the published formula is timed on, by their width."""
        by_width: dict[int, list[int]] = {}
        for index, weight in enumerate(self.weights):
            by_width.setdefault(len(weight), []).append(index)
        return {width: indices[:TIMED_OF_EACH] for width, indices in by_width.items()}


def _states(start: Tensor, seed: int, index: int) -> Float[Tensor, "n d"]:
    """Token states of one text: the shared start, then rows that resemble one another."""
    theme = rng.noise((1, WIDTH), rng.generator(seed, "theme", index))
    rows = rng.noise((TOKENS - 1, WIDTH), rng.generator(seed, "rows", index))
    raw = torch.cat([start, theme + rows])
    centred = raw - raw.mean(1, keepdim=True)
    return ROW_NORM * centred / centred.norm(dim=1, keepdim=True)


def measure(seed: int) -> Iterator[Speed]:
    """UCE with ten retained texts and the empty one, then three RECE epochs on top."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shapes = Shapes.draw(seed)
        _warm(shapes)
        yield _uce(shapes)
        yield _epochs(shapes)
    finally:
        torch.set_num_threads(threads)


def _warm(shapes: Shapes) -> None:
    """Load the kernels once, so that neither side pays for it."""
    small = cf.Pair(shapes.concept[:3], shapes.guide[:3])
    per_layer.uce(shapes.weights[0], [small], [], UCE_SCALES)
    cf.redirect([small], cf.gram(shapes.concept), UCE_SCALES)


def _uce(shapes: Shapes) -> Speed:
    pair = shapes.pair()

    def edit() -> list[Tensor]:
        keep = cf.gram(torch.cat(shapes.kept))
        return _applied(shapes.weights, cf.redirect([pair], keep, UCE_SCALES))

    ours, our_seconds = _timed(edit)

    seconds, theirs = 0.0, {}
    for indices in shapes.timed().values():
        for index in indices:
            started = time.process_time()
            theirs[index] = per_layer.uce(shapes.weights[index], [pair], shapes.kept, UCE_SCALES)
            spent = time.process_time() - started
            seconds += spent * COUNTS[len(shapes.weights[index])] / len(indices)
    truth = [_exact(weight.double(), [pair], shapes.kept, UCE_SCALES) for weight in shapes.weights]
    return Speed(
        f"UCE, one concept, {RETAINED} retained texts and the empty one",
        seconds,
        our_seconds,
        max(_error(theirs[index], truth[index]) for index in theirs),
        max(map(_error, ours, truth)),
    )


def _epochs(shapes: Shapes) -> Speed:
    """Three epochs from the UCE weights, one retained text."""
    kept = shapes.kept[:1]
    first = first_edit(shapes)
    begun = _applied(shapes.weights, first)
    (ours, factors), our_seconds = _timed(lambda: reopened_and_erased(shapes, first, kept))
    seconds, theirs = _published_epochs(shapes, begun, factors)
    truth = _exact_epochs(shapes, first, kept)
    return Speed(
        f"RECE, {EPOCHS} epochs after UCE, one retained text",
        seconds,
        our_seconds,
        max(_error(weight, truth[index]) for index, weight in theirs.items()),
        max(map(_error, ours, truth)),
    )


def with_all_kept(seed: int) -> tuple[float, float]:
    """Processor seconds of three epochs after UCE with every retained text kept in them too, from
    the weights to the baked weights, and the error to float64. Ours alone."""
    shapes = Shapes.draw(seed)
    first = first_edit(shapes)
    (ours, _), seconds = _timed(lambda: reopened_and_erased(shapes, first, shapes.kept))
    truth = _exact_epochs(shapes, first, shapes.kept)
    return seconds, max(map(_error, ours, truth))


def first_edit(shapes: Shapes) -> cf.Factor:
    """The UCE edit that the epochs follow."""
    return cf.redirect([shapes.pair()], cf.gram(torch.cat(shapes.kept)), UCE_SCALES)


def reopened_and_erased(
    shapes: Shapes, first: cf.Factor, kept: Sequence[Float[Tensor, "n d"]]
) -> tuple[list[Float[Tensor, "_ d"]], list[cf.Factor]]:
    """The weights after all epochs, baked, and the factor of each epoch."""
    gram = cf.weight_gram(shapes.weights)
    found = cf.epochs(
        [shapes.concept],
        [shapes.guide],
        cf.gram(torch.cat(list(kept))),
        cf.Layers(gram, gram).edited(first),
        RECE_SCALES,
        count=EPOCHS,
        reg=REG,
    )
    factors = [factor for _, factor in found]
    return _applied(shapes.weights, cf.joined([first, *factors])), factors


def _published_epochs(
    shapes: Shapes, begun: Sequence[Tensor], factors: Sequence[cf.Factor]
) -> tuple[float, dict[int, Tensor]]:
    """The derivation over all projections and the edit of the timed ones, epoch by epoch.

    Between the epochs the projections that are not timed are brought along by the exact map.
    """
    now, seconds, timed = list(begun), 0.0, shapes.timed()
    chosen = [index for indices in timed.values() for index in indices]
    for factor in factors:
        started = time.process_time()
        derived = per_layer.derived(now, shapes.weights, shapes.concept, REG)
        seconds += time.process_time() - started
        rest = _applied(now, factor)
        for index, weight in enumerate(now):
            if index not in chosen:
                now[index] = rest[index]
                continue
            started = time.process_time()
            now[index] = per_layer.uce(
                weight, [cf.Pair(derived, shapes.guide)], shapes.kept[:1], RECE_SCALES
            )
            spent = time.process_time() - started
            seconds += spent * COUNTS[len(weight)] / len(timed[len(weight)])
    return seconds, {index: now[index] for index in chosen}


def _exact_epochs(
    shapes: Shapes, first: cf.Factor, kept: Sequence[Tensor]
) -> list[Float[Tensor, "_ d"]]:
    """The published formula in float64 throughout, with sums of outer products as products."""
    originals = [weight.double() for weight in shapes.weights]
    now = [_exact(w, [shapes.pair()], shapes.kept, UCE_SCALES) for w in originals]
    for _ in range(EPOCHS):
        derived = per_layer.derived(now, originals, shapes.concept.double(), REG)
        pair = cf.Pair(derived, shapes.guide.double())
        now = [_exact(weight, [pair], kept, RECE_SCALES) for weight in now]
    return now


def _exact(
    weight: Float[Tensor, "o d"],
    pairs: Sequence[cf.Pair],
    kept: Sequence[Float[Tensor, "_ d"]],
    scales: cf.Scales,
) -> Float[Tensor, "o d"]:
    """W' = A B^-1 of one projection in float64, without the map: what both are held against."""
    a = scales.ridge * weight
    b = scales.ridge * torch.eye(weight.shape[1], dtype=torch.float64)
    everything = [(p.old, p.new, scales.erase) for p in pairs]
    everything += [(rows, rows, scales.preserve) for rows in kept]
    for old, new, scale in everything:
        a = a + scale * (new.double() @ weight.T).T @ old.double()
        b = b + scale * old.double().T @ old.double()
    return torch.linalg.solve(b, a, left=False)


def _timed(edit: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the median of its processor seconds: one edit is over too soon to trust
    a single run on a shared machine."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        found = edit()
        seconds.append(time.process_time() - started)
    return found, statistics.median(seconds)


def _applied(weights: Sequence[Tensor], factor: cf.Factor) -> list[Tensor]:
    return [cf.applied(weight, factor) for weight in weights]


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())
