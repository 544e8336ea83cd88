"""MEFT: the start against lambda, the way back, whether it fits, fine-tuning, and adapters."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from engine.core.errors import BadInput
from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _files as files
from pages import _grow as bars
from pages import _markup as markup
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.networks.meft.results import (
        Answered,
        ArmCost,
        Fitted,
        LayerError,
        Predicted,
        Reversed,
        Start,
        Tuned,
    )

ARMS = {
    "Full fine-tuning": "full",
    "Full, checkpointed": "full-checkpoint",
    "Head alone": "head",
    "LoRA": "lora",
    "LoRA, checkpointed": "lora-checkpoint",
    "MEFT, plain autograd": "meft-plain",
    "MEFT, reversible with anchors": "meft",
    "MEFT, reversible, paper-pure": "meft-pure",
}
SHOWN = ["full", "lora", "lora-checkpoint", "meft-plain", "meft", "meft-pure"]
REVERSIBLE = ("meft", "meft-pure")
SCALES = {
    "BERT-base, 110 million": "bert-base",
    "RoBERTa-large, 355 million": "roberta-large",
    "OPT-1.3B": "opt-1.3b",
}
ANCHORS = {
    "As far apart as float32 allows": "auto",
    "None: paper-pure": "none",
    "Every layer": "1",
    "Every 2 layers": "2",
    "Every 4 layers": "4",
}
PACKAGED = {"package:minilm": "MiniLM-L6, sentences (fetched on demand)"}
LARGEST_TABLE = 200_000
EXAMPLES = "a cat left of a dog; a rose in neon style; a house under a cloud"


def build(frame: Frame) -> None:
    """The start and the way back; whether it fits; fine-tuning; adapters made before."""
    _start(frame)
    _fits(frame)
    _train(frame)
    _predict(frame)
    frame.breaks(
        "At a lambda of 0.02 without anchors every layer loses a factor of 50: the lower adapters "
        "get gradients of plausible size and no meaning.",
        "anchors, which start the error afresh every few layers.",
        {"lam": 0.02, "anchors": "none", "depth": 2, "arms": ["meft-pure"]},
    )


def _start(frame: Frame) -> None:
    run = frame.stage("run", "Make it reversible", tab="The start and the way back")
    with run.ask:
        variant = gr.Radio(
            [("1: an adapter beside the layer", 1), ("2: the other way round", 2),
             ("3: attention and feed-forward", 3)],
            value=1,
            label="Variant",
        )  # fmt: skip
        anchors = _anchors("meft-anchors")
    with run.settings:
        frame.model(PACKAGED)
        lam = gr.Slider(
            0, 1, value=0, step=0.01, label="Lambda of the lower figures", info="0 means 0.1 or 1"
        )
        with gr.Accordion("More settings", open=False):
            beta = gr.Slider(0, 1, value=0, step=0.01, label="Beta", info="0 means the paper's")
            rank = gr.Slider(1, 128, value=8, step=1, label="Width of an adapter")
            upper = gr.Slider(
                0,
                24,
                value=0,
                step=1,
                label="Reversible layers",
                info="The upper ones; 0 means all",
            )
            texts = gr.Textbox(
                EXAMPLES, label="Texts, if the model reads any", info="With semicolons between",
                max_length=2000,
            )  # fmt: skip
            size = _size(12, 16, 16)
            arms = gr.CheckboxGroup(list(ARMS.items()), value=SHOWN, label="Bytes of these ways")
        frame.seed(0)
    with run.shown:
        shown = gr.HTML(first_look(), elem_id="meft-start")
    with run.below:
        errors = gr.HTML("", elem_id="meft-errors")
        costs = gr.HTML("", elem_id="meft-costs")
    inputs = {
        "variant": variant, "anchors": anchors, "lam": lam, "beta": beta, "rank": rank,
        "reversible_layers": upper, "texts": texts, **size, "arms": arms,
    }  # fmt: skip
    run.wire(
        inputs, draw_start, [shown, errors, costs], number=snaps_back, film=film,
        back=lambda params: fields.joined(params, texts="; "),
    )  # fmt: skip


def _anchors(elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(
        list(ANCHORS.items()), value="auto", label="Anchors", elem_id=elem_id,
        info="Streams that are kept, from which the walk back starts afresh",
    )  # fmt: skip


def _size(depth: int, batch: int, tokens: int) -> Controls:
    return {
        "depth": gr.Slider(1, 96, value=depth, step=1, label="Layers that bytes are counted for"),
        "batch": gr.Slider(1, 256, value=batch, step=1, label="Batch"),
        "tokens": gr.Slider(1, 2048, value=tokens, step=1, label="Tokens"),
    }


def _fits(frame: Frame) -> None:
    fits = frame.stage("fits", "Will it fit?", tab="Will it fit?")
    with fits.ask:
        scale = gr.Dropdown(list(SCALES.items()), value="bert-base", label="Model")
        gibibytes = gr.Number(
            8, label="Memory, GiB", minimum=0.1, maximum=4096, elem_id="meft-gibibytes"
        )
    with fits.settings:
        batch = gr.Slider(1, 256, value=32, step=1, label="Batch")
        tokens = gr.Slider(1, 2048, value=512, step=1, label="Tokens")
        variant = gr.Radio([1, 2, 3], value=1, label="Variant")
        anchors = _anchors("meft-fits-anchors")
        arms = gr.CheckboxGroup(list(ARMS.items()), value=SHOWN, label="Ways")
    with fits.shown:
        shown = gr.HTML("", elem_id="meft-fitted")
    inputs = {
        "scale": scale, "gibibytes": gibibytes, "batch": batch, "tokens": tokens,
        "variant": variant, "anchors": anchors, "arms": arms,
    }  # fmt: skip
    fits.wire(inputs, draw_fits, [shown], number=how_many_fit)


def _train(frame: Frame) -> None:
    train = frame.stage("train", "Fine-tune", tab="Fine-tune")
    with train.ask:
        gr.HTML(
            markup.notes(
                "The digits network learns inverted, transposed digits, which it cannot read; the "
                "captions network what kind of thing comes first. Or your own table."
            )
        )
        table = gr.File(
            label="Your table: CSV of text,label", file_types=[".csv", ".txt"], height=120
        )
    with train.settings:
        arms = gr.CheckboxGroup(
            list(ARMS.items()), value=["meft", "meft-pure", "lora"], label="Ways"
        )
        steps = gr.Slider(1, 400, value=60, step=1, label="Steps")
        with gr.Accordion("More settings", open=False):
            variant = gr.Radio([1, 2, 3], value=1, label="Variant")
            anchors = _anchors("meft-train-anchors")
            rank = gr.Slider(1, 128, value=8, step=1, label="Width of an adapter")
            batch = gr.Slider(1, 256, value=16, step=1, label="Batch")
            rate = gr.Number(2e-3, label="Learning rate", minimum=1e-6, maximum=0.1)
            texts = gr.Textbox(
                "", label="Ask the trained adapters about", info="With semicolons between",
                max_length=2000,
            )  # fmt: skip
    with train.shown:
        curve = plots.place("Loss")
    with train.below:
        told = gr.HTML("", elem_id="meft-trained")
        made = gr.File(label="Adapters", visible=False, interactive=False)
    inputs = {
        "table": table, "arms": arms, "steps": steps, "variant": variant, "anchors": anchors,
        "rank": rank, "batch": batch, "learning_rate": rate, "texts": texts,
    }  # fmt: skip
    train.wire(
        inputs, draw_train, [curve, told, made], number=after_training, params=with_table,
        back=lambda params: fields.joined({**params, "table": None}, texts="; "),
    )  # fmt: skip


def _predict(frame: Frame) -> None:
    ask = frame.stage("predict", "Ask", tab="Ask the adapters")
    with ask.ask:
        texts = gr.Textbox(
            EXAMPLES, label="Texts", info="With semicolons between", lines=3, max_length=4000
        )
    with ask.settings:
        adapters = gr.Textbox(
            "meft-kinds", label="Adapters", max_length=500,
            info="The shipped ones, or a folder with the two files that fine-tuning writes",
        )  # fmt: skip
        base = gr.Textbox(
            "", label="Their model", max_length=500, info="Where its name alone does not find it"
        )
    with ask.shown:
        shown = gr.HTML("", elem_id="meft-answers")
    ask.wire(
        {"texts": texts, "adapters": adapters, "base": base}, draw_answers, [shown],
        number=first_answer, back=lambda params: fields.joined(params, texts="; "),
    )  # fmt: skip


# ---------------------------------------------------------------------- fields


def with_table(values: Settings) -> Settings:
    """The settings with the uploaded table as text. Raises `BadInput` for a file that is none."""
    path = values.get("table")
    rest = {name: value for name, value in values.items() if name != "table"}
    if not path:
        return rest
    return {**rest, "table": table_text(Path(str(path)))}


def table_text(path: Path) -> str:
    """What the file says."""
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise BadInput("The table is larger than 200 kB.", "Take up to 2,000 rows.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("The table is no text in UTF-8.", "Save it as CSV.") from error
    if not text.strip():  # it would look as if none had been given
        raise BadInput("The table is empty.", "One row for each text: text,label")
    return text


# ---------------------------------------------------------------------- the start


def first_look() -> str:
    group = Group("Start: agreement with the pre-trained network", [Bar("agreement", [None])], str)
    return bars.grow("lambda", ["1"], [group])


def draw_start(result: "Reversed", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Bars over lambda: the start, and the error of walking back by layer; then the figures."""
    if not result.starts:
        return ()
    starts = result.starts
    known = [Bar("agreement (cosine)", [max(s.agreement, 0.0) for s in starts])]
    if starts[0].accuracy is not None:
        known.append(Bar("accuracy, head untouched", [s.accuracy for s in starts]))
    layers = len(starts[0].inverse)
    pure = _by_layer([start.inverse for start in starts], layers)
    kept = _by_layer([start.anchored for start in starts], layers, backward=True)
    groups = [
        Group("The start: as the pre-trained network", known, bars.told_share, ends=(0.0, 1.0)),
        _errors_group("Error of walking back", pure),
        _errors_group(f"The same, {_apart(result)}", kept),
    ]
    names = [f"{_shrunk(result, start):g}" for start in starts]
    drawn = bars.grow("lambda", names, groups)
    if not result.errors:
        return (drawn,)
    return drawn, _layers(result), _costs(result)


def film(result: "Reversed") -> list[np.ndarray]:
    """The error of walking back, layer by layer, as lambda falls."""
    layers = len(result.starts[0].inverse)
    pure = _by_layer([start.inverse for start in result.starts], layers, backward=True)
    return bars.film(_errors_group("", pure))


def _by_layer(
    errors: Sequence[Sequence[float]], layers: int, *, backward: bool = False
) -> list[Bar]:
    """One bar a layer, the uppermost first: that is where the walk back begins."""
    return [
        Bar(f"layer {layer + 1}", [_finite(found[layer]) for found in errors], backward)
        for layer in reversed(range(layers))
    ]


def _errors_group(title: str, rows: Sequence[Bar]) -> Group:
    return Group(title, rows, bars.told_error, log=True, ends=(1e-8, 1e6), half=True)


def _finite(error: float) -> float:
    return error if math.isfinite(error) else 1e6


def _shrunk(result: "Reversed", start: "Start") -> float:
    """The scale that is dragged: lambda, but beta in the second variant."""
    return start.beta if result.variant == 2 else start.lam


def _apart(result: "Reversed") -> str:
    if result.anchor is None:
        return "no anchors"
    return "each layer kept" if result.anchor == 1 else f"anchors every {result.anchor} layers"


def snaps_back(result: "Reversed", recipe: Recipe) -> Number | None:
    """Agreement of the start at lambda 1 and at 0.1."""
    found = {f"{_shrunk(result, s):g}": s for s in result.starts}
    if not {"1", "0.1"} <= set(found):
        return None
    first, last = found["1"], found["0.1"]
    if first.accuracy is None or last.accuracy is None:
        return Number("agreement at the start, lambda 1 → 0.1", f"{last.agreement:.3f}",
                      f"{first.agreement:.3f}")  # fmt: skip
    return Number(
        "accuracy at the start, lambda 1 → 0.1",
        markup.percent(last.accuracy),
        markup.percent(first.accuracy),
    )


def _layers(result: "Reversed") -> str:
    """Errors of the streams and of the adapters' gradients at the lambda that was asked for."""
    rows = [_layer_row(error) for error in reversed(result.errors)]
    head = ["layer", "streams", "with anchors", "gradients", "with anchors"]
    where = f"At lambda {result.lam:g} and beta {result.beta:g}"
    apart = "none" if result.anchor is None else f"every {result.anchor}"
    told = (
        f"Relative errors against plain autograd in float32. Anchors: {apart} (layers); "
        f"{result.suggested} is as far as the estimate allows."
    )
    table = markup.table(head, rows, "Errors by layer", heads=True)
    return markup.titled(where, told) + table + markup.notes(*result.notes)


def _layer_row(error: "LayerError") -> list[str]:
    found = (error.inverse, error.anchored_inverse, error.gradient, error.anchored_gradient)
    return [str(error.layer), *(markup.figure(_finite(one)) for one in found)]


def _costs(result: "Reversed") -> str:
    if not result.costs:
        return ""
    rows = _arm_bars(result.costs, "kept_bytes")
    return bars.grow(
        "layers",
        ["all"],
        [Group("Bytes kept, computed on shapes", rows, bars.told_bytes, log=True)],
    )


def _arm_bars(costs: "Sequence[ArmCost]", what: str) -> list[Bar]:
    titles = {key: title for title, key in ARMS.items()}
    return [Bar(titles[cost.arm], [getattr(cost, what)], cost.arm in REVERSIBLE) for cost in costs]


# ---------------------------------------------------------------------- will it fit


def draw_fits(result: "Fitted", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """All that a training holds at its peak, and what it keeps, against the memory there is."""
    if not result.costs:
        return ()
    most = result.gibibytes * 2**30
    total = [
        Bar(bar.name, bar.values, bar.backward, "✓ fits" if cost.arm in result.fits else "✗")
        for bar, cost in zip(_arm_bars(result.costs, "total_bytes"), result.costs, strict=True)
    ]
    line = f"the line of {result.gibibytes:g} GiB"
    groups = [
        Group("All that training holds at its peak", total, bars.told_bytes, limit=(most, line)),
        Group("Activations kept", _arm_bars(result.costs, "kept_bytes"), bars.told_bytes, log=True),
    ]
    told = markup.notes(
        "Computed on shapes, not measured: weights, gradients, Adam's two moments, activations. "
        "Nothing was laid out in memory. Random states of dropout, 5 kB a coupling, are left out."
    )
    return (bars.grow("model", [result.scale], groups) + told,)


def how_many_fit(result: "Fitted", recipe: Recipe) -> Number | None:
    """Kept bytes of the same adapters under plain autograd and reversibly."""
    kept = {cost.arm: cost.kept_bytes for cost in result.costs}
    ours = kept.get("meft-pure", kept.get("meft"))
    if "meft-plain" not in kept or ours is None:
        return None
    return Number(
        "activations kept, the same adapters, computed", bars.told_bytes(ours),
        bars.told_bytes(kept["meft-plain"]),
    )  # fmt: skip


# ---------------------------------------------------------------------- fine-tuning


def draw_train(result: "Tuned", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Loss curves as they grow; at the end accuracies, bytes, and the adapters as files."""
    lines = [
        Line(
            curve.title,
            range(1, len(curve.losses) + 1),
            [float(loss) for loss in curve.losses],
            place,
            backward=curve.arm == "meft",
            marks=False,
        )
        for place, curve in enumerate(result.curves)
        if curve.losses
    ]
    if not lines:
        return ()
    figure = plots.shown(plots.curves(lines, "step", "loss", height=360))
    if not ended:
        return (figure,)
    return figure, _trained(result), _adapters(result)


def _trained(result: "Tuned") -> str:
    rows = [
        [
            curve.title,
            f"{curve.trained:,}",
            bars.told_bytes(curve.kept_bytes),
            markup.percent(curve.before, 1),
            "" if curve.accuracy is None else markup.percent(curve.accuracy, 1),
        ]
        for curve in result.curves
    ]
    head = ["", "trained numbers", "bytes kept", "accuracy before", "after"]
    told = (
        f"{result.task}: {result.examples:,} examples, {result.held_out:,} held out, "
        f"{len(result.classes)} classes. One seed; the claim's file has three."
    )
    table = markup.table(head, rows, "Accuracies", heads=True)
    return markup.titled("What they learnt", told) + table + _asked(result.predictions)


def _adapters(result: "Tuned") -> object:
    if result.adapter is None or result.adapter_config is None or result.read_back is None:
        return gr.skip()
    made = [result.adapter, result.adapter_config, *result.lora]
    written = files.written({one.name: list(one.pieces()) for one in made})
    label = (
        f"Adapters; read back into a fresh copy, logits differ by {markup.figure(result.read_back)}"
    )
    return gr.File(value=[str(path) for path in written], visible=True, label=label)


def after_training(result: "Tuned", recipe: Recipe) -> Number | None:
    """Accuracy of the reversible adapters on held-out examples."""
    curve = next((c for c in result.curves if c.arm in REVERSIBLE), None)
    if curve is None or curve.accuracy is None:
        return None
    return Number(
        f"held-out accuracy, {curve.title}",
        markup.percent(curve.accuracy),
        markup.percent(curve.before),
    )


def first_answer(result: "Answered", recipe: Recipe) -> Number | None:
    """What the first text is taken for, and how surely."""
    if not result.predictions:
        return None
    first = result.predictions[0]
    return Number(f"“{first.text[:60]}”", f"{first.label}, {markup.percent(first.probability)}")


def draw_answers(result: "Answered", recipe: Recipe, ended: bool) -> tuple[str]:
    """What the adapters say of each text."""
    told = markup.notes(f"{result.model}; classes: {', '.join(result.classes)}.")
    return (_asked(result.predictions) + told,)


def _asked(predictions: "Sequence[Predicted]") -> str:
    if not predictions:
        return ""
    rows = [[p.text, p.label, markup.percent(p.probability, 1)] for p in predictions]
    return markup.table(["text", "says", "probability"], rows, "Predictions")
