"""Memory lab: bars against depth, and a picture that walks back from the output."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _grow as bars
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.networks.memory_lab.results import Measured, PictureBack, Point

ARCHITECTURES = {
    "RevNet pairs of MLPs": "revnet",
    "Momentum residual blocks": "momentum",
    "Leapfrog steps": "leapfrog",
    "MEFT-1 on BERT layers": "meft-1",
    "MEFT-2 on BERT layers": "meft-2",
    "MEFT-3 on BERT layers": "meft-3",
    "RevCol columns": "revcol",
    "A stage of the 3-D U-Net": "unet3d",
    "Your own blocks": "own",
}
POLICIES = {
    "Plain autograd": "plain",
    "Checkpoint per block": "checkpoint",
    "Checkpoints of √L blocks": "sqrt",
    "Selective checkpoint": "selective",
    "Reversible": "reversible",
    "Reversible with anchors": "anchored",
}
BACKWARD = ("reversible", "anchored")
DEPTHS = [2, 4, 8, 16, 32, 64]
BLOCK = "x1 += norm | linear 4 | gelu | linear 1 (x2)\nx2 += norm | linear 4 | gelu | linear 1 (x1)"
PHOTOGRAPHS = {"A cat": "chelsea", "A rocket": "rocket", "A photographer": "camera"}
PHOTOGRAPHS["A dahlia"] = "flower"


def build(frame: Frame) -> None:
    """Bars against depth, one's own blocks among them; then a picture there and back."""
    _bars(frame)
    _walk(frame)
    frame.breaks(
        "Streams that are scaled down, as in MEFT-3, cannot be walked back for 16 blocks: the "
        "reversible bar stands still and its gradients are wrong.",
        "anchors, which keep the streams every few blocks and bring the gradients back.",
        {"architecture": "meft-3", "depths": [2, 16], "width": 16, "batch": 2},
    )


def _bars(frame: Frame) -> None:
    run = frame.stage("run", "Count the bytes", tab="Deepen a network")
    with run.ask:
        architecture = gr.Dropdown(
            list(ARCHITECTURES.items()),
            value="revnet",
            label="Network",
            elem_id="memory_lab-architecture",
        )
        depths = gr.CheckboxGroup(DEPTHS, value=DEPTHS, label="Blocks")
    with run.settings:
        width = gr.Slider(4, 256, value=64, step=4, label="Width")
        batch = gr.Slider(1, 64, value=16, step=1, label="Batch")
        precision = gr.Radio(
            ["float32", "bfloat16", "float64"],
            value="float32",
            label="Precision",
            info="bfloat16 inside the blocks; streams stay float32",
        )
        with gr.Accordion("Your own blocks, ways and seconds", open=False):
            blocks = gr.Textbox(
                BLOCK,
                label="One block, if the network is your own",
                info="A line rewrites one stream; in brackets what it reads",
                lines=3,
                max_length=2000,
                elem_classes="mono",
            )
            policies = gr.CheckboxGroup(
                list(POLICIES.items()), value=list(POLICIES.values()), label="Ways to remember"
            )
            timed = gr.Checkbox(False, label="Take the seconds of a step too")
        frame.seed(0)
    with run.shown:
        shown = gr.HTML(first_look(), elem_id="memory_lab-bars")
    with run.below:
        notes = gr.HTML("", elem_id="memory_lab-table")
        curve = plots.place("Bytes kept against depth", visible=False)
    inputs = {
        "architecture": architecture, "blocks": blocks, "depths": depths, "width": width,
        "batch": batch, "precision": precision, "policies": policies, "timed": timed,
    }  # fmt: skip
    run.wire(inputs, draw_bars, [shown, notes, curve], number=stands_still, film=film)


def _walk(frame: Frame) -> None:
    walk = frame.stage("walk", "Walk back", tab="Walk back to the picture", backward=True)
    with walk.ask:
        photograph = gr.Dropdown(list(PHOTOGRAPHS.items()), value="chelsea", label="Picture")
        depth = gr.Slider(
            1, 64, value=64, step=1, label="Blocks", elem_id="memory_lab-depth",
            info="Two couplings each",
        )  # fmt: skip
    with walk.settings:
        picture = fields.picture_field(label="Or a picture of yours", height=150)
        width = gr.Slider(4, 32, value=16, step=4, label="Width of a branch")
        precision = gr.Radio(["float32", "float64"], value="float32", label="Precision")
    with walk.shown:
        shown = gr.HTML(
            parts.shots([Shot(name, None, "") for name in ("input", "output", "walked back")]),
            elem_id="memory_lab-walked",
        )
    with walk.below:
        curve = plots.place("Error on the way back", visible=False)
    inputs = {
        "photograph": photograph, "picture": picture, "depth": depth, "width": width,
        "precision": precision,
    }  # fmt: skip
    walk.wire(
        inputs, draw_walk, [shown, curve], number=grey_levels, params=fields.with_picture,
        back=lambda params: {**params, "picture": None},
    )  # fmt: skip


# ---------------------------------------------------------------------- bars


def first_look() -> str:
    names = [str(depth) for depth in DEPTHS]
    empty = [Bar(title, [None] * len(DEPTHS), key in BACKWARD) for title, key in POLICIES.items()]
    return bars.grow("blocks", names, [Group("Bytes kept", empty, bars.told_bytes, log=True)])


def draw_bars(result: "Measured", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The bars as they come; at the end the table and the curves."""
    if not result.points:
        return ()
    depths = sorted({point.depth for point in result.points})
    groups = [
        Group("Bytes kept", _rows(result.points, depths, "kept_bytes"), bars.told_bytes, log=True),
        Group("Gradient error", _rows(result.points, depths, "gradient_error"), bars.told_error,
              log=True, ends=(1e-9, 10.0)),
    ]  # fmt: skip
    drawn = bars.grow("blocks", [str(depth) for depth in depths], groups)
    if not ended:
        return (drawn,)
    return drawn, _table(result, depths[-1]), plots.shown(_curve(result.points, depths))


def film(result: "Measured") -> list[np.ndarray]:
    """The bytes as the network gets deeper."""
    depths = sorted({point.depth for point in result.points})
    rows = _rows(result.points, depths, "kept_bytes")
    return bars.film(Group("", rows, bars.told_bytes, log=True))


def _rows(points: "Sequence[Point]", depths: Sequence[int], what: str) -> list[Bar]:
    found = {(point.policy, point.depth): getattr(point, what) for point in points}
    titles = {key: title for title, key in POLICIES.items()}
    return [
        Bar(titles[key], [found.get((key, depth)) for depth in depths], key in BACKWARD)
        for key in dict.fromkeys(point.policy for point in points)
    ]


def stands_still(result: "Measured", recipe: Recipe) -> Number | None:
    """What the reversible network keeps at the smallest and at the largest depth, to the byte."""
    kept = {p.depth: p.kept_bytes for p in result.points if p.policy == "reversible"}
    if len(kept) < 2:
        return None
    first, last = min(kept), max(kept)
    return Number(
        f"bytes kept reversibly, {first} → {last} blocks", f"{kept[last]:,}", f"{kept[first]:,}"
    )


def _table(result: "Measured", depth: int) -> str:
    """All figures at the greatest depth."""
    points = [point for point in result.points if point.depth == depth]
    plain = next((point for point in points if point.policy == "plain"), None)
    rows = [
        [
            point.title,
            f"{point.kept_bytes:,}",
            f"{point.peak_bytes:,}",
            f"{point.flops / plain.flops:.2f} ×" if plain and plain.flops else "",
            bars.told_error(point.gradient_error),
            "" if point.seconds is None else f"{1e3 * point.seconds:.1f} ms",
        ]
        for point in points
    ]
    head = ["", "bytes kept", "peak", "operations", "gradient error", "a step"]
    told = markup.notes(
        f"{result.title}, width {result.width}, batch {result.batch}, {result.precision}; "
        f"{result.parameters:,} weights at {depth} blocks. Gradients are held against plain "
        "autograd's on the same weights; the peak holds weight gradients too.",
        *result.notes,
    )
    return markup.titled(f"At {depth} blocks", "") + markup.table(
        head, rows, "Bytes, operations and errors", heads=True
    ) + told  # fmt: skip


def _curve(points: "Sequence[Point]", depths: Sequence[int]) -> PlotData:
    rows = _rows(points, depths, "kept_bytes")
    lines = [
        Line(
            bar.name,
            depths,
            [float(value or 1) for value in bar.values],
            place,
            backward=bar.name == "Reversible",
            hover=[f"{bar.name}: {bars.told_bytes(value or 0)}" for value in bar.values],
        )
        for place, bar in enumerate(rows)
    ]
    return plots.curves(lines, "blocks", "bytes kept", log_x=True, log_y=True, height=320)


# ---------------------------------------------------------------------- the picture


def draw_walk(result: "PictureBack", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Input, output and what came back, with the states on both ways as films."""
    there = np.stack([frame.picture for frame in result.forward])
    back = [frame.picture for frame in result.backward]
    shots = [
        Shot("input", result.picture, "the input picture", ("what goes in",), mark=0),
        Shot(
            f"after {2 * result.depth} couplings" if back else "on its way",
            there[-1],
            "the output of the network as a picture",
            ("this alone is kept",),
            there if ended else None,
        ),
        Shot(
            "walked back",
            back[-1] if back else None,
            "the picture computed from the output alone",
            _said(result),
            np.stack(back) if ended and back else None,
            backward=True,
        ),
    ]
    drawn = parts.shots(shots, scrub=ended, ends=("start", "end"))
    if not ended:
        return (drawn,)
    kept = markup.notes(
        f"To train, {bars.told_bytes(result.kept_bytes)} of what this network computes are kept; "
        f"plain autograd keeps {bars.told_bytes(result.plain_bytes)}."
    )
    return drawn + kept, plots.shown(_errors(result))


def _said(result: "PictureBack") -> tuple[str, ...]:
    if not result.backward:
        return ("not yet",)
    if result.trip is None:
        return (f"{result.backward[-1].couplings} couplings left",)
    equal = markup.percent(result.equal_pixels, 2)
    return (
        "every pixel equal" if result.equal_pixels == 1 else f"{equal} of pixels equal",
        markup.came_back(result.trip),
    )


def grey_levels(result: "PictureBack", recipe: Recipe) -> Number | None:
    """The largest error of what came back."""
    if result.trip is None:
        return None
    return Number(
        f"largest error after {result.depth} blocks back, of 255 grey levels",
        markup.figure(255 * result.trip.largest_error),
    )


def _errors(result: "PictureBack") -> PlotData:
    frames = [frame for frame in result.backward if frame.error is not None]
    undone = [2 * result.depth - frame.couplings for frame in frames]
    errors = [max(float(frame.error or 0), 1e-12) for frame in frames]
    line = Line(
        "largest error, grey levels",
        undone,
        errors,
        backward=True,
        hover=[f"{k} undone: {markup.figure(e)}" for k, e in zip(undone, errors, strict=True)],
    )
    return plots.curves([line], "couplings undone", "largest error, of 255", log_y=True, height=280)
