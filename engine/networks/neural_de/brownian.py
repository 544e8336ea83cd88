"""Brownian motion that can be asked again: a tree of seeds.

    w = BrownianInterval(1.0, shape=(3,), seed=7)
    w(0.2, 0.5)                  the increment over [0.2, 0.5]; asked again, the same to the bit

Kidger, Foster, Li, Lyons 2021, section 4. Every node is an interval and a seed. A question splits
the leaves that it cuts, at its own ends; the left part of a split at t follows from the whole by a
Brownian bridge,

    W(s, t) given W(s, u)  ~  N( (t - s)/(u - s) W(s, u),  (u - t)(t - s)/(u - s) )

and the right part is the rest. Only the last few increments are kept; others are computed again
from the seeds on the way down. Which path one gets depends on where the first questions cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch

from engine.core import rng
from engine.core.cache import LruCache
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import Range
from engine.core.shapes import Float, Tensor
from engine.networks.neural_de.results import Refined

CACHED = 45
"""Increments that are kept, as in torchsde."""
MOST_NODES = 100_000


@dataclass
class Node:
    """An interval of the tree; `path` names its seed: 0 left, 1 right, from the root."""

    start: float
    end: float
    path: tuple[int, ...]
    parent: Node | None = None
    left: Node | None = None
    right: Node | None = None

    @property
    def is_leaf(self) -> bool:
        return self.left is None


class BrownianInterval:
    """Brownian motion on [0, end], as increments over any intervals. Float64.

    `made` counts the increments that were computed, `nodes` those that the tree knows.
    """

    def __init__(
        self, end: float, shape: Sequence[int] = (1,), *, seed: int, cached: int = CACHED
    ) -> None:
        if not (math.isfinite(end) and end > 0):
            raise BadInput(f"A path ends after it starts, got {end:g}.", "Try an end of 1.")
        self.end, self.shape, self.seed = end, tuple(shape), seed
        self.root = Node(0.0, end, ())
        self.nodes, self.made = 1, 0
        self._kept: LruCache[Tensor] = LruCache(most=cached)

    def __call__(self, start: float, end: float) -> Float[Tensor, "*d"]:
        """W(end) - W(start). Raises `BadInput` for times that do not increase or lie outside."""
        if not 0 <= start < end <= self.end:
            raise BadInput(
                f"[{start:g}, {end:g}] is no interval within [0, {self.end:g}].",
                "Ask for times that increase.",
            )
        parts = [self._increment(node) for node in self._covering(self.root, start, end)]
        return torch.stack(parts).sum(0)

    def leaves(self) -> Iterator[tuple[float, float, int]]:
        """All nodes as start, end and depth, from the root down."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop(0)
            yield node.start, node.end, len(node.path)
            waiting += [child for child in (node.left, node.right) if child is not None]

    @property
    def kept(self) -> int:
        """Increments in memory now."""
        return len(self._kept)

    def _covering(self, top: Node, start: float, end: float) -> Iterator[Node]:
        """Nodes that make up [start, end]; leaves that it cuts are split. No recursion: asked from
        left to right the tree grows as deep as it has leaves."""
        waiting = [top]
        while waiting:
            node = waiting.pop()
            if end <= node.start or node.end <= start:
                continue
            if start <= node.start and node.end <= end:
                yield node
                continue
            if node.is_leaf:
                self._split(node, end if start <= node.start else start)
            waiting += [child for child in (node.right, node.left) if child is not None]

    def _split(self, node: Node, at: float) -> None:
        if self.nodes >= MOST_NODES:
            raise BadInput("The path was asked for at too many times.", "Ask for fewer.")
        node.left = Node(node.start, at, (*node.path, 0), node)
        node.right = Node(at, node.end, (*node.path, 1), node)
        self.nodes += 2

    def _increment(self, node: Node) -> Tensor:
        """From the nearest ancestor that is kept, down; what is on the way is kept a while."""
        way = [node]
        while (value := self._kept.peek(way[-1].path)) is None and way[-1].parent is not None:
            way.append(way[-1].parent)
        if value is None:
            value = self._keep(self.root, self._noise(self.root) * math.sqrt(self.end))
        for child in reversed(way[:-1]):
            value = self._bridged(child, value)
        return value

    def _bridged(self, child: Node, whole: Tensor) -> Tensor:
        node = child.parent
        assert node is not None  # the root is no child
        assert node.left is not None  # a parent was split
        assert node.right is not None
        s, t, u = node.start, node.left.end, node.end
        spread = math.sqrt((u - t) * (t - s) / (u - s))
        left = whole * ((t - s) / (u - s)) + spread * self._noise(node.left)
        self._keep(node.left, left)
        right = self._keep(node.right, whole - left)
        return left if child is node.left else right

    def _noise(self, node: Node) -> Tensor:
        self.made += 1
        generator = rng.generator(self.seed, "brownian", *_packed(node.path))
        return rng.noise(self.shape, generator, dtype=torch.float64)

    def _keep(self, node: Node, value: Tensor) -> Tensor:
        self._kept.put(node.path, value)
        return value


def _packed(path: tuple[int, ...]) -> tuple[int, str]:
    """A path as its length and digits: a name for the seed that does not collide."""
    return len(path), "".join(map(str, path))


def brownian(
    *,
    seed: int,
    levels: Annotated[int, Range(1, 9, "Try 6.")] = 6,
    cached: Annotated[int, Range(2, 1000, "45 as in torchsde.")] = CACHED,
) -> Steps[Refined]:
    """A path asked for at 2, 4, 8 ... times; all of it again, in parts, and in another order."""
    path, shown = BrownianInterval(1.0, seed=seed, cached=cached), Refined()
    asked: dict[tuple[float, float], Tensor] = {}
    for level in range(1, levels + 1):
        times = [k / 2**level for k in range(2**level + 1)]
        for pair in pairwise(times):
            asked[pair] = path(*pair)
        walk = np.cumsum([0.0, *(float(asked[p]) for p in pairwise(times))])
        shown = replace(
            shown, levels=(*shown.levels, np.stack([times, walk], 1)),
            nodes=tuple(path.leaves()), queries=len(asked), kept=path.kept, made=path.made,
        )  # fmt: skip
        yield Progress(level, levels + 2, f"{2**level} steps", shown)
    again = max(float((path(*pair) - old).abs().max()) for pair, old in asked.items())
    halves = [(a, (a + b) / 2, b) for a, b in asked if ((a + b) / 2, b) in asked]
    parts = [float((asked[a, m] + asked[m, b] - asked[a, b]).abs().max()) for a, m, b in halves]
    shown = replace(shown, repeat_error=again, additivity_error=max(parts, default=0.0))
    yield Progress(levels + 1, levels + 2, "Asked again", shown)
    other = BrownianInterval(1.0, seed=seed, cached=cached)
    finest = [pair for pair in asked if pair[1] - pair[0] == 2.0**-levels]
    for pair in reversed(finest):
        other(*pair)
    difference = float((other(0.0, 0.5) - path(0.0, 0.5)).abs().max())
    return replace(
        shown, order_difference=difference, kept=path.kept, made=path.made, queries=2 * len(asked)
    )
