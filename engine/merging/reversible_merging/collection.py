"""Several adapters with their modules side by side, read layer by layer.

Where ranks differ the smaller ones are filled up with zeros, which changes no delta; where an
adapter lacks a module its factors there are zeros. Storage is counted by what the files hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from engine.core.errors import BadInput, ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.merging.reversible_merging.fine_tunes import from_source
from engine.models.adapter_sources import find
from engine.models.adapters import Lora, LoraLayer, open_lora

MOST = 32
# Collections with fewer numbers than this are kept in memory once they are read.
SMALL = 20_000_000


@dataclass(frozen=True)
class Shape:
    """A module's delta, m x d, with the largest rank among the adapters."""

    m: int
    d: int
    r: int


@dataclass(frozen=True, eq=False)
class Collection:
    """Adapters for one model, in order, over the union of their modules."""

    loras: tuple[Lora, ...]
    shapes: Mapping[str, Shape]
    _kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.loras)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(lora.name for lora in self.loras)

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @cached_property
    def digest(self) -> tuple[str, ...]:
        """The adapters' digests, in order: what results of this collection depend on."""
        return tuple(lora.sha256 for lora in self.loras)

    @cached_property
    def numbers(self) -> int:
        """How many numbers the adapters' factors hold."""
        return sum(layer.numbers for lora in self.loras for layer in lora.layers.values())

    @property
    def kept_apart(self) -> int:
        """Bytes that are no factors (heads, biases, norms); they stay with each adapter."""
        return sum(size for lora in self.loras for size in lora.extra.values())

    @property
    def rank(self) -> int:
        """The largest rank of any adapter at any module."""
        return max(shape.r for shape in self.shapes.values())

    @property
    def largest_p(self) -> int:
        """The p at which every module comes back, min(r, n - 1) of the largest rank."""
        return min(self.rank, self.n - 1)

    def layer(self, module: str) -> LoraLayer:
        """How the first adapter that has the module describes it."""
        return next(lora.layers[module] for lora in self.loras if module in lora.layers)

    @property
    def has_lost_dots(self) -> bool:
        """Whether a module goes by the key of a Kohya file, which is no module's name."""
        return any(lora.layout == "kohya" for lora in self.loras)

    def called(self, names: Mapping[str, str]) -> "Collection":
        """The same adapters with the names that a model's weights give the modules of Kohya files.

        As everywhere, the UNet's modules have no head.
        """
        loras = []
        for lora in self.loras:
            if lora.layout == "kohya":
                layers = {
                    module: replace(
                        layer, name=names[module].removesuffix(".weight").removeprefix("unet.")
                    )
                    for module, layer in lora.layers.items()
                }
                lora = replace(lora, layers=layers)
            loras.append(lora)
        return replace(self, loras=tuple(loras))

    def factors(self, module: str) -> tuple[Float[Tensor, "n m r"], Float[Tensor, "n r d"]]:
        """The factors of one module, float32, stacked over the adapters."""
        if module in self._kept:
            return self._kept[module]
        shape = self.shapes[module]
        a = torch.zeros(self.n, shape.m, shape.r)
        b = torch.zeros(self.n, shape.r, shape.d)
        for i, lora in enumerate(self.loras):
            if module in lora.layers:
                up, down = lora.factors(module)
                a[i, :, : up.shape[1]], b[i, : len(down)] = up, down
        if self.is_small:
            self._kept[module] = a, b
        return a, b

    def as_saved(
        self, module: str
    ) -> tuple[Float[Tensor, "k m r"], Float[Tensor, "k r d"], tuple[float, ...]]:
        """The factors of one module as the files of those adapters hold them that have it, and the
        scale of each; the ranks are those of the largest adapter, as PEFT takes them."""
        held = [lora.as_saved(module) for lora in self.loras if module in lora.layers]
        shape, rank = self.shapes[module], max(a.shape[1] for a, _, _ in held)
        a = torch.zeros(len(held), shape.m, rank)
        b = torch.zeros(len(held), rank, shape.d)
        for i, (up, down, _) in enumerate(held):
            a[i, :, : up.shape[1]], b[i, : len(down)] = up, down
        return a, b, tuple(scale for _, _, scale in held)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The largest rank of each adapter."""
        return tuple(max(layer.rank for layer in lora.layers.values()) for lora in self.loras)

    @property
    def has_one_rank(self) -> bool:
        """Whether the adapters have the same rank, and that at every module."""
        at = {module: set[int]() for module in self.modules}
        for lora in self.loras:
            for module, layer in lora.layers.items():
                at[module].add(layer.rank)
        return len(set(self.ranks)) == 1 and all(len(found) == 1 for found in at.values())

    @property
    def is_small(self) -> bool:
        """Whether all factors may stay in memory."""
        return self.numbers < SMALL

    def each(self) -> Iterator[tuple[str, Float[Tensor, "n m r"], Float[Tensor, "n r d"]]]:
        """Module after module; what was read before may be let go."""
        for module in self.modules:
            yield module, *self.factors(module)

    def notes(self) -> tuple[str, ...]:
        """What a person should know before trusting a merge of these."""
        notes = []
        ranks = sorted({layer.rank for lora in self.loras for layer in lora.layers.values()})
        if len(ranks) > 1:
            listed = ", ".join(map(str, ranks))
            notes.append(f"Ranks differ ({listed}); the smaller are filled up with zeros.")
        lacking = [
            f"{lora.name} ({len(self.shapes) - len(lora.layers)})"
            for lora in self.loras
            if len(lora.layers) < len(self.shapes)
        ]
        if lacking:
            notes.append(
                f"Some adapters lack modules that others have: {', '.join(lacking)}. There they "
                "count as zero, which pulls the mean."
            )
        if self.kept_apart:
            notes.append(
                f"{self.kept_apart / 1e6:.2f} MB are no low-rank factors (heads, biases, norms); "
                "they stay with each adapter and are not merged."
            )
        bases = {lora.base for lora in self.loras if lora.base}
        if len(bases) > 1:
            notes.append(f"The adapters name different base models: {', '.join(sorted(bases))}.")
        if self.n == 2:
            notes.append("Of two adapters p = 1 is exact, and takes more room than they do.")
        return tuple(notes)


def collect(sources: Sequence[str]) -> Collection:
    """The adapters of these sources, opened and compared.

    Raises `ModelMismatch` when two of them give one module different shapes, `BadInput` for a list
    that cannot be merged, and what opening an adapter raises.
    """
    check_sources(sources)
    return of([_opened(source) for source in sources])


def _opened(source: str) -> Lora:
    name = _name(source)
    return from_source(source, find, name) or open_lora(find(source), name)


def check_sources(sources: object) -> None:
    """Raises `BadInput` unless there are some texts, each once."""
    listed = list(sources) if isinstance(sources, list | tuple) else []
    if not 1 <= len(listed) <= MOST or not all(isinstance(s, str) and s.strip() for s in listed):
        raise BadInput(
            f"Choose between 1 and {MOST} adapters.", "Six of the shipped ones make a good start."
        )
    if any(len(source) > 500 for source in listed):
        raise BadInput("The name of an adapter is too long.", "Choose one from the list.")
    if len(set(listed)) < len(listed):
        raise BadInput("An adapter is listed twice.", "Choose each once.")


def of(loras: Sequence[Lora]) -> Collection:
    """The collection of opened adapters."""
    shapes: dict[str, Shape] = {}
    owner: dict[str, str] = {}
    for lora in loras:
        for module, layer in lora.layers.items():
            seen = shapes.get(module)
            m, d = layer.out_features, layer.in_features
            if seen and (seen.m, seen.d) != (m, d):
                raise ModelMismatch(
                    f"{layer.name[:80]} is {m} x {d} in {lora.name} but {seen.m} x {seen.d} in "
                    f"{owner[module]}, so they are for different models.",
                    "Choose adapters of one base model.",
                )
            shapes[module] = Shape(m, d, max(layer.rank, seen.r if seen else 0))
            owner.setdefault(module, lora.name)
    common = set.intersection(*(set(lora.layers) for lora in loras))
    if not common:
        raise ModelMismatch(
            "These adapters have no module in common, so they are for different models.",
            "Choose adapters of one base model.",
        )
    return Collection(tuple(loras), dict(sorted(shapes.items())))


def _name(source: str) -> str:
    source = source.partition(" minus ")[0].strip()
    return source.rstrip("/").rpartition("/")[2].removesuffix(".safetensors")[:60] or source[:60]
