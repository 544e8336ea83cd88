"""Pictures of a model under many sets of weights, from one noise."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from engine.core.cache import LruCache
from engine.core.errors import AssetMissing
from engine.core.job import Progress
from engine.core.patch import state_fingerprint
from engine.core.shapes import Array, UInt8
from engine.merging.reversible_merging import applied
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.rebuilding import merged
from engine.merging.reversible_merging.results import Film, Row, Unmerged
from engine.merging.reversible_merging.ways import MERGES, Mix
from engine.models.diffusion import DiffusionBundle
from engine.models.drawing import Pictures, View, decode
from engine.models.library import ASSETS, MODELS

STYLES = "world-styles"
"""The set of shipped adapters that the judge of styles knows."""
Shown: TypeAlias = Unmerged | Film

_PICTURES: LruCache[Pictures] = LruCache()


@dataclass
class Drawing:
    """Pictures of one view from one noise under many sets of weights, counted as progress."""

    bundle: DiffusionBundle
    collection: Collection
    names: Mapping[str, str]
    view: View
    seed: int
    sets: int
    done: int = 0

    @property
    def total(self) -> int:
        """Sampler steps of all sets of weights."""
        return self.sets * self.view.steps

    def each(
        self, kind: str, title: str, deltas: Callable[[int], applied.Deltas], shown: Shown
    ) -> Generator[Progress, None, Row]:
        """One picture for each adapter."""
        drawn: list[UInt8[Array, "h w 3"]] = []
        for index, name in enumerate(self.collection.names):
            pictures = yield from self.of(deltas(index), f"{name}: {title}")
            drawn.append(pictures[0])
            row = Row(title, kind, np.stack(drawn), verdicts(self.bundle, np.stack(drawn)))
            yield Progress(self.done, self.total, f"{name}: {title}", _with_row(shown, row))
        return row

    def merged(self, merge: str, mix: Mix, shown: Shown) -> Generator[Progress, None, Row]:
        """The picture of the merged weights: one for all, shown in every column."""
        title = f"merged: {MERGES[merge].title}"
        pictures = yield from self.of(merged(self.collection, merge, mix), title)
        n = self.collection.n
        row = Row(
            title, "merged", np.repeat(pictures, n, axis=0), verdicts(self.bundle, pictures) * n
        )
        yield Progress(self.done, self.total, title, _with_row(shown, row))
        return row

    def of(self, deltas: applied.Deltas, title: str) -> Generator[Progress, None, Pictures]:
        """The pictures of the model with these deltas in its weights, one a prompt."""
        key = (*self.view.cache_key(self.bundle, self.seed), _digest(deltas))
        pictures = yield from _PICTURES.steps(key, lambda: self._drawn(deltas, title))
        self.done += self.view.steps
        return pictures

    def _drawn(self, deltas: applied.Deltas, title: str) -> Generator[Progress, None, Pictures]:
        state = dict(self.bundle.model.state_dict())
        weights = applied.baked(state, self.collection, self.names, deltas)
        model = applied.with_weights(self.bundle, weights)
        for step in self.view.walk(model, self.seed):
            yield Progress(self.done + step.i + 1, self.total, title)
        return decode(model, step.z)


def _with_row(shown: Shown, row: Row) -> Shown:
    """The preview with one more row, where it has rows."""
    return replace(shown, rows=(*shown.rows, row)) if isinstance(shown, Unmerged) else shown


def verdicts(bundle: DiffusionBundle, pictures: UInt8[Array, "b h w 3"]) -> tuple[str, ...]:
    """Style and object as the judges see them; empty texts for other models."""
    from engine.models.style_judge import load_style_judge
    from engine.models.vision import load_judge

    if bundle.vocabulary is None or STYLES not in MODELS:
        return ("",) * len(pictures)
    try:
        styles = load_style_judge(ASSETS / STYLES / "judge").names(pictures)
        objects = load_judge().judge(pictures)
    except AssetMissing:
        return ("",) * len(pictures)
    things = [objects.best("subject", i)[0] for i in range(len(objects))]
    return tuple(
        f"{'another style' if style == 'another' else style} {sure:.0%}, {thing}".replace("%", " %")
        for (style, sure), thing in zip(styles, things, strict=True)
    )


def pixel_differences(
    a: UInt8[Array, "n h w 3"] | None, b: UInt8[Array, "n h w 3"] | None
) -> tuple[float, ...]:
    """Mean absolute difference of the pixels of each pair, of 255; empty without pictures."""
    if a is None or b is None:
        return ()
    gap = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return tuple(float(one.mean()) for one in gap)


def _digest(deltas: applied.Deltas) -> str:
    return state_fingerprint(deltas) if deltas else ""
