"""What doubt costs, measured over many trays, and the tau that another model needs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import Recipe
from pages import _markup as markup
from pages import _plots as plots
from pages._fields import Settings
from pages._frame import Frame
from pages._handlers import gradio_errors
from pages._markup import Html, escape
from pages._plots import Line
from pages._recordings import Number
from pages._retrospective_tau import PRESETS, tau_of
from pages._retrospective_tray import SLUG

if TYPE_CHECKING:
    from engine.verifying.retrospective_resampling.results import (
        Beside,
        Calibration,
        Curve,
        Point,
    )


ARTISTS = {"artists it was trained on": "known", "an artist it never saw": "never seen"}

RIGHT_ALONE = "right answers alone"

BASELINES = {
    "refuse": "say nothing of a doubted phrase",
    "truncate": "end before the first doubted phrase",
    "greedy": "temperature 0, nothing taken back",
    "contrast": "contrast with a blank picture",
    RIGHT_ALONE: "the same network, trained without wrong answers; it has no doubt to act on",
}


# ---------------------------------------------------------------------- the trade-off


def build_tradeoff(frame: Frame, tau: gr.Slider, noise: gr.Slider) -> None:
    """CHAIR against cover over tau, measured beforehand, and again on request."""
    action = frame.stage("curve", "Measure on new trays", tab="What doubt costs", records=False)
    with action.ask:
        gr.HTML(
            markup.notes(
                "On many random trays: fewer things that are not there, and in the end fewer "
                "things that are. The ring marks the current tau."
            )
        )
        trays = gr.Slider(4, 200, 16, step=4, label="Trays")
    with action.settings:
        artists = gr.Radio(list(ARTISTS), value=next(iter(ARTISTS)), label="Drawn by")
        hints = gr.Checkbox(True, label="Hints")
    known = measured_curve(frame)
    kept = gr.State(known)
    with action.shown:
        plot = plots.place("Trade", tradeoff_plot(known, 10 ** PRESETS["balanced"]))
    with action.below:
        ranks = plots.place("Doubts", visible=False)
        table = gr.HTML(known_tables(frame, known))
    action.wire(
        {"trays": trays, "artists": artists, "noise": noise, "hints": hints},
        draw_curve,
        [plot, ranks, table, kept],
        params=curve_params,
        back=curve_values,
    )
    frame.on(tau.change, _mark_tau, [kept, tau], plot, name="mark_tau", trigger_mode="always_last")


def measured_curve(frame: Frame) -> list["Point"]:
    """The points that stand behind the claim; empty when there are none."""
    return [cast("Point", one) for one in _measured(frame, "curve")]


def _measured(frame: Frame, name: str) -> list[SimpleNamespace]:
    """Rows of a figure of the claim; none where it is not measured."""
    try:
        figure = frame.entry.measured().figures.get(name)
    except AssetMissing:
        return []
    listed = figure if isinstance(figure, list) else []
    return [SimpleNamespace(**one) for one in listed if isinstance(one, Mapping)]


def known_tables(frame: Frame, known: "Sequence[Point]") -> str:
    """What was measured for the claim, in tables; empty when nothing was."""
    beside = [cast("Beside", one) for one in _measured(frame, "at equal cover")]
    return cover_table(beside) + curve_table(known, "as measured for the claim")


def curve_params(values: Settings) -> Settings:
    """The settings of `curve` as the controls give them."""
    return values | {"artists": ARTISTS.get(str(values["artists"]), values["artists"])}


def curve_values(params: Settings) -> Settings:
    """The values of the controls for such settings."""
    titles = {name: title for title, name in ARTISTS.items()}
    artists = titles.get(str(params.get("artists")), next(iter(ARTISTS)))
    return params | {"artists": artists}


def _mark_tau(points: "list[Point]", power: float) -> PlotData:
    """The trade-off with the ring at the current tau."""
    with gradio_errors():
        return tradeoff_plot(points or [], tau_of(power))


def draw_curve(result: "Curve", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The trade-off so far, how the doubts are spread, and the table."""
    points = [*result.points, *result.baselines]
    where = f"{result.points[0].trays} trays, darkness {result.noise:g}, seed {recipe.seed}"
    said = cover_table(result.at_equal_cover()) + curve_table(points, where)
    plot = tradeoff_plot(points, 10 ** PRESETS["balanced"])
    doubts = plots.shown(doubt_plot(result))
    return plot, doubts, said, points if ended else gr.skip()


def tradeoff_plot(points: "Sequence[Point]", tau: float) -> PlotData:
    """Cover over CHAIR_i, one line a method; tau runs along the lines."""
    lines = []
    names = list(dict.fromkeys(one.name for one in points))
    for number, name in enumerate(names):
        mine = [one for one in points if one.name == name]
        lines.append(
            Line(
                name,
                [100 * one.chair_i for one in mine],
                [100 * one.cover for one in mine],
                max(number - 1, 0),
                backward=name == "REVERSE",
                neutral=name == RIGHT_ALONE,
                hover=[
                    f"{name}, tau {one.tau:g}<br>CHAIR {one.chair_i:.1%}, cover {one.cover:.1%}"
                    for one in mine
                ],
            )
        )
    ours = [one for one in points if one.name == "REVERSE"]
    if ours:
        near = min(ours, key=lambda one: abs(math.log10(max(one.tau, 1e-9) / tau)))
        lines.append(
            Line(
                f"tau {near.tau:g}",
                [100 * near.chair_i],
                [100 * near.cover],
                neutral=True,
                hover=[f"the nearest measured to tau = {tau:g}"],
            )
        )
    figure = plots.curves(lines, "CHAIR: mentions that are not there, %", "cover, %")
    if not ours:
        return figure
    document = json.loads(figure.plot)
    document["data"][-1]["marker"] |= {"size": 18, "symbol": "circle-open", "line": {"width": 3}}
    return PlotData(type="plotly", plot=json.dumps(document))


def doubt_plot(result: "Curve") -> PlotData:
    """Share of phrases with at most this P(UN): of those that hold, and of those that do not."""
    lines = []
    for name, values, number in (
        ("grounded", result.p_un_right, 1),
        ("hallucinated", result.p_un_wrong, 0),
    ):
        ordered = np.sort(np.maximum(values, 1e-6))
        if not len(ordered):
            continue
        chosen = np.unique(np.linspace(0, len(ordered) - 1, 60).round().astype(int))
        shares = 100 * (chosen + 1) / len(ordered)
        lines.append(Line(name, ordered[chosen], shares.tolist(), number, marks=False))
    return plots.curves(lines, "P(UN)", "phrases up to here, %", log_x=True, height=260)


def cover_table(rows: "Sequence[Beside]") -> str:
    """Each baseline beside REVERSE where both mention as much of what is there."""
    if not rows:
        return ""
    cells = [[one.name, f"{one.cover:.1%}", f"{one.theirs:.1%}", f"{one.ours:.1%}"] for one in rows]
    head = ["method", "cover", "its CHAIR_i", "CHAIR_i of REVERSE"]
    said = "Whoever says less errs less: so the methods are compared where they cover as much."
    wins = "; ".join(_wins(name, rows) for name in dict.fromkeys(one.name for one in rows))
    return markup.table(head, cells, "At equal cover") + markup.notes(f"{said} {wins}.")


def _wins(name: str, rows: "Sequence[Beside]") -> str:
    """At how many covers a baseline errs less than REVERSE."""
    mine = [one for one in rows if one.name == name and one.ours != one.theirs]
    return f"{name} errs less than REVERSE at {sum(o.theirs < o.ours for o in mine)} of {len(mine)}"


def curve_table(points: "Sequence[Point]", where: str) -> str:
    """Every setting with its rates and what it costs."""
    if not points:
        return ""
    rows = [
        [
            one.name,
            f"{one.tau:g}",
            Html(
                f'<span style="white-space:nowrap">{one.chair_i:.1%} <span class="note">'
                f"{one.chair_i_low:.1%}–{one.chair_i_high:.1%}</span></span>"
            ),
            f"{one.chair_s:.0%}",
            f"{one.cover:.1%}",
            f"{one.give_ups:.0%}",
            f"{one.empty:.0%}",
            f"{one.generated_tokens:.0f}",
        ]
        for one in points
        if one.name == "REVERSE" or one.tau in (1.0, 0.1, 0.01)
    ]
    head = ["method", "tau", "CHAIR_i, 95 %", "CHAIR_s", "cover", "gave up", "empty", "tokens said"]
    legend = "; ".join(f"{name}: {what}" for name, what in BASELINES.items())
    return markup.table(head, rows, "Rates by tau") + markup.notes(f"{where}. {legend}.")


# ---------------------------------------------------------------------- calibration


def build_calibration(frame: Frame, tau: gr.Slider, noise: gr.Slider) -> None:
    """The tau that another model or another kind of picture needs."""
    action = frame.stage("calibrate", "Find tau", tab="Find tau for a model")
    with action.ask:
        gr.HTML(
            markup.notes(
                "P(UN) of two models cannot be compared. Label some phrases. Then take the "
                "largest tau at which enough of the kept phrases are true of the picture."
            )
        )
        precision = gr.Slider(0.5, 0.99, 0.95, step=0.01, label="Share of kept to be grounded")
    with action.settings:
        labels = gr.Textbox(
            label="Labelled phrases (CSV), or empty for random trays",
            placeholder="phrase,p_un,grounded\na cat,0.002,yes\na dog,0.41,no",
            lines=5,
            max_lines=12,
            max_length=1_000_000,
            elem_classes="mono",
            elem_id=f"{SLUG}-labels",
        )
        opened = gr.UploadButton("Open a CSV", file_types=[".csv", ".txt"], size="sm")
    with action.shown:
        said = gr.HTML()
        plot = plots.place("Precision over tau", visible=False)
    action.wire(
        {"labels": labels, "precision": precision, "noise": noise},
        draw_calibration,
        [said, plot],
        number=found,
    )
    frame.on(opened.upload, _open_csv, opened, labels, name="open_csv")


def _open_csv(path: str) -> str:
    """The text of an uploaded CSV."""
    with gradio_errors():
        file = Path(path)
        if file.stat().st_size > 1_000_000:
            raise BadInput("The CSV is larger than a megabyte.", "Take fewer phrases.")
        try:
            return file.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise BadInput("This file is no text in UTF-8.", "Save it as CSV again.") from None


def found(result: "Calibration", recipe: Recipe) -> Number:
    """The largest doubt at which enough of the kept phrases are true."""
    tau = "none" if result.tau is None else f"{result.tau:.2g}"
    what = f"tau at which {100 * result.target:.0f} % of the kept phrases are true"
    return Number(what, tau)


def draw_calibration(result: "Calibration", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The tau found, how well P(UN) tells the two apart, and precision over tau."""
    if not ended:
        return ()
    if result.tau is None:
        said = f"No tau keeps phrases of which {result.target:.0%} are grounded."
    else:
        said = f"tau = {result.tau:.2g} keeps phrases of which at least {result.target:.0%} hold."
    figures = {
        "AUROC of P(UN)": f"{result.auroc:.3f}",
        "grounded": f"{result.right}",
        "ungrounded": f"{result.wrong}",
    }
    html = (
        f'<p class="verdict">{escape(said)}</p>'
        + markup.figures(figures)
        + markup.notes(f"From {result.source}. On other pictures tau may need to move.")
    )
    taus = [max(one.tau, 1e-8) for one in result.thresholds]
    lines = [
        Line("grounded among kept", taus, [100 * t.precision for t in result.thresholds], 1,
             marks=False),
        Line("kept", taus, [100 * t.kept for t in result.thresholds], 0, marks=False),
    ]  # fmt: skip
    figure = plots.curves(lines, "tau", "%", log_x=True, height=280)
    return html, plots.shown(figure)
