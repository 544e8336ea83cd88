"""The jobs: a picture forward and back, bytes against columns, probes, estimates.

The network is in `engine.networks._revcol`, the way back in `walk`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
from PIL import Image

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.reversible import compare
from engine.core.rng import generator
from engine.core.settings import Items, OneOf, Range
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.networks import _revcol as nets
from engine.networks import _revcol_world as world
from engine.networks._places import place
from engine.networks.revcol import probes, walk
from engine.networks.revcol.results import Bar, Bars, Estimate, Estimated, Probed, Walked
from engine.pictures import PictureSetting
from engine.reversible import Mode
from engine.reversible.memory import counting, measure
from engine.world.fashion import garments

KEY = world.KEY
FITTED_ON = 400  # pictures for the linear picture of the lowest map
MOST_COLUMNS, MOST_WIDTH, LARGEST_SIDE, MOST_BATCH = 32, 256, 1024, 256
# Of columns, blocks, width and side squared, and batch: a step that takes about two seconds.
MOST_WORK = 400_000_000
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Policy:
    """A memory policy; "released" keeps the maps after every column, as the authors' code does."""

    title: str
    mode: Mode
    anchor_every: int | None = None


POLICIES: Mapping[str, Policy] = {
    "plain": Policy("plain autograd", "plain"),
    "checkpoint": Policy("checkpoint per column", "checkpoint", nets.LEVELS),
    "released": Policy("one Function per column, as released", "reversible", nets.LEVELS),
    "whole": Policy("all columns in one sequence", "reversible"),
    "anchored": Policy("one sequence, anchors every two columns", "reversible", 2 * nets.LEVELS),
}

PoliciesSetting = Annotated[
    Sequence[Annotated[str, OneOf(POLICIES)]], Items(len(POLICIES), fewest=1)
]


def run(
    *,
    seed: int,
    model: ModelRef | str = KEY,
    index: Annotated[int, Range(0, 3999, "There are 4,000 test pictures.")] = 0,
    picture: PictureSetting | None = None,
    precision: Annotated[str, OneOf(PRECISIONS)] = "float64",
) -> Steps[Walked]:
    """A garment forward through the columns, then back from the last column's maps.

    `index` is a place among the test pictures; a picture of one's own is scaled to theirs.
    `precision` is that of the streams: flat backgrounds take more digits than float32 has. The seed
    is not used.
    """
    yield Progress(0, 1, "Opening the network")
    network, classes = _opened(model)
    x, truth = _input(network, index, picture)
    dtype = getattr(torch, precision)
    network = copy.deepcopy(network).to(place(dtype), dtype)
    x = x.to(place(dtype), dtype)
    shown = Walked(walk.to_picture(x[0]), classes, truth, alphas=walk.alphas(network))
    total = nets.LEVELS * len(network.columns) + 2
    shown = replace(shown, exits=walk.exits(network, x, classes))
    yield Progress(1, total, "Forward through all columns", shown)
    readout = _readout(network, x)
    yield Progress(2, total, "Fitting the linear pictures", shown)
    for step, streams, truth_streams in walk.walked_back(network, x, readout):
        shown = replace(shown, steps=(*shown.steps, step))
        if step.column == 1 and step.level == 0:
            continue
        trip = compare(truth_streams, streams, steps=len(shown.steps))
        shown = replace(shown, trip=trip)
        yield Progress(
            len(shown.steps) + 2, total, f"Column {step.column}, level {step.level} undone", shown
        )
    return shown


def memory(
    *,
    seed: int,
    columns: Annotated[
        Sequence[Annotated[int, Range(1, MOST_COLUMNS, "Try 2, 4, 8, 16.")]], Items(6, fewest=1)
    ] = (2, 4, 8, 16),
    policies: PoliciesSetting = tuple(POLICIES),
    width: Annotated[int, Range(1, MOST_WIDTH, "Try 8.")] = 8,
    blocks: Annotated[int, Range(1, 8, "Try 1.")] = 1,
    side: Annotated[int, Range(32, 256, "It must be a multiple of 32.")] = 64,
    batch: Annotated[int, Range(1, 32, "Try 4.")] = 4,
) -> Steps[Bars]:
    """Bytes of a training step against the number of columns, measured; networks are untrained.

    Levels have width, 2 width, 3 width, 4 width channels.
    """
    counts, named = tuple(columns), tuple(policies)
    if side % nets.STRIDE:
        raise BadInput(f"A picture of {side} pixels does not halve evenly.", "Take 32, 64 or 96.")
    if max(counts) * blocks * (width * side) ** 2 * batch > MOST_WORK:
        raise BadInput(
            f"{max(counts)} columns of width {width} at {side} pixels are too much here.",
            "Take a smaller width, side or batch.",
        )
    shown, total = Bars(), len(counts) * len(named)
    yield Progress(0, total, "Laying out columns")
    x = torch.randn(batch, 3, side, side, generator=generator(seed, "pictures"))
    for count in counts:
        config = _stack(width, blocks, count)
        truth: list[Tensor] = []
        for name in named:
            bar, truth = _bar(config, name, x, seed, truth)
            shown = replace(shown, bars=(*shown.bars, bar))
            yield Progress(len(shown.bars), total, f"{count} columns, {bar.title}", shown)
        error = _stack_error(config, x, seed)
        shown = replace(shown, inverse_errors=(*shown.inverse_errors, (count, error)))
    return shown


def probe(
    *,
    seed: int,
    model: ModelRef | str = KEY,
    train: Annotated[int, Range(200, 5000, "Try 800.")] = 800,
    test: Annotated[int, Range(100, 2000, "Try 400.")] = 400,
) -> Steps[Probed]:
    """What each level knows of the class and of the position, by column."""
    yield Progress(0, 1, "Opening the network")
    network, classes = _opened(model)
    network = copy.deepcopy(network).to(place())
    parts, labels, shifts = [], [], []
    total = (train + test) // probes.AT_ONCE + 2
    done = 0
    for part, count in ((garments("train"), train), (garments("test"), test)):
        pixels, shift = probes.moved(part.pixels[:count], seed)
        maps = []
        for one in probes.maps_of(network, pixels):
            maps.append(one)
            done += 1
            yield Progress(min(done, total), total, f"Looking at pictures, {done}")
        parts.append(maps)
        labels.append(torch.from_numpy(part.labels[:count].astype(np.int64)))
        shifts.append(shift)
    counts = labels[1].bincount(minlength=len(classes))
    shown = Probed(train, test, float(counts.max()) / test)
    for knows in probes.probed(
        parts[0], parts[1], (labels[0], labels[1]), (shifts[0], shifts[1]), len(classes)
    ):
        shown = replace(shown, knows=(*shown.knows, knows))
        yield Progress(total, total, f"Column {knows.column}, level {knows.level}", shown)
    return shown


def estimate(
    *,
    seed: int,
    sizes: Annotated[
        Sequence[Annotated[str, OneOf(nets.CONFIGS)]], Items(len(nets.CONFIGS), fewest=1)
    ] = ("T", "S", "B"),
    side: Annotated[int, Range(32, LARGEST_SIDE, "Take 224, 384 or 640.")] = 224,
    batch: Annotated[int, Range(1, MOST_BATCH, "Try 1.")] = 1,
    policies: PoliciesSetting = ("plain", "whole"),
) -> Steps[Estimated]:
    """Bytes of a training step of the published sizes, computed on shapes; the seed is not used."""
    known, named = tuple(sizes), tuple(policies)
    if side % nets.STRIDE:
        raise BadInput(f"{side} pixels do not halve evenly.", "Take a multiple of 32.")
    shown, total = Estimated(batch), len(known) * len(named)
    yield Progress(0, total, "Laying out shapes")
    for size in known:
        for name in named:
            title, done = f"RevCol-{size}, {POLICIES[name].title}", len(shown.rows)
            row = yield from _estimate(
                size, name, side, batch, partial(_counted, done, total, title, shown)
            )
            shown = replace(shown, rows=(*shown.rows, row))
            yield Progress(done + 1, total, title, shown)
    return shown


# ---------------------------------------------------------------------- pictures and networks


def _opened(model: ModelRef | str) -> tuple[nets.RevCol, tuple[str, ...]]:
    """The shipped network with its classes, or a folder's, whose classes are numbers."""
    source = model.source if isinstance(model, ModelRef) else model
    if source == KEY:
        return world.shipped(KEY), tuple(world.class_names())
    network = world.from_folder(source)
    return network, tuple(f"class {k}" for k in range(network.config.classes))


def _input(
    network: nets.RevCol, index: int, picture: UInt8[Array, "h w 3"] | None
) -> tuple[Float[Tensor, "1 3 i j"], str]:
    if picture is None:
        part = garments("test")
        return world.inputs_of(part.pixels[index : index + 1]), world.class_names()[
            int(part.labels[index])
        ]
    side = 32 if network.config.classes <= 10 else 224
    image = Image.fromarray(picture).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    return x, ""


def _readout(network: nets.RevCol, like: Tensor) -> walk.Readout:
    x = world.inputs_of(garments("train").pixels[:FITTED_ON]).to(like)
    return walk.Readout([streams[0] for streams in walk.columns_of(network, x)], x)


# ---------------------------------------------------------------------- bytes


def _stack(width: int, blocks: int, columns: int) -> nets.RevColConfig:
    widths = tuple(width * (level + 1) for level in range(nets.LEVELS))
    return nets.RevColConfig(
        widths, (blocks,) * nets.LEVELS, columns, classes=10, supervised=False, gamma=0.5
    )


def _network(config: nets.RevColConfig, policy: Policy, seed: int) -> nets.RevCol:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return nets.RevCol(config, mode=policy.mode, anchor_every=policy.anchor_every).train()


def _bar(
    config: nets.RevColConfig, name: str, x: Tensor, seed: int, truth: list[Tensor]
) -> tuple[Bar, list[Tensor]]:
    """One bar, its gradients held against those of the first policy."""
    policy = POLICIES[name]
    network = _network(config, policy, seed)
    with torch.enable_grad():
        cost = measure(lambda: network(x).logits[-1].square().mean(), network, [x])
        loss = network(x).logits[-1].square().mean()
        found = list(torch.autograd.grad(loss, list(network.parameters())))
    truth = truth or found
    size = max(float(grad.abs().max()) for grad in truth)
    gap = max(float((a - b).abs().max()) for a, b in zip(found, truth, strict=True))
    bar = Bar(
        config.columns, name, policy.title, cost.kept_bytes, cost.peak_bytes, cost.flops,
        gap / size, cost.is_computed,
    )  # fmt: skip
    return bar, truth


@torch.no_grad()
def _stack_error(config: nets.RevColConfig, x: Tensor, seed: int) -> float:
    """Relative error of the maps before the last column but the first, all walked back to."""
    network = _network(config, POLICIES["whole"], seed).eval()
    stem = network.stem(x)
    sequence, zeros = network.sequence(), network.zeros(stem)
    there = [streams for _, streams in sequence.trace(zeros, (stem,))]
    back = dict(sequence.trace(there[-1], (stem,), backward=True))
    first = min(nets.LEVELS, len(there) - 1)
    return compare(there[first - 1], back[first]).relative_error


def _counted(done: int, total: int, title: str, shown: Estimated, operations: int) -> Progress:
    return Progress(done, total, f"{title}: {operations:,} operations", shown)


def _estimate(
    size: str, name: str, side: int, batch: int, told: Callable[[int], Progress]
) -> Steps[Estimate]:
    policy = POLICIES[name]
    with torch.device("meta"):
        network = nets.RevCol(
            nets.CONFIGS[size], mode=policy.mode, anchor_every=policy.anchor_every
        ).train()
        x = torch.zeros(batch, 3, side, side)
        labels = torch.zeros(batch, dtype=torch.long)

    def step() -> Tensor:
        seen = network(x)
        return nets.compound_loss(seen.logits, seen.decoded, x, labels).total

    cost = yield from counting(step, network, [x, labels], told)
    parameters = sum(p.numel() for p in network.parameters())
    return Estimate(size, side, name, parameters, cost.kept_bytes, cost.peak_bytes, cost.flops)
