"""A volume in three orthogonal slices with labels over it, drawn by the browser on a canvas.

    viewer(Volume(voxels, {"found": labels, "truth": truth}, CLASSES, spacing))

Voxels and labels go into the page as sheets of axial slices, pictures without loss; the page turns
them into a volume again (volume.js), so that moving through it asks nothing of the server.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np

from pages import _parts as parts
from pages._look import ASSETS
from pages._markup import escape

JS = (ASSETS / "panels" / "volume.js").read_text("utf-8")
CSS = (ASSETS / "panels" / "volume.css").read_text("utf-8")
PLANES = ("sagittal", "coronal", "axial")
AXES = ("right", "anterior", "superior")
# Larger volumes are shown with every second voxel, and so on; what is computed stays whole.
MOST_VOXELS = 1_200_000
COLUMNS = 12


@dataclass(frozen=True)
class Volume:
    """Bytes and labels `d h w` on the axes right, anterior, superior; spacing in millimetres."""

    voxels: np.ndarray
    overlays: Mapping[str, np.ndarray]
    classes: Sequence[str]
    spacing: tuple[float, float, float]


def place(value: str, elem_id: str) -> gr.HTML:
    """Where a viewer is drawn, with what moves it."""
    return gr.HTML(value, elem_id=elem_id, js_on_load=JS, css_template=CSS)


def viewer(volume: Volume) -> str:
    """The three slices, a slider for each axis, and the choice of labels."""
    step = _step(volume.voxels.shape)
    voxels = volume.voxels[::step, ::step, ::step]
    told = {
        "shape": list(voxels.shape),
        "columns": COLUMNS,
        "spacing": list(volume.spacing),
        "classes": list(volume.classes),
    }
    sheets = _sheet(voxels, "voxels") + "".join(
        _sheet(labels[::step, ::step, ::step], "labels") for labels in volume.overlays.values()
    )
    planes = "".join(
        f'<figure><canvas data-axis="{axis}" role="img" aria-label="{plane} slice"></canvas>'
        f"<figcaption>{plane}<input type=range min=0 max={side - 1} value={side // 2} "
        f'data-axis="{axis}" aria-label="{plane} slice, {AXES[axis]}"></figcaption></figure>'
        for axis, (plane, side) in enumerate(zip(PLANES, voxels.shape, strict=True))
    )
    names = ["no labels", *volume.overlays]
    shown = 1 if volume.overlays else 0
    choice = "".join(
        f'<button type="button" data-overlay="{number - 1}" aria-pressed="'
        f'{"true" if number == shown else "false"}">{escape(name)}</button>'
        for number, name in enumerate(names)
    )
    legend = "".join(
        f'<li class="c{number}"><i aria-hidden="true"></i>{escape(name)}</li>'
        for number, name in enumerate(volume.classes)
        if number
    )
    thinned = f" Shown with one voxel in {step} along each axis." if step > 1 else ""
    return (
        f"<div class=\"volume\" data-volume='{escape(json.dumps(told))}'>"
        f'<div class="planes" style="grid-template-columns:{_columns(volume)}">{planes}</div>'
        f'<div class="over" role="group" aria-label="Labels over the slices">{choice}'
        f'<ul class="classes">{legend}</ul></div>'
        f'<p class="note" role="status" data-here></p><p class="note">{thinned}</p>{sheets}</div>'
    )


def to_sheet(volume: np.ndarray) -> np.ndarray:
    """Axial slices side by side as a picture `height width`, each with its first axis across."""
    slices = volume.transpose(2, 1, 0)
    short = -len(slices) % COLUMNS
    full = np.concatenate([slices, np.zeros((short, *slices.shape[1:]), slices.dtype)])
    rows = full.reshape(-1, COLUMNS, *slices.shape[1:]).transpose(0, 2, 1, 3)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1)


def _sheet(volume: np.ndarray, name: str) -> str:
    url = parts.data_url(parts.png(to_sheet(volume.astype(np.uint8))))
    return f'<img hidden style="display:none" alt="" data-sheet="{name}" src="{url}">'


def _columns(volume: Volume) -> str:
    """Widths of the three planes, so that a millimetre is as long in each."""
    right, anterior, _ = (s * n for s, n in zip(volume.spacing, volume.voxels.shape, strict=True))
    return " ".join(f"minmax(0,{side:g}fr)" for side in (anterior, right, right))


def _step(shape: Sequence[int]) -> int:
    step = 1
    while int(np.prod([-(-side // step) for side in shape])) > MOST_VOXELS:
        step += 1
    return step
