"""Curves in the plot style of the house, and the places that they are drawn in."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components.plot import PlotData

from pages._look import ASSETS, BACKWARD, NEUTRAL, SERIES, SYMBOLS


@dataclass(frozen=True)
class Line:
    """One curve; `place` picks its colour and mark.

    `backward` takes the colour of rewinding, `neutral` that of something to compare with. `band`
    are the lower and the upper ends of an interval, shaded behind the curve.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    place: int = 0
    backward: bool = False
    neutral: bool = False
    hover: Sequence[str] = ()
    marks: bool = True
    band: tuple[Sequence[float], Sequence[float]] | None = None

    @property
    def colour(self) -> str:
        """As every part of this curve is drawn."""
        if self.backward or self.neutral:
            return BACKWARD if self.backward else NEUTRAL
        return SERIES[self.place % len(SERIES)]


def place(
    label: str,
    figure: PlotData | None = None,
    *,
    visible: bool = True,
    elem_id: str | None = None,
) -> gr.Plot:
    """A place for a plot; one that is not visible waits for `shown`."""
    return gr.Plot(
        figure, label=label, visible=visible, elem_id=elem_id, show_label=False, container=False
    )


def shown(figure: PlotData) -> gr.Plot:
    """The update that puts a figure into its place and makes that visible."""
    return gr.Plot(value=figure, visible=True)


def time_scrubber(plot: str, last: int, label: str, time: str) -> gr.HTML:
    """Plays frames 0 to `last` of the plot of this element id, from data to noise and back."""
    return gr.HTML(
        f'<div class="scrubber times" data-plot="{plot}">'
        '<button type="button" class="round backward" data-way="-1" '
        'aria-label="Play from data to noise">◀</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" step="1" '
        f'aria-label="{label}"><output>{time}</output>'
        '<button type="button" class="round forward" data-way="1" '
        'aria-label="Play from noise to data">▶</button></div>',
        js_on_load=(ASSETS / "panels" / "times.js").read_text("utf-8"),
    )


def curves(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    *,
    log_y: bool = False,
    log_x: bool = False,
    height: int = 380,
    percent: bool = False,
) -> PlotData:
    """Curves in the style of the house; the page's style sheet colours text and grid.

    With `percent` both axes run from 0 to 100.
    """
    traces = [_shade(line) for line in lines if line.band] + [_trace(line) for line in lines]
    values_x = [value for line in lines for value in line.x]
    values_y = [value for line in lines for value in line.y]
    axis = {"zeroline": False, "ticks": "", "automargin": True, "fixedrange": True}
    if percent:
        axis["range"] = [-4, 104]
    layout = {
        "height": height,
        "autosize": True,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "Plex, system-ui, sans-serif", "size": 13},
        "hovermode": "closest",
        "showlegend": len(lines) > 1,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": axis | {"title": {"text": x_title}} | (log_axis(values_x) if log_x else {}),
        "yaxis": axis | {"title": {"text": y_title}} | (log_axis(values_y) if log_y else {}),
    }
    figure = {"data": traces, "layout": layout, "config": {"displayModeBar": False}}
    return PlotData(type="plotly", plot=json.dumps(figure, allow_nan=False))


def log_axis(values: Sequence[float]) -> dict[str, object]:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of every decade in use."""
    positive = [value for value in values if value > 0]
    if not positive:
        return {"type": "log", "range": [0, 1], "tickvals": []}
    low, high = math.log10(min(positive)), math.log10(max(positive))
    room = max(0.08, 0.03 * (high - low))  # for half a mark at the ends
    low, high = low - room, high + room
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    texts = [f"{tick:g}" for tick in ticks]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": texts}


def _shade(line: Line) -> dict[str, object]:
    """The interval of a curve: there along the upper ends, back along the lower ones."""
    assert line.band is not None
    low, high = ([float(value) for value in ends] for ends in line.band)
    x = [float(value) for value in line.x]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{line.name}, 95 %",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"{line.colour}26",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _trace(line: Line) -> dict[str, object]:
    colour = line.colour
    return {
        "type": "scatter",
        "mode": "lines+markers" if line.marks else "lines",
        "name": line.name,
        "x": [float(value) for value in line.x],
        "y": [float(value) for value in line.y],
        "text": list(line.hover),
        "hovertemplate": "%{text}<extra></extra>" if line.hover else None,
        "line": {"color": colour, "width": 2, "dash": "dot" if line.neutral else "solid"},
        "marker": {"color": colour, "size": 8, "symbol": SYMBOLS[line.place % len(SYMBOLS)]},
    }
