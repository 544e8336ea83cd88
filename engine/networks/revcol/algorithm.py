"""The jobs: a picture forward and back, bytes against columns, probes, estimates.

The network is in `engine.networks._revcol`, the way back in `walk`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.reversible import compare
from engine.core.rng import generator
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.networks import _revcol as nets
from engine.networks import _revcol_world as world
from engine.networks.revcol import probes, walk
from engine.networks.revcol.results import Bar, Bars, Estimate, Estimated, Probed, Walked
from engine.reversible import Mode
from engine.reversible.memory import measure
from engine.world.fashion import garments

KEY = world.KEY
FITTED_ON = 400  # pictures for the linear picture of the lowest map
MOST_COLUMNS, MOST_WIDTH, LARGEST_SIDE, MOST_BATCH = 32, 256, 1024, 256
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


def run(
    *,
    seed: int,
    model: ModelRef | str = KEY,
    index: int = 0,
    picture: UInt8[Array, "h w 3"] | None = None,
    precision: str = "float64",
) -> Steps[Walked]:
    """A garment forward through the columns, then back from the last column's maps.

    `index` is a place among the test pictures; a picture of one's own is scaled to theirs.
    `precision` is that of the streams: flat backgrounds take more digits than float32 has. The seed
    is not used.
    """
    checks.count("index", index, 0, 3999, "There are 4,000 test pictures.")
    checks.choice("precision", precision, PRECISIONS)
    _check_picture(picture)
    yield Progress(0, 1, "Opening the network")
    network, classes = _opened(model)
    x, truth = _input(network, index, picture)
    if precision == "float64":
        network, x = copy.deepcopy(network).double(), x.double()
    shown = Walked(walk.to_picture(x[0]), classes, truth, alphas=walk.alphas(network))
    total = nets.LEVELS * len(network.columns) + 2
    shown = replace(shown, exits=walk.exits(network, x, classes))
    yield Progress(1, total, "Forward through all columns", shown)
    readout = _readout(network, x.dtype)
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
    model: ModelRef | str = KEY,
    columns: Sequence[int] = (2, 4, 8, 16),
    policies: Sequence[str] = tuple(POLICIES),
    width: int = 8,
    blocks: int = 1,
    side: int = 64,
    batch: int = 4,
) -> Steps[Bars]:
    """Bytes of a training step against the number of columns, measured; networks are untrained.

    Levels have width, 2 width, 3 width, 4 width channels. The model is not used.
    """
    counts = _columns(columns)
    named = _policies(policies)
    checks.count("width", width, 1, MOST_WIDTH)
    checks.count("blocks", blocks, 1, 8)
    checks.count("side", side, 32, 256, "It must be a multiple of 32.")
    checks.count("batch", batch, 1, 32)
    if side % nets.STRIDE:
        raise BadInput(f"A picture of {side} pixels does not halve evenly.", "Take 32, 64 or 96.")
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
    *, seed: int, model: ModelRef | str = KEY, train: int = 800, test: int = 400
) -> Steps[Probed]:
    """What each level knows of the class and of the position, by column."""
    checks.count("train", train, 200, 5000)
    checks.count("test", test, 100, 2000)
    yield Progress(0, 1, "Opening the network")
    network, classes = _opened(model)
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
    model: ModelRef | str = KEY,
    sizes: Sequence[str] = ("T", "S", "B"),
    side: int = 224,
    batch: int = 1,
    policies: Sequence[str] = ("plain", "whole"),
) -> Steps[Estimated]:
    """Bytes of a training step of the published sizes, computed on shapes; seed and model are not
    used."""
    known = checks.texts(sizes, "sizes", len(nets.CONFIGS), 4)
    for size in known:
        checks.choice("sizes", size, nets.CONFIGS)
    named = _policies(policies)
    checks.count("side", side, 32, LARGEST_SIDE, "Take 224, 384 or 640.")
    checks.count("batch", batch, 1, MOST_BATCH)
    if side % nets.STRIDE:
        raise BadInput(f"{side} pixels do not halve evenly.", "Take a multiple of 32.")
    shown, total = Estimated(batch), len(known) * len(named)
    yield Progress(0, total, "Laying out shapes")
    for size in known:
        for name in named:
            shown = replace(shown, rows=(*shown.rows, _estimate(size, name, side, batch)))
            yield Progress(len(shown.rows), total, f"RevCol-{size}, {POLICIES[name].title}", shown)
    return shown


# ---------------------------------------------------------------------- pictures and networks


def _check_picture(picture: object) -> None:
    if picture is None:
        return
    good = isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3
    if not good or picture.dtype != np.uint8 or min(picture.shape[:2]) < 1:  # type: ignore[attr-defined]
        raise BadInput("The picture must be in RGB, 8 bits a channel.", "Upload a PNG or a JPEG.")


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


def _readout(network: nets.RevCol, dtype: torch.dtype) -> walk.Readout:
    x = world.inputs_of(garments("train").pixels[:FITTED_ON]).to(dtype)
    return walk.Readout([streams[0] for streams in walk.columns_of(network, x)], x)


# ---------------------------------------------------------------------- bytes


def _columns(columns: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(columns, list | tuple) or not 1 <= len(columns) <= 6:
        raise BadInput("Give one to six numbers of columns.", "Try 2, 4, 8, 16.")
    return tuple(checks.count("columns", count, 1, MOST_COLUMNS) for count in columns)


def _policies(policies: Sequence[str]) -> tuple[str, ...]:
    named = checks.texts(policies, "policies", len(POLICIES), 20)
    for name in named:
        checks.choice("policies", name, POLICIES)
    if not named:
        raise BadInput("Name at least one memory policy.", f"Choose {', '.join(POLICIES)}.")
    return named


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


def _estimate(size: str, name: str, side: int, batch: int) -> Estimate:
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

    cost = measure(step, network, [x, labels])
    parameters = sum(p.numel() for p in network.parameters())
    return Estimate(size, side, name, parameters, cost.kept_bytes, cost.peak_bytes, cost.flops)
