"""SSD: a class is taken out of a network by an edit, along alpha, and put back bit for bit."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _forgetting as forgetting
from pages import _grow as grow
from pages import _markup as markup
from pages import _parts as parts
from pages import _planes as planes
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._look import BACKWARD, FORWARD, NEUTRAL, SERIES
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    import numpy as np

    from engine.unlearning._export import Importances
    from engine.unlearning._thumbnails import Thumbnails
    from engine.unlearning.ssd.results import Forgotten, Point, Sweep

AUTOMATIC, BY_HAND = "automatic: 2 % of the weights", "by hand"
BASELINES = (
    "fine-tuning", "amnesiac", "bad teacher", "UNSIR", "SCRUB", "CF", "Fisher forgetting",
)  # fmt: skip
SHOWN_EACH = 3
FAILS = {
    "what": "T-shirt", "unit": "mixed", "alpha": 10.0, "lam": 1.0, "curve": 9,
}  # fmt: skip


def build(frame: Frame) -> None:
    """The class and alpha; the pictures; the histogram that alpha cuts; then what goes along."""
    run = frame.stage("run", "Forget")
    with run.ask:
        question = forgetting.asks(frame)
        alpha = _alpha()
    with run.settings:
        question |= forgetting.more(frame, question)
        gradients = _gradients()
        options = _options()
        lam = gr.Number(
            0.1,
            label="λ",
            info="Scales what is left of a weight; the paper takes 1 for CIFAR and 0.1 for faces",
            minimum=1e-6,
            maximum=1e4,
        )
        with gr.Accordion("Beside other ways", open=False):
            compare = gr.CheckboxGroup(
                list(BASELINES),
                label="Train now",
                info="One epoch each, about ten seconds",
            )
        frame.seed(0)
        frame.model()
    with run.shown:
        histogram = plots.place(
            "How much more each weight matters to the forgotten pictures than to all"
        )
        pictures = gr.HTML("", elem_id="ssd-pictures")
    with run.below:
        table = gr.HTML("", elem_id="ssd-table")
    edit = {**question, **gradients, **alpha, **options, "lam": lam}
    run.wire(
        {**edit, "compare": compare},
        draw_run,
        [pictures, histogram, table],
        number=left_of_it,
        film=film,
        params=settings,
        back=controls,
        turned=[alpha["alpha"]],
    )
    _sweep(frame, {**question, **gradients})
    _take_along(frame, edit)
    frame.breaks(
        "T-shirts share their weights with shirts. With batches of mixed classes, the "
        "alpha of the paper forgets bags cleanly, but here it damages most other "
        "garments, too.",
        "a larger alpha, which you find on the curve, or gradients of single samples.",
        FAILS,
        seed=0,
    )


def _alpha() -> Controls:
    choice = gr.Radio([AUTOMATIC, BY_HAND], value=AUTOMATIC, label="α", elem_id="ssd-by")
    slider = gr.Slider(
        -2,
        2.5,
        value=0.3,
        step=0.05,
        label="log₁₀ α",
        info="Drag it to the left over the histogram: weights to its right are made smaller",
        elem_id="ssd-alpha",
        elem_classes="chooses-ssd-by-1",  # whoever moves it chooses by hand; see rewind.js
    )
    return {"choice": choice, "alpha": slider}


def _gradients() -> Controls:
    with gr.Accordion("Gradients", open=False):
        return {
            "unit": gr.Dropdown(
                fields.options(forgetting.UNITS),
                value="sample",
                label="Gradients of",
                info="An α fits only the gradients it was chosen for",
            ),
            "batch": gr.Number(
                64,
                label="Pictures a batch",
                info="For batches; the authors' code takes 64 for a class, 128 for random pictures",
                precision=0,
                minimum=1,
                maximum=4096,
            ),
            "label_free": gr.Checkbox(
                False, label="Without labels", info="The squared outputs in place of the loss"
            ),
            "protect": gr.Textbox(
                "",
                label="Leave these layers alone",
                info="Parts of names with commas between them, such as classifier",
                max_length=500,
            ),
            "importances": gr.Textbox(
                "",
                label="Saved importances of all data",
                info="FOLDER/NAME.safetensors on this machine; empty takes what ships, or a pass",
                max_length=500,
            ),
        }


def _options() -> Controls:
    """What the authors' code takes besides, and their paper leaves at 1."""
    with gr.Accordion("More of the authors' code", open=False):
        return {
            "exponent": gr.Number(
                1,
                label="Exponent",
                info="Of what is left of a weight",
                minimum=0.1,
                maximum=10,
            ),
            "cap": gr.Number(
                1,
                label="Largest factor",
                info="No selected weight keeps more; 0 prunes them",
                minimum=0,
                maximum=1,
            ),
        }


def _sweep(frame: Frame, inputs: Controls) -> None:
    sweep = frame.stage("sweep", "Sweep", tab="α and λ")
    with sweep.ask:
        alphas = gr.Textbox("1, 2, 3, 5, 8", label="α", max_length=300)
        lams = gr.Textbox("0.1, 1", label="λ", max_length=300)
    with sweep.shown:
        plane = plots.place("Forgotten against kept, by α and λ")
        told = gr.HTML("")
    sweep.wire(
        {**inputs, "alphas": alphas, "lams": lams},
        draw_sweep,
        [plane, told],
        number=best_point,
        params=settings,
        back=controls,
    )


def _take_along(frame: Frame, edit: Controls) -> None:
    with frame.tab("Take it along"):
        forgetting.takes_along(frame, "The edited network", edit, params=settings, back=controls)
        parts.heading(
            "Importances without the data",
            "Computed once, they take the place of the training data, which can then be deleted.",
        )
        action = frame.action("importances", "Take importances")
        told = gr.HTML("", elem_id="ssd-importances-told")
        file = gr.File(label="Importances", visible=False, interactive=False)
        chosen = {name: edit[name] for name in ("unit", "batch", "label_free", "retain")}
        action.wire(
            {**chosen, "most": _most(), "folder": _folder()}, draw_importances, [told, file]
        )


def _most() -> gr.Number:
    return gr.Number(
        4000,
        label="Pictures",
        precision=0,
        minimum=1,
        maximum=1_000_000,
        info="More is better; there are 20000",
    )


def _folder() -> gr.Textbox:
    return gr.Textbox(
        "",
        label="Folder on this machine",
        info="For large models: sums are written to disk as they come. Empty gives you a "
        "file instead",
        max_length=500,
    )


# ---------------------------------------------------------------------- fields


def settings(values: Settings) -> Settings:
    """Settings of a job, of what the controls hold."""
    found = forgetting.asked(values)
    if "choice" in found:
        by_hand = found.pop("choice") == BY_HAND
        exponent = fields.real_number(found.pop("alpha"), "α")
        found["alpha"] = float(f"{10**exponent:.4g}") if by_hand else 0.0
    found["protect"] = [name.strip() for name in str(found["protect"]).split(",") if name.strip()]
    for name in {"alphas", "lams"} & found.keys():
        found[name] = forgetting.numbers(found[name])
    return found


def controls(given: Settings) -> Settings:
    """What the controls hold, of the settings of a job."""
    found = fields.joined(forgetting.controls(given), protect=", ", alphas=", ", lams=", ")
    if "alpha" in found:
        alpha = found["alpha"]
        is_set = isinstance(alpha, int | float) and alpha > 0
        found["choice"] = BY_HAND if is_set else AUTOMATIC
        found["alpha"] = round(math.log10(alpha), 4) if is_set else 0.3  # type: ignore[arg-type]
    return found


# ---------------------------------------------------------------------- a run


def left_of_it(result: "Forgotten", recipe: Recipe) -> Number | None:
    """Accuracy on the forgotten, before and after."""
    if len(result.cards) < 2:
        return None
    before, after = (card.forget_test or card.forget_train for card in result.cards[:2])
    if after is None:
        return None
    what = f"accuracy on {result.name}, unseen pictures"
    return Number(what, forgetting.percent(after), forgetting.percent(before))


def draw_run(result: "Forgotten", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Pictures with what is said of them, the histogram under alpha, and all networks."""
    shown = "" if result.thumbnails is None else said(result.thumbnails, result)
    if result.patch is not None and result.changed is not None:
        shown += forgetting.undone_line(
            result.before, result.after, result.undone, result.patch_bytes, result.changed.weights
        )
    figure = gr.skip() if result.ratios is None else plots.shown(histogram(result))
    return shown or gr.skip(), figure, _told(result)


def film(result: "Forgotten") -> "list[np.ndarray]":
    """Accuracy on the forgotten, which goes, and on the rest, as alpha falls."""
    along = sorted(result.curve, key=lambda point: -point.alpha)
    forget = [None if p.forget is None else p.forget.rate for p in along]
    kept = [None if p.retain is None else p.retain.rate for p in along]
    rows = [Bar("", forget, backward=True), Bar("", kept)]
    return grow.film(Group("", rows, grow.told_share, ends=(0.0, 1.0)))


def said(found: "Thumbnails", result: "Forgotten") -> str:
    """Forgotten and kept pictures in columns, with what each network says of them."""
    places = _shown(found, is_forgotten=True) + _shown(found, is_forgotten=False)
    columns = [
        f"{found.truth[place]}{', forgotten' * found.is_forgotten[place]}" for place in places
    ]
    return forgetting.told(
        columns,
        [found.pictures[place] for place in places],
        ([found.before[place] for place in places], [found.after[place] for place in places]),
        "after SSD",
        is_undone=bool(result.undone) and result.undone == result.before,
    )


def _shown(found: "Thumbnails", *, is_forgotten: bool) -> list[int]:
    """A few of the forgotten, or of the others: one a class, and what was known before, first."""
    places = [place for place, one in enumerate(found.is_forgotten) if one == is_forgotten]
    known = [place for place in places if found.before[place] == found.truth[place]]
    firsts = {found.truth[place]: place for place in reversed(known)}.values()
    return list(dict.fromkeys([*sorted(firsts), *known, *places]))[:SHOWN_EACH]


def histogram(result: "Forgotten") -> PlotData:
    """Weights by log10 of I_f / I_D; over them both accuracies along alpha, alpha and its bound."""
    assert result.ratios is not None
    middle = (result.ratios.edges[:-1] + result.ratios.edges[1:]) / 2
    traces: list[dict[str, object]] = [
        {
            "type": "bar",
            "name": "weights",
            "x": [float(x) for x in middle],
            "y": [int(count) for count in result.ratios.counts],
            "marker": {"color": NEUTRAL, "opacity": 0.45},
            "yaxis": "y2",
            "hovertemplate": "%{y} weights<extra></extra>",
        }
    ]
    for name, colour, symbol in (("forget", FORWARD, "circle"), ("retain", SERIES[1], "square")):
        points = sorted(result.curve, key=lambda point: point.alpha)
        if points and getattr(points[0], name) is not None:
            traces.append(_along(points, name, result.name, colour, symbol))
    lines = [_upright(result.alpha, BACKWARD, "solid")] if result.alpha > 0 else []
    labels = [_label(result.alpha, f"α = {result.alpha:.3g}", "right")] if result.alpha > 0 else []
    if result.bound is not None:
        lines.append(_upright(result.bound, NEUTRAL, "dot"))
        labels.append(_label(result.bound, "bound", "left"))
    return planes.figure(
        traces,
        "log₁₀ (importance to the forgotten ⁄ to all)",
        "accuracy, unseen, %",
        legend=True,
        height=300,
        bargap=0,
        shapes=lines,
        annotations=labels,
        yaxis={"range": [-4, 104]},
        yaxis2={"overlaying": "y", "side": "right", "showgrid": False, "showticklabels": False,
                "fixedrange": True, "zeroline": False, "range": _reach(result.ratios.counts)},
        xaxis={"range": [-2.6, 2.6]},
    )  # fmt: skip


def _reach(counts: "np.ndarray") -> list[float]:
    """An axis whose zero lies where that of the accuracies lies."""
    most = float(counts.max(initial=1))
    return [-0.04 * most, 1.04 * most]


def _along(
    points: "Sequence[Point]", name: str, what: str, colour: str, symbol: str
) -> dict[str, object]:
    rates = [getattr(point, name) for point in points]
    title = f"accuracy on {what}" if name == "forget" else "accuracy on the rest"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": title,
        "x": [math.log10(point.alpha) for point in points],
        "y": [100 * rate.rate for rate in rates],
        "text": [
            f"α {point.alpha:.3g}: {markup.percent(rate.rate)}, "
            f"{markup.percent(point.changed_share, 1)} changed"
            for point, rate in zip(points, rates, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 8, "symbol": symbol},
    }


def _upright(alpha: float, colour: str, dash: str) -> dict[str, object]:
    place = math.log10(alpha)
    return {
        "type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": colour, "width": 2, "dash": dash},
    }  # fmt: skip


def _label(alpha: float, text: str, anchor: str) -> dict[str, object]:
    return {
        "x": math.log10(alpha), "y": 1, "yref": "paper", "text": text, "showarrow": False,
        "xanchor": anchor, "yanchor": "top", "xshift": 4 if anchor == "left" else -4,
    }  # fmt: skip


def _told(result: "Forgotten") -> str:
    """The networks beside one another, what changed by layer, and notes."""
    pieces = []
    if result.cards:
        pieces.append(
            markup.titled(
                "Beside retraining",
                "The goal is the network that never saw the forgotten pictures. Its membership "
                "rate shows how low an honest one can be.",
            )
            + forgetting.cards_table(result.cards, "networks compared")
        )
    if result.changed is not None and result.changed.weights:
        shares = sorted(result.changed.shares.items(), key=lambda item: -item[1])[:8]
        rows = [[name, f"{100 * share:.2f} %"] for name, share in shares]
        title = f"{result.changed.weights:,} of {result.changed.editable:,} weights changed"
        pieces.append(f"<details><summary>{title}, by layer</summary>")
        pieces.append(markup.table(["tensor", "weights changed"], rows, "by layer") + "</details>")
    origin = f"Importances of all data: {result.importance_from}." if result.importance_from else ""
    return "".join(pieces) + markup.notes(*filter(None, (origin, *result.notes)))


# ---------------------------------------------------------------------- sweep, importances, files


def best_point(result: "Sweep", recipe: Recipe) -> Number | None:
    """The lowest accuracy on the forgotten among the points that no other one beats."""
    told = [result.points[place] for place in result.front if result.points[place].forget]
    if not told:
        return None
    best = min(told, key=lambda point: point.forget.rate if point.forget else 1)
    kept = forgetting.percent(best.retain)
    what = f"accuracy on {result.name} at α {best.alpha:g}, λ {best.lam:g}; {kept} on the rest"
    return Number(what, forgetting.percent(best.forget))


def draw_sweep(result: "Sweep", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """One line a λ through its α, and the points that no other one beats."""
    lines = []
    for place, lam in enumerate(dict.fromkeys(point.lam for point in result.points)):
        some = [p for p in result.points if p.lam == lam and p.forget and p.retain]
        lines.append(_line(f"λ {lam:g}", some, place=place))
    front = [result.points[place] for place in result.front]
    lines.append(_line("not beaten", [p for p in front if p.forget and p.retain], neutral=True))
    figure = plots.curves(lines, "accuracy on the rest, %", f"accuracy on {result.name}, %")
    return plots.shown(figure), markup.notes(*result.notes)


def _line(name: str, points: "Sequence[Point]", place: int = 0, neutral: bool = False) -> Line:
    return Line(
        name,
        [100 * p.retain.rate for p in points if p.retain],
        [100 * p.forget.rate for p in points if p.forget],
        place,
        neutral=neutral,
        hover=[
            f"α {p.alpha:g}, λ {p.lam:g}: {markup.percent(p.changed_share, 1)} changed"
            for p in points
        ],
    )


def draw_importances(result: "Importances", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """How far the stream is; at the end the file."""
    told = markup.figures(
        {
            "pictures": f"{result.samples} of {result.of}",
            "weights": f"{result.weights:,}" if result.weights else "…",
            "size": f"{result.megabytes:.2f} MB" if result.weights else "…",
        }
    )
    if not ended:
        return (told,)
    if result.file is None:
        return (told + markup.notes(f"Saved in the folder as {result.saved_as}."),)
    made = {result.file.name: result.file.data}
    return told, gr.File(value=str(taking.written(made, "importances.zip")), visible=True)
