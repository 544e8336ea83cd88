"""The jobs: segment and walk a stage back, train live in several modes, sizes at any memory.

The network is in `engine.networks._unet3d`, volumes in `_brain`, files in `_nifti`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
import torch

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.named_file import NamedFile
from engine.core.recipe import ModelRef
from engine.core.reversible import round_trip
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, Float, Int, Tensor, UInt8
from engine.networks import _brain as brain
from engine.networks import _brain_models as models
from engine.networks import _nifti as nifti
from engine.networks import _unet3d as nets
from engine.networks._places import place
from engine.networks.reversible_unet3d import sizes
from engine.networks.reversible_unet3d.results import (
    Bar,
    Cube,
    Curve,
    Overlap,
    Segmented,
    Sized,
    StageBack,
    Trained,
)
from engine.reversible.memory import counting

KEY = models.KEY
FILE = "segmentation.nii.gz"
PARTS = ("test", "train", "all")
VOLUMES = ("average", "single")
MOST_STEPS, LARGEST_CROP, MOST_BLOCKS, MOST_WIDTH, MOST_EXPANSION = 200, 48, 8, 256, 8
MOST_WINDOWS = 400
# Of voxels, blocks, expansion and width squared over all levels: a step of about three seconds.
MOST_WORK = 60_000_000

ModesSetting = Annotated[
    Sequence[Annotated[str, OneOf(sizes.POLICIES)]], Items(len(sizes.POLICIES), fewest=1)
]
WidthsSetting = Annotated[
    Sequence[Annotated[int, Range(8, MOST_WIDTH, "Try 8, 16, 32.")]], Items(5, fewest=2)
]
ExpansionSetting = Annotated[int, Range(1, MOST_EXPANSION, "Try 4.")]


def run(
    *,
    seed: int,
    model: ModelRef | str = KEY,
    volume: Annotated[str, OneOf(VOLUMES)] = "average",
    part: Annotated[str, OneOf(PARTS)] = "test",
    nifti_file: Annotated[str, Text(nifti.MOST_TEXT, advice="Crop the volume.")] = "",
    window: Annotated[int, Range(16, 96, "Try 48.")] = 48,
    overlap: Annotated[float, Range(0, 0.75, "Try 0.25.")] = 0.25,
    stages: bool = True,
) -> Steps[Segmented]:
    """Tissues of a template, or of one's own NIfTI, window by window; then every stage is walked
    backwards on one window, with its error volume.

    `nifti_file` is the file as text (base64). Nothing is random; the seed is not used.
    """
    scan, truth, title = _scan(volume, part, nifti_file)
    yield Progress(0, 1, "Opening the network")
    network = models.shipped(_key(model))
    _check_fits(network, scan, window, overlap)
    x = _inputs(scan)
    shown = _first(scan, truth, title)
    count = 1
    for number, count, scores in models.windowed(network, x, side=window, overlap=overlap):
        labels = models.labels_of(scores, x).to(torch.uint8).numpy()
        shown = replace(shown, labels=labels)
        yield Progress(number, count + 1, f"Window {number} of {count}", shown)
    shown = replace(
        shown,
        overlaps=overlaps(torch.from_numpy(shown.labels), truth),
        file=NamedFile(FILE, nifti.written(shown.labels, scan)),
    )
    yield Progress(count, count + 1, "Walking the stages backwards", shown)
    if stages:
        shown = replace(shown, stages=tuple(walked_back(network, _window(x, window))))
    return shown


def train(
    *,
    seed: int,
    modes: ModesSetting = ("plain", "reversible"),
    widths: WidthsSetting = (8, 16, 32),
    blocks: Annotated[int, Range(1, MOST_BLOCKS, "Try 1.")] = 1,
    expansion: ExpansionSetting = 2,
    side: Annotated[int, Range(8, LARGEST_CROP, "Try 32.")] = 32,
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 20.")] = 20,
    learning_rate: Annotated[float, Range(1e-5, 0.1, "3e-3 is a good start.")] = 3e-3,
    test: bool = False,
) -> Steps[Trained]:
    """From the same new weights on the same crops in each mode: equal losses at different memory.

    With `test` the held-out slices are segmented at the end.
    """
    config = _config(widths, blocks, expansion)
    _check_work(config, side)
    named = tuple(modes)
    yield Progress(0, 1, "Cutting crops")
    part = brain.volume("average").part("train")
    assert part.labels is not None
    data = brain.standardised(part.voxels)[0], torch.from_numpy(part.labels.astype(np.int64))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in nets.RevUNet3d(config).parameters())
    shown = Trained(side, parameters)
    total = steps * len(named) + 1
    for index, name in enumerate(named):
        network = _new(config, sizes.POLICIES[name], seed)
        # Bytes are counted before the network goes to a device, so that they are alike everywhere.
        curve = yield from _costed(network, name, data, side, seed, index * steps, total, shown)
        network = network.to(place())
        others = shown.curves
        for loss in losses(network, data, side, steps, learning_rate, seed):
            curve = replace(curve, losses=(*curve.losses, loss))
            shown = replace(shown, curves=(*others, curve))
            done = index * steps + len(curve.losses)
            yield Progress(done, total, f"{curve.title}: step {len(curve.losses)}", shown)
        if test:
            curve = yield from _tested(network.eval(), curve, total - 1, total)
        shown = replace(shown, curves=(*others, curve))
    return replace(shown, largest_gap=_gap(shown.curves))


def measure_sizes(
    *,
    seed: int,
    gibibytes: Annotated[float, Range(0.01, 1024, "Try 8.")] = 8.0,
    side: Annotated[int, Range(8, sizes.LONGEST, "Try 64.")] = 64,
    widths: WidthsSetting = (16, 32, 64),
    expansion: ExpansionSetting = 4,
    blocks: Annotated[
        Sequence[Annotated[int, Range(1, MOST_BLOCKS, "Try 1, 2, 4.")]], Items(4, fewest=1)
    ] = (1, 2, 4),
    modes: ModesSetting = ("plain", "checkpoint", "reversible"),
    cubes: bool = True,
) -> Steps[Sized]:
    """Bars against blocks a stage, and the largest cube that fits into the memory; all computed on
    shapes, so the seed is not used."""
    named, counts = tuple(modes), tuple(blocks)
    config = _config(widths, counts[0], expansion)
    looks = 7 if cubes else 0
    total = len(counts) * len(named) + len(named) * looks
    shown = Sized(side, gibibytes)
    yield Progress(0, total, "Laying out shapes")
    for count in counts:
        for name in named:
            policy, done = sizes.POLICIES[name], len(shown.bars)
            title = f"{count} blocks, {policy.title}"
            found = yield from sizes.cost(
                replace(config, blocks=count), policy, side,
                partial(_counted, done, total, title, shown),
            )  # fmt: skip
            bar = Bar(count, name, policy.title, found.kept_bytes, found.peak_bytes, found.flops)
            shown = replace(shown, bars=(*shown.bars, bar))
            yield Progress(done + 1, total, title, shown)
    for index, name in enumerate(named if cubes else ()):
        done = len(shown.bars) + index * looks
        cube = yield from sizes.largest(
            config, name, int(gibibytes * 2**30), partial(_looked, done, total, shown)
        )
        shown = replace(shown, cubes=(*shown.cubes, cube))
        yield Progress(done + looks, total, f"{cube.title}: {cube.side} fits", shown)
    return shown


def _counted(done: int, total: int, title: str, shown: Sized, operations: int) -> Progress:
    return Progress(done, total, f"{title}: {operations:,} operations", shown)


def _looked(done: int, total: int, shown: Sized, cube: Cube) -> Progress:
    """The best cube so far, among those of other modes."""
    now = replace(shown, cubes=(*shown.cubes, cube))
    return Progress(done, total, f"{cube.title}: {cube.side} fits", now)


# ---------------------------------------------------------------------- volumes


def _scan(
    volume: str, part: str, text: str
) -> tuple[nifti.Scan, UInt8[Array, "d h w"] | None, str]:
    """The scan, its labels where they are known, and a title."""
    if text:
        return nifti.read(nifti.from_text(text)), None, "your own volume"
    found = brain.volume(volume).part(part if volume == "average" else "all")  # type: ignore[arg-type]
    names = {"test": "held-out slices", "train": "slices trained on", "all": "whole"}
    title = f"average brain, {names[part]}" if volume == "average" else "a single brain, unseen"
    return nifti.of_array(found.voxels, found.affine), found.labels, title


def _inputs(scan: nifti.Scan) -> Float[Tensor, "1 m d h w"]:
    """Every modality standardised inside the brain."""
    return torch.cat([brain.standardised(one) for one in scan.voxels], 1)


def _check_fits(network: nets.RevUNet3d, scan: nifti.Scan, window: int, overlap: float) -> None:
    wanted, given = network.config.modalities, len(scan.voxels)
    if wanted != given:
        raise BadInput(
            f"The network sees {wanted} modality, the file holds {given}.",
            "Save a single T1 volume.",
        )
    count = len(nets.windows(scan.voxels.shape[1:], window, overlap))
    if count > MOST_WINDOWS:
        raise BadInput(
            f"That would take {count} windows; {MOST_WINDOWS} are allowed.",
            "Take larger windows or less overlap, or crop the volume.",
        )


def _first(scan: nifti.Scan, truth: UInt8[Array, "d h w"] | None, title: str) -> Segmented:
    """The volume as bytes for a viewer, before anything is segmented."""
    one = scan.voxels[0]
    low, high = float(one.min()), float(one.max())
    grey = ((one - low) / (high - low) * 255).astype(np.uint8)
    d, h, w = (side // 2 for side in one.shape)
    return Segmented(
        title, brain.CLASSES, grey, np.zeros_like(grey), truth, (d, h, w), scan.spacing,
        notes=scan.notes,
    )  # fmt: skip


def overlaps(
    labels: Int[Tensor, "d h w"] | UInt8[Tensor, "d h w"], truth: UInt8[Array, "d h w"] | None
) -> tuple[Overlap, ...]:
    """Dice of each class where the truth is known, and its share of the volume."""
    classes = len(brain.CLASSES)
    shares = [float((labels == k).float().mean()) for k in range(classes)]
    if truth is None:
        return ()
    known = torch.from_numpy(truth.astype(np.int64))
    dice = nets.hard_dice(labels.long(), known, classes).tolist()
    rows = zip(brain.CLASSES, dice, shares, strict=True)
    return tuple(Overlap(name, value, share) for name, value, share in rows)


def _window(x: Float[Tensor, "1 m d h w"], side: int) -> Float[Tensor, "1 m i j k"]:
    """The middle window."""
    starts = [max(0, (length - side) // 2) for length in x.shape[2:]]
    cut = tuple(slice(first, first + side) for first in starts)
    return x[(slice(None), slice(None), *cut)]


@torch.no_grad()
def walked_back(network: nets.RevUNet3d, x: Float[Tensor, "1 m d h w"]) -> list[StageBack]:
    """What goes into each encoder stage, recovered from what comes out of it."""
    found = []
    x = network.stem(nets.padded(x.to(place()), network.step))
    for level, stage in enumerate(network.encoder):
        assert isinstance(stage, nets.RevStage)
        y = stage(x)
        gap = (stage.inverse(y) - x).abs().amax(1)[0]
        found.append(
            StageBack(
                f"encoder, level {level}",
                len(stage.blocks),
                round_trip(stage, x, steps=2 * len(stage.blocks)),
                tuple(gap.amax(axis).cpu().numpy() for axis in range(3)),
            )
        )
        x = network.down[level](y) if level < len(network.down) else y
    return found


# ---------------------------------------------------------------------- training


@dataclass(frozen=True)
class _Crops:
    """Crops by step, the same in every mode."""

    inputs: Float[Tensor, "b m d h w"]
    targets: Int[Tensor, "b d h w"]

    def to(self, device: torch.device) -> "_Crops":
        return _Crops(self.inputs.to(device), self.targets.to(device))

    @classmethod
    def draw(cls, data: tuple[Tensor, Tensor], side: int, seed: int, step: int) -> "_Crops":
        x, labels = data
        draw = rng.generator(seed, "crop", step)
        first = [
            int(torch.randint(0, length - side + 1, (1,), generator=draw))
            for length in labels.shape
        ]
        cut = tuple(slice(start, start + side) for start in first)
        return cls(x[(slice(None), *cut)][None], labels[cut][None])


def losses(
    network: nets.RevUNet3d, data: tuple[Tensor, Tensor], side: int, steps: int, rate: float,
    seed: int,
) -> Iterator[float]:  # fmt: skip
    """Loss of each step of AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    for step in range(steps):
        crops = _Crops.draw(data, side, seed, step).to(place())
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = nets.segmentation_loss(network(crops.inputs), crops.targets)
            loss.backward()
        optimizer.step()
        yield float(loss.detach())


def _new(config: nets.UNetConfig, policy: sizes.Policy, seed: int) -> nets.RevUNet3d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.generator(seed, "weights").initial_seed())
        return sizes.network_of(config, policy)


def _costed(
    network: nets.RevUNet3d, name: str, data: tuple[Tensor, Tensor], side: int, seed: int,
    done: int, total: int, shown: Trained,
) -> Steps[Curve]:  # fmt: skip
    """Bytes of the first step, measured."""
    crops, title = _Crops.draw(data, side, seed, 0), sizes.POLICIES[name].title
    cost = yield from counting(
        lambda: nets.segmentation_loss(network(crops.inputs), crops.targets),
        network,
        [crops.inputs, crops.targets],
        lambda operations: Progress(done, total, f"{title}: {operations:,} operations", shown),
    )
    return Curve(name, title, cost.kept_bytes, cost.peak_bytes, cost.flops)


def _tested(network: nets.RevUNet3d, curve: Curve, done: int, total: int) -> Steps[Curve]:
    held_out = brain.volume("average").part("test")
    x = brain.standardised(held_out.voxels)
    labels = torch.zeros(0, dtype=torch.long)
    for number, count, scores in models.windowed(network, x, overlap=0.0):
        labels = models.labels_of(scores, x)
        yield Progress(done, total, f"Held-out slices, window {number} of {count}")
    return replace(curve, overlaps=overlaps(labels, held_out.labels))


def _gap(curves: Sequence[Curve]) -> float:
    """The largest difference of losses at any step between any two modes of one network."""
    rows = [curve.losses for curve in curves if not curve.mode.endswith("-conv")]
    return max((max(step) - min(step) for step in zip(*rows, strict=True)), default=0.0)


# ---------------------------------------------------------------------- settings


def _key(model: ModelRef | str) -> str:
    return model.source if isinstance(model, ModelRef) else model


def _config(widths: Sequence[int], blocks: int, expansion: int) -> nets.UNetConfig:
    return nets.UNetConfig(tuple(widths), blocks, expansion)


def _check_work(config: nets.UNetConfig, side: int) -> None:
    """Raises `BadInput` for a network whose steps would take minutes on a processor."""
    inner = sum((side / 2**level) ** 3 * w**2 for level, w in enumerate(config.widths))
    if inner * config.blocks * config.expansion > MOST_WORK:
        raise BadInput(
            f"Widths {', '.join(map(str, config.widths))} on crops of {side} are too much here.",
            "Take smaller widths or crops, or fewer blocks.",
        )
