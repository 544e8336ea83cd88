"""RevCol: a picture back from the last column's maps, columns against bytes, probes, estimates."""

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
    from engine.networks.revcol.results import Bars, Estimated, Exit, Probed, StepBack, Walked

POLICIES = {
    "Plain autograd": "plain",
    "Checkpoint per column": "checkpoint",
    "One function a column, as released": "released",
    "All columns in one sequence": "whole",
    "One sequence, anchors every two columns": "anchored",
}
BACKWARD = ("whole", "anchored")
COLUMNS = [2, 4, 8, 16]
SIZES = ["T", "S", "B", "L", "XL"]
LEVEL_NAMES = ("level 0, 8 × 8", "level 1, 4 × 4", "level 2, 2 × 2", "level 3, 1 × 1")


def build(frame: Frame) -> None:
    """There and back; bytes against columns; what each level knows; published sizes."""
    _walk(frame)
    _columns(frame)
    _probe(frame)
    _estimate(frame)
    frame.breaks(
        "Sixteen columns in one sequence: each halves what came before, and float32 has no digits "
        "left to undo that. The bar stands still and the gradients are wrong.",
        "anchors every two columns, for half of what the release keeps.",
        {"columns": [2, 16], "batch": 1, "policies": ["plain", "whole", "anchored"]},
        action="memory",
    )


def _walk(frame: Frame) -> None:
    run = frame.stage("run", "Walk back", tab="Back to the first column", backward=True)
    with run.ask:
        index = gr.Slider(
            0, 3999, value=3, step=1, label="Test picture", elem_id="revcol-index",
            info="4,000 garments that the network was not trained on",
        )  # fmt: skip
    with run.settings:
        picture = fields.picture_field(label="Or a picture of yours", height=150)
        precision = gr.Radio(
            ["float64", "float32"], value="float64", label="Precision",
            info="A flat background takes more digits than float32 has",
        )  # fmt: skip
        frame.model()
        frame.seed(0)
    with run.shown:
        shown = gr.HTML(
            parts.shots([Shot(name, None, "") for name in ("input", "came back", "error")]),
            elem_id="revcol-walked",
        )
    with run.below:
        exits = gr.HTML("", elem_id="revcol-exits")
        curve = plots.place("Error of the way back", visible=False)
    run.wire(
        {"index": index, "picture": picture, "precision": precision},
        draw_walk, [shown, exits, curve], number=at_the_stem, params=fields.with_picture,
        back=lambda params: {**params, "picture": None},
    )  # fmt: skip


def _columns(frame: Frame) -> None:
    memory = frame.stage("memory", "Count the bytes", tab="Slide the columns")
    with memory.ask:
        columns = gr.CheckboxGroup(COLUMNS, value=COLUMNS, label="Columns")
    with memory.settings:
        policies = gr.CheckboxGroup(
            list(POLICIES.items()), value=list(POLICIES.values()), label="Ways to remember"
        )
        width = gr.Slider(1, 64, value=8, step=1, label="Width of the lowest level")
        blocks = gr.Slider(1, 8, value=1, step=1, label="Blocks a level")
        side = gr.Slider(32, 256, value=64, step=32, label="Side of the picture")
        batch = gr.Slider(1, 32, value=4, step=1, label="Batch")
    with memory.shown:
        shown = gr.HTML(first_bars(), elem_id="revcol-bars")
    with memory.below:
        told = gr.HTML("", elem_id="revcol-told")
    inputs = {
        "columns": columns, "policies": policies, "width": width, "blocks": blocks, "side": side,
        "batch": batch,
    }  # fmt: skip
    memory.wire(inputs, draw_bars, [shown, told], number=does_not_move)


def _probe(frame: Frame) -> None:
    probe = frame.stage("probe", "Probe", tab="What each level knows")
    with probe.ask:
        gr.HTML(
            markup.notes(
                "Every garment is moved by up to four pixels. A linear map then reads two things "
                "off each level of each column: the class, and where the garment was moved to."
            )
        )
    with probe.settings:
        train = gr.Slider(200, 5000, value=800, step=100, label="Pictures to fit on")
        test = gr.Slider(100, 2000, value=400, step=100, label="Pictures to test on")
    with probe.shown:
        knows = plots.place("Class, by column")
        where = plots.place("Position, by column")
    with probe.below:
        table = gr.HTML("", elem_id="revcol-probed")
    probe.wire(
        {"train": train, "test": test}, draw_probed, [knows, where, table], number=best_of_class
    )


def _estimate(frame: Frame) -> None:
    estimate = frame.stage("estimate", "Estimate", tab="Published sizes")
    with estimate.ask:
        sizes = gr.CheckboxGroup(SIZES, value=["T", "S", "B"], label="RevCol-")
        side = gr.Dropdown([224, 384, 640], value=224, label="Side of the picture")
    with estimate.settings:
        batch = gr.Slider(1, 256, value=1, step=1, label="Batch")
        policies = gr.CheckboxGroup(
            list(POLICIES.items()), value=["plain", "whole"], label="Ways to remember"
        )
    with estimate.shown:
        shown = gr.HTML("", elem_id="revcol-estimated")
    estimate.wire(
        {"sizes": sizes, "side": side, "batch": batch, "policies": policies},
        draw_estimated, [shown], number=least_kept,
    )  # fmt: skip


# ---------------------------------------------------------------------- there and back


def draw_walk(result: "Walked", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Input, what has come back, and its error; at the end step by step."""
    steps = [step for step in result.steps if not _is_empty(step)]
    last = steps[-1] if steps else None
    shots = [
        Shot("input", result.picture, f"the input, {result.truth}", (result.truth,), mark=0),
        Shot(
            "came back",
            last.came_back if last else None,
            "read linearly off the lowest map that came back",
            (_where(last), _as_it_was(last)) if last else (),
            np.stack([step.came_back for step in steps]) if ended else None,
            backward=True,
        ),
        Shot(
            "error",
            _error_picture(last) if last else None,
            "largest error of the lowest map at each place",
            (f"largest {markup.figure(float(last.error_map.max()))}", "black 0, white 10⁻⁷")
            if last
            else (),
            np.stack([_error_picture(step) for step in steps]) if ended else None,
        ),
    ]
    drawn = parts.shots(shots, scrub=ended, ends=("last column", "first"))
    if not ended:
        return (drawn,)
    return drawn, _exits(result.exits) + _alphas(result), plots.shown(_way(steps))


def _where(step: "StepBack") -> str:
    return f"column {step.column}, level {step.level} undone"


def _is_empty(step: "StepBack") -> bool:
    """Before the first column all maps are zero, and there is nothing to see in them."""
    return step.column == 1 and step.level == 0


def _as_it_was(step: "StepBack") -> str:
    """How its picture stands to the one read off the same map on the way forward."""
    differ = int(np.any(step.came_back != step.was_there, axis=-1).sum())
    return (
        f"{differ} pixels differ from the way there"
        if differ
        else "every pixel as on the way there"
    )


def _error_picture(step: "StepBack") -> np.ndarray:
    """White is the last digit of float32, and anything above it."""
    return parts.error_picture(step.error_map, white=1e-7)


def at_the_stem(result: "Walked", recipe: Recipe) -> Number | None:
    """The error of the maps after the first column, the last that hold anything."""
    if result.trip is None:
        return None
    return Number(
        f"error after {len(result.steps) - 1} steps back, of the maps' size",
        markup.figure(result.trip.relative_error),
    )


def _exits(exits: "Sequence[Exit]") -> str:
    """What each head says, and what its decoder draws: an answer at a quarter of the cost."""
    shots = [
        Shot(
            f"after {one.columns} column{'s' * (one.columns > 1)}",
            one.decoded,
            f"drawn by the decoder after {one.columns} columns: {one.label}",
            (
                f"{one.label}, {markup.percent(one.probability)}",
                f"drawn off by {255 * (one.decoded_error or 0):.0f} of 255",
            ),
            mark=place,
        )
        for place, one in enumerate(exits)
        if one.decoded is not None
    ]  # fmt: skip
    last = exits[-1]
    sure = markup.percent(last.probability)
    told = f"The last head, after {last.columns} columns: {last.label}, {sure}."
    return markup.titled("Early exits", told) + parts.shots(shots)


def _alphas(result: "Walked") -> str:
    """By what each level of each column is scaled: its inverse is how an error grows there."""
    rows = [
        [
            one.column,
            *(
                f"{mean:.2f} ({low:.2f} – {high:.2f})"
                for low, mean, high in zip(one.smallest, one.mean, one.largest, strict=True)
            ),
        ]
        for one in result.alphas
    ]
    told = "Size of α by column and level: mean, smallest and largest of its channels."
    table = markup.table(["column", *LEVEL_NAMES], rows, "Alphas", heads=True)
    return markup.titled("What a step back divides by", told) + table


def _way(steps: "Sequence[StepBack]") -> PlotData:
    line = Line(
        "error",
        range(1, len(steps) + 1),
        [max(step.error, 1e-18) for step in steps],
        backward=True,
        hover=[f"{_where(step)}: {markup.figure(step.error)}" for step in steps],
    )
    return plots.curves([line], "levels undone", "relative error", log_y=True, height=280)


# ---------------------------------------------------------------------- columns


def first_bars() -> str:
    empty = [Bar(title, [None] * len(COLUMNS), key in BACKWARD) for title, key in POLICIES.items()]
    names = [str(count) for count in COLUMNS]
    return bars.grow("columns", names, [Group("Bytes kept", empty, bars.told_bytes, log=True)])


def draw_bars(result: "Bars", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Bytes and gradient errors against columns, on one slider."""
    if not result.bars:
        return ()
    counts = sorted({bar.columns for bar in result.bars})
    groups = [
        Group("Bytes kept", _rows(result, counts, "kept_bytes"), bars.told_bytes, log=True),
        Group(
            "Gradient error against plain autograd",
            _rows(result, counts, "gradient_error"),
            bars.told_error,
            log=True,
            ends=(1e-9, 10.0),
        ),
    ]
    drawn = bars.grow("columns", [str(count) for count in counts], groups)
    if not ended:
        return (drawn,)
    return drawn, _honest(result) + _at_most(result, counts[-1])


def _rows(result: "Bars", counts: Sequence[int], what: str) -> list[Bar]:
    found = {(bar.mode, bar.columns): getattr(bar, what) for bar in result.bars}
    titles = {key: title for title, key in POLICIES.items()}
    return [
        Bar(titles[key], [found.get((key, count)) for count in counts], key in BACKWARD)
        for key in dict.fromkeys(bar.mode for bar in result.bars)
    ]


def does_not_move(result: "Bars", recipe: Recipe) -> Number | None:
    """What one sequence of all columns keeps with the fewest and with the most of them."""
    kept = {bar.columns: bar.kept_bytes for bar in result.bars if bar.mode == "whole"}
    if len(kept) < 2:
        return None
    first, last = min(kept), max(kept)
    what = f"bytes kept in one sequence, {first} → {last} columns"
    return Number(what, f"{kept[last]:,}", f"{kept[first]:,}")


def _honest(result: "Bars") -> str:
    """The price of the bar that stands still."""
    errors = "; ".join(
        f"{count} columns: {markup.figure(error)}" for count, error in result.inverse_errors
    )
    wrong = [bar for bar in result.bars if bar.mode == "whole" and bar.gradient_error > 1e-3]
    told = [f"Relative error of walking all the way back in float32: {errors}."]
    if wrong:
        told.append(
            f"With {wrong[-1].columns} columns in one sequence the gradients are off by "
            f"{markup.percent(wrong[-1].gradient_error)}: α near 0.5 halves every map at each "
            "column, and float32 cannot undo that. Train with anchors."
        )
    return markup.notes(*told, "Networks of this tab are untrained; bytes do not depend on that.")


def _at_most(result: "Bars", count: int) -> str:
    """All figures with the most columns."""
    rows = [
        [
            bar.title,
            f"{bar.kept_bytes:,}",
            f"{bar.peak_bytes:,}",
            f"{bar.flops / 1e9:.2f} G",
            bars.told_error(bar.gradient_error),
        ]
        for bar in result.bars
        if bar.columns == count
    ]
    head = ["", "bytes kept", "peak", "operations", "gradient error"]
    return markup.titled(f"At {count} columns", "") + markup.table(head, rows, "Bytes", heads=True)


# ---------------------------------------------------------------------- probes


def draw_probed(result: "Probed", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Two curves a level over the columns, and all figures."""
    if not result.knows:
        return ()
    knows = plots.shown(_by_column(result, "class_accuracy", "class read off correctly"))
    where = plots.shown(_by_column(result, "position_r2", "position read off (R²)"))
    if not ended:
        return knows, where
    rows = [
        [k.column, k.level, markup.percent(k.class_accuracy, 1), f"{k.position_r2:.2f}"]
        for k in result.knows
    ]
    table = markup.table(["column", "level", "class", "position, R²"], rows, "Probes")
    told = markup.notes(
        f"The most frequent class alone would be right {markup.percent(result.chance)} of times."
    )
    return knows, where, table + told


def _by_column(result: "Probed", what: str, title: str) -> PlotData:
    levels = sorted({k.level for k in result.knows})
    lines = []
    for level in levels:
        found = [k for k in result.knows if k.level == level]
        values = [float(getattr(k, what)) for k in found]
        lines.append(
            Line(
                LEVEL_NAMES[level],
                [k.column for k in found],
                values,
                level,
                hover=[f"{LEVEL_NAMES[level]}: {value:.2f}" for value in values],
            )
        )
    return plots.curves(lines, "column", title, height=260)


def best_of_class(result: "Probed", recipe: Recipe) -> Number | None:
    """The class, read off the lowest and off the uppermost level of the last column."""
    last = max((k.column for k in result.knows), default=0)
    found = {k.level: k.class_accuracy for k in result.knows if k.column == last}
    if set(found) != {0, 1, 2, 3}:
        return None
    return Number(
        "class read off, lowest → highest level", markup.percent(found[3]), markup.percent(found[0])
    )


# ---------------------------------------------------------------------- published sizes


def draw_estimated(result: "Estimated", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Bytes of the published sizes, one position a size."""
    if not result.rows:
        return ()
    sizes = list(dict.fromkeys(row.model for row in result.rows))
    groups = [
        Group("Bytes kept", _of_sizes(result, sizes, "kept_bytes"), bars.told_bytes, log=True),
        Group("At the peak", _of_sizes(result, sizes, "peak_bytes"), bars.told_bytes, log=True),
    ]
    weights = "; ".join(
        f"{size}: {next(r.parameters for r in result.rows if r.model == size) / 1e6:.0f} million"
        for size in sizes
    )
    told = markup.notes(
        f"Batch {result.batch}, computed on shapes, not measured; heads and decoders included. "
        f"Weights: {weights}."
    )
    return (bars.grow("RevCol", sizes, groups) + told,)


def least_kept(result: "Estimated", recipe: Recipe) -> Number | None:
    """Bytes that the largest of the sizes keeps, by plain autograd and in one sequence."""
    size = result.rows[-1].model if result.rows else ""
    kept = {row.mode: row.kept_bytes for row in result.rows if row.model == size}
    if not {"plain", "whole"} <= set(kept):
        return None
    return Number(
        f"bytes kept by RevCol-{size}, computed",
        bars.told_bytes(kept["whole"]),
        bars.told_bytes(kept["plain"]),
    )


def _of_sizes(result: "Estimated", sizes: Sequence[str], what: str) -> list[Bar]:
    found = {(row.mode, row.model): getattr(row, what) for row in result.rows}
    titles = {key: title for title, key in POLICIES.items()}
    return [
        Bar(titles[key], [found.get((key, size)) for size in sizes], key in BACKWARD)
        for key in dict.fromkeys(row.mode for row in result.rows)
    ]
