"""Reversible 3D U-Net: a volume segmented and walked back, live training, the largest cube."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from engine.core.errors import BadInput
from engine.core.recipe import Recipe
from pages import _files as files
from pages import _grow as bars
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _volumes as volumes
from pages._fields import Settings
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.networks.reversible_unet3d.results import (
        Segmented,
        Sized,
        StageBack,
        Trained,
    )

MODES = {
    "Plain autograd": "plain",
    "Checkpoint per block": "checkpoint",
    "Reversible": "reversible",
    "Ordinary convolutions, plain": "plain-conv",
    "Ordinary convolutions, reversible": "reversible-conv",
}
BACKWARD = ("reversible", "reversible-conv")
VOLUMES = {"Average of 152 brains": "average", "One brain, unseen": "single"}
PARTS = {"Front, held out": "test", "Back, trained on": "train", "All of it": "all"}
LARGEST_FILE = 14_000_000


def build(frame: Frame) -> None:
    """Segment and walk back; train in two modes; the largest cube."""
    _segment(frame)
    _train(frame)
    _sizes(frame)
    frame.breaks(
        "With one block a stage a checkpoint keeps just as little, with gradients equal in every "
        "bit: reversibility gains nothing.",
        "two blocks a stage or more, and looking at the peak as well as at what is kept.",
        {"blocks": [1], "cubes": False, "side": 32},
        action="measure_sizes",
    )


def _segment(frame: Frame) -> None:
    run = frame.stage("run", "Segment and walk back", tab="A volume", backward=True)
    with run.ask:
        volume = gr.Radio(list(VOLUMES.items()), value="average", label="Volume")
        part = gr.Radio(list(PARTS.items()), value="test", label="Part of the average")
    with run.settings:
        own = gr.File(
            label="Or your own: a T1 volume, .nii or .nii.gz",
            file_types=[".nii", ".gz"],
            height=120,
        )
        window = gr.Slider(16, 96, value=48, step=8, label="Window")
        overlap = gr.Slider(0, 0.75, value=0.0, step=0.25, label="Overlap of windows")
        stages = gr.Checkbox(True, label="Walk the stages backwards")
        frame.seed(0)
        frame.model()
    with run.shown:
        shown = volumes.place('<p class="note">The volume comes with the run.</p>', "unet3d-volume")
    with run.below:
        told = gr.HTML("", elem_id="unet3d-told")
        made = gr.File(label="Labels as NIfTI", visible=False, interactive=False)
    inputs = {
        "volume": volume, "part": part, "nifti_file": own, "window": window, "overlap": overlap,
        "stages": stages,
    }  # fmt: skip
    run.wire(
        inputs, draw_segmented, [shown, told, made], number=walked_back, film=film,
        params=with_file, back=lambda params: {**params, "nifti_file": None},
    )  # fmt: skip


def _train(frame: Frame) -> None:
    train = frame.stage("train", "Train", tab="Train in two modes")
    with train.ask:
        modes = gr.CheckboxGroup(
            list(MODES.items()), value=["plain", "reversible"], label="Modes, same weights"
        )
        steps = gr.Slider(1, 200, value=20, step=1, label="Steps")
    with train.settings:
        blocks = gr.Slider(1, 8, value=1, step=1, label="Blocks a stage")
        side = gr.Slider(8, 48, value=24, step=8, label="Side of a crop")
        expansion = gr.Slider(1, 8, value=2, step=1, label="Expansion")
        widths = gr.Textbox("8, 16, 32", label="Widths", info="Channels of each resolution")
        rate = gr.Number(3e-3, label="Learning rate", minimum=1e-5, maximum=0.1)
        test = gr.Checkbox(False, label="Segment the held-out front at the end")
    with train.shown:
        curve = plots.place("Loss")
        kept = gr.HTML("", elem_id="unet3d-trained")
    with train.below:
        told = gr.HTML("", elem_id="unet3d-dice")
    inputs = {
        "modes": modes, "steps": steps, "blocks": blocks, "side": side, "expansion": expansion,
        "widths": widths, "learning_rate": rate, "test": test,
    }  # fmt: skip
    train.wire(
        inputs, draw_trained, [curve, kept, told], number=largest_gap, params=with_widths,
        back=widths_back,
    )  # fmt: skip


def _sizes(frame: Frame) -> None:
    sizes = frame.stage("measure_sizes", "Find the largest cube", tab="The largest cube")
    with sizes.ask:
        gibibytes = gr.Number(8, label="Memory, GiB", minimum=0.01, maximum=1024)
        blocks = gr.CheckboxGroup([1, 2, 4, 8], value=[1, 2, 4], label="Blocks a stage")
    with sizes.settings:
        modes = gr.CheckboxGroup(
            list(MODES.items()), value=["plain", "checkpoint", "reversible"], label="Modes"
        )
        side = gr.Slider(8, 256, value=64, step=8, label="Side that the bars are for")
        widths = gr.Textbox("16, 32, 64", label="Widths")
        expansion = gr.Slider(1, 8, value=4, step=1, label="Expansion")
        cubes = gr.Checkbox(True, label="Search for the largest cube")
    with sizes.shown:
        shown = gr.HTML("", elem_id="unet3d-sizes")
    inputs = {
        "gibibytes": gibibytes, "blocks": blocks, "modes": modes, "side": side, "widths": widths,
        "expansion": expansion, "cubes": cubes,
    }  # fmt: skip
    sizes.wire(
        inputs, draw_sizes, [shown], number=largest_cube, params=with_widths, back=widths_back
    )


# ---------------------------------------------------------------------- fields


def with_file(values: Settings) -> Settings:
    """The settings with the uploaded volume as text. Raises `BadInput` for a file too large."""
    path = values.get("nifti_file")
    rest = {name: value for name, value in values.items() if name != "nifti_file"}
    return {**rest, "nifti_file": packed(Path(str(path)))} if path else rest


def packed(path: Path) -> str:
    """The file as text; its contents are checked where it is read."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise BadInput("The file is larger than 14 MB.", "Crop the volume, or compress it.")
        if not size:  # as text it would look as if none had been given
            raise BadInput("The file is empty.", "Upload a T1 volume, .nii or .nii.gz.")
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise BadInput("The file did not arrive.", "Upload it again.") from error


def with_widths(values: Settings) -> Settings:
    """The settings with widths as numbers. Raises `BadInput` for anything else."""
    parts_of = [part.strip() for part in str(values.get("widths", "")).split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 5 for part in parts_of):
        raise BadInput("Widths are whole numbers with commas between.", "Try 8, 16, 32.")
    return {**values, "widths": [int(part) for part in parts_of]}


def widths_back(params: Settings) -> Settings:
    """Widths as the field holds them."""
    widths = params.get("widths")
    if not isinstance(widths, list):
        return params
    return {**params, "widths": ", ".join(map(str, widths))}


# ---------------------------------------------------------------------- a volume


def draw_segmented(result: "Segmented", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The volume with its labels; at the end Dice, the stages walked back, and the file."""
    overlays = {"found": result.labels}
    if result.truth is not None:
        overlays["truth"] = result.truth
    shown = volumes.viewer(volumes.Volume(result.voxels, overlays, result.classes, result.spacing))
    if not ended:
        return (shown,)
    told = _dice(result) + "".join(map(_stage, result.stages)) + markup.notes(*result.notes)
    return shown, told, _file(result)


TINTS = ((0, 0, 0), (208, 106, 27), (79, 143, 104), (181, 86, 138))


def film(result: "Segmented") -> list[np.ndarray]:
    """A slice from the front, its labels found, and then less and less of them."""
    place = result.voxels.shape[1] // 2
    grey, labels = (np.flipud(v[:, place].T) for v in (result.voxels, result.labels))
    colour = np.array(TINTS, float)[np.minimum(labels, len(TINTS) - 1)]
    grey = np.repeat(grey[..., None].astype(float), 3, axis=-1)
    shares = [part * (labels[..., None] > 0) for part in np.linspace(0.6, 0, 8)]
    return [((1 - s) * grey + s * colour).round().astype(np.uint8) for s in shares]


def _dice(result: "Segmented") -> str:
    if not result.overlaps:
        return markup.notes("No labels are known of this volume, so no Dice can be told.")
    rows = [[one.name, f"{one.dice:.3f}", markup.percent(one.share, 1)] for one in result.overlaps]
    told = (
        f"{result.title}: 2 |A ∩ B| / (|A| + |B|). An averaged template, not a patient; the "
        "network was trained on the back half of it."
    )
    table = markup.table(["class", "Dice", "share of the volume"], rows, "Dice", heads=True)
    return markup.titled("How well it continues the brain", told) + table


def _stage(stage: "StageBack") -> str:
    """Largest error along each line of sight, as three pictures."""
    names = ("from the side", "from the front", "from above")
    top = max((float(one.max()) for one in stage.error_maps), default=0.0)
    shots = [
        Shot(
            name,
            parts.error_picture(np.flipud(one.T), white=max(top, 1e-7)),
            f"{stage.stage}: largest error along each line of sight, {name}",
            (f"largest {markup.figure(float(one.max()))}",),
            backward=True,
        )
        for name, one in zip(names, stage.error_maps, strict=True)
    ]
    told = (
        f"{stage.blocks} block{'s' * (stage.blocks != 1)}: what went in, computed from what came "
        f"out: {markup.came_back(stage.trip)}; {markup.percent(stage.trip.equal_bits)} of numbers "
        "equal in every bit."
    )
    return markup.titled(f"Walked backwards: {stage.stage}", told) + parts.shots(shots)


def _file(result: "Segmented") -> object:
    if result.file is None:
        return gr.skip()
    path = files.written({result.file.name: list(result.file.pieces())})[0]
    return gr.File(value=str(path), visible=True)


def walked_back(result: "Segmented", recipe: Recipe) -> Number | None:
    """The worst relative error of any stage that was walked backwards."""
    if not result.stages:
        return None
    worst = max(stage.trip.relative_error for stage in result.stages)
    what = f"largest error of {len(result.stages)} stages walked back, of their size"
    return Number(what, markup.figure(worst))


# ---------------------------------------------------------------------- training


def draw_trained(result: "Trained", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Loss curves on top of one another, and the bytes of each mode."""
    if not result.curves:
        return ()
    lines = [
        Line(
            curve.title,
            range(1, len(curve.losses) + 1),
            [float(loss) for loss in curve.losses],
            place,
            backward=curve.mode in BACKWARD,
            hover=[f"{curve.title}: {loss:.4f}" for loss in curve.losses],
        )
        for place, curve in enumerate(result.curves)
        if curve.losses
    ]
    figure = plots.shown(plots.curves(lines, "step", "loss", height=300)) if lines else gr.skip()
    titles = {key: title for title, key in MODES.items()}
    groups = [
        Group(
            title,
            [Bar(titles[c.mode], [getattr(c, what)], c.mode in BACKWARD) for c in result.curves],
            bars.told_bytes,
        )
        for title, what in (("Bytes kept", "kept_bytes"), ("At the peak", "peak_bytes"))
    ]
    drawn = bars.grow("step", ["1"], groups)
    if not ended:
        return figure, drawn
    return figure, drawn, _learnt(result)


def _learnt(result: "Trained") -> str:
    rows = [
        [curve.title, one.name, f"{one.dice:.3f}"]
        for curve in result.curves
        for one in curve.overlaps
    ]
    told = markup.notes(
        f"{result.parameters:,} weights, crops of {result.side}³ voxels. Bytes are measured on the "
        "first step, on the processor."
    )
    return told + (markup.table(["mode", "class", "Dice, held out"], rows, "Dice") if rows else "")


def largest_gap(result: "Trained", recipe: Recipe) -> Number | None:
    """How far the losses of the modes lie apart at any step."""
    finished = [curve for curve in result.curves if not curve.mode.endswith("-conv")]
    lengths = {len(curve.losses) for curve in finished}
    if len(finished) < 2 or len(lengths) > 1 or not result.largest_gap:
        return None
    return Number("largest gap of the losses at any step", markup.figure(result.largest_gap))


# ---------------------------------------------------------------------- sizes


def draw_sizes(result: "Sized", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Bars over blocks on one slider; the largest cubes beside one another."""
    if not result.bars:
        return ()
    counts = sorted({bar.blocks for bar in result.bars})
    names = [str(count) for count in counts]
    groups = [
        Group("Bytes kept", _rows(result, counts, "kept_bytes"), bars.told_bytes, log=True),
        Group("At the peak", _rows(result, counts, "peak_bytes"), bars.told_bytes, log=True),
    ]
    drawn = bars.grow("blocks", names, groups)
    told = markup.notes(
        f"Cubes of {result.side}³ voxels, computed on shapes, not measured; at the peak one block "
        "is computed again, so checkpoints come nearer there."
    )
    return (drawn + _cubes(result, counts[0]) + told,)


def _rows(result: "Sized", counts: Sequence[int], what: str) -> list[Bar]:
    found = {(bar.mode, bar.blocks): getattr(bar, what) for bar in result.bars}
    titles = {key: title for title, key in MODES.items()}
    return [
        Bar(titles[key], [found.get((key, count)) for count in counts], key in BACKWARD)
        for key in dict.fromkeys(bar.mode for bar in result.bars)
    ]


def _cubes(result: "Sized", blocks: int) -> str:
    if not result.cubes:
        return ""
    titles = {key: title for title, key in MODES.items()}
    group = Group(
        f"Voxels of the largest cube in {result.gibibytes:g} GiB, {blocks} block a stage",
        [
            Bar(titles[cube.mode], [float(cube.voxels)], cube.mode in BACKWARD, f"{cube.side}³")
            for cube in result.cubes
        ],
        lambda voxels: f"{voxels / 1e6:.1f} M",
    )
    return bars.grow("cube", ["largest"], [group])


def largest_cube(result: "Sized", recipe: Recipe) -> Number | None:
    """Sides of the largest cubes, plain and reversible."""
    sides = {cube.mode: cube.side for cube in result.cubes}
    if not {"plain", "reversible"} <= set(sides):
        return None
    return Number(
        f"largest cube in {result.gibibytes:g} GiB", f"{sides['reversible']}³", f"{sides['plain']}³"
    )
