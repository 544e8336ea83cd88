"""Figures of points and densities in the plane, in the plot style of the house."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gradio.components.plot import PlotData

from pages import _plots as plots
from pages._look import FORWARD

# The square of the world; it grows for points outside, up to the second figure.
VIEW, WIDEST_VIEW = 3.0, 9.0
# The style sheet paints this colour as ink, dark on light and light on dark.
INK = "rgb(1, 2, 3)"
SHADE = [[0, "rgba(128,120,108,0)"], [1, "rgba(128,120,108,0.8)"]]


def figure(
    traces: Sequence[dict[str, object]],
    x_title: str,
    y_title: str,
    *,
    legend: bool = False,
    xaxis: dict[str, object] | None = None,
    yaxis: dict[str, object] | None = None,
    **layout: object,
) -> PlotData:
    """Traces in the plot style of the house."""
    base = json.loads(plots.curves([], x_title, y_title).plot)
    base["data"] = list(traces)
    base["layout"] |= {"showlegend": legend, **layout}
    base["layout"]["xaxis"] |= xaxis or {}
    base["layout"]["yaxis"] |= yaxis or {}
    return PlotData(type="plotly", plot=json.dumps(base, allow_nan=False))


def plane(
    traces: Sequence[dict[str, object]],
    x_title: str,
    y_title: str,
    *,
    legend: bool = False,
    **layout: object,
) -> PlotData:
    """Traces in the square of the world, both axes alike, and all points inside.

    Of a run that went astray some may lie outside the widest square; how many stands on the figure.
    """
    reach = reach_of(traces)
    shared: dict[str, object] = {
        "range": [-reach, reach],
        "constrain": "domain",
        "dtick": 1 if reach <= 4 else 3,
    }
    if outside := sum(one > WIDEST_VIEW for one in farthest(traces)):
        layout["annotations"] = [
            {
                "text": f"{outside} points lie outside",
                "xref": "paper",
                "yref": "paper",
                "x": 1,
                "y": 1,
                "showarrow": False,
            }
        ]
    return figure(
        traces,
        x_title,
        y_title,
        legend=legend,
        xaxis=shared,
        yaxis=shared | {"scaleanchor": "x"},
        **layout,
    )


def farthest(traces: Sequence[Mapping[str, Any]]) -> list[float]:
    """The larger coordinate of each point of the traces, by its size; a shade has no points."""
    return [
        max(abs(x), abs(y))
        for trace in traces
        if trace["type"] == "scatter"
        for x, y in zip(trace["x"], trace["y"], strict=True)
        if x is not None and y is not None
    ]


def reach_of(traces: Sequence[Mapping[str, Any]]) -> float:
    """How far the axes must go, so that they cut no point: a little beyond the farthest."""
    return min(max([VIEW, *(1.05 * one for one in farthest(traces))]), WIDEST_VIEW)


def heat(values: np.ndarray, reach: float, *, visible: bool = True) -> dict[str, object]:
    """A density as a shade; its root, so that thin parts are seen too."""
    level = np.sqrt(np.clip(values, 0, None) / max(float(values.max()), 1e-30))
    coded = base64.b64encode(np.round(255 * level).astype(np.uint8).tobytes()).decode("ascii")
    side = len(values)
    return {
        "type": "heatmap",
        "z": {"dtype": "u1", "bdata": coded, "shape": f"{side}, {side}"},
        "x0": -reach,
        "dx": 2 * reach / (side - 1),
        "y0": -reach,
        "dy": 2 * reach / (side - 1),
        "zmin": 0,
        "zmax": 255,
        "zsmooth": "best",
        "colorscale": SHADE,
        "showscale": False,
        "hoverinfo": "skip",
        "visible": visible,
    }


def scatter(
    xy: np.ndarray, colour: str, *, mode: str, width: float = 2, size: float = 6
) -> dict[str, Any]:
    """Points or a line, `n 2`; a row that is not a number is a gap."""
    rows = [[float(f"{v:.5g}") if np.isfinite(v) else None for v in column] for column in xy.T]
    return {
        "type": "scatter",
        "mode": mode,
        "x": rows[0] if len(rows) else [],
        "y": rows[1] if len(rows) else [],
        "line": {"color": colour, "width": width},
        "marker": {"color": colour, "size": size},
        "hoverinfo": "skip",
    }


def dotted(values: np.ndarray, points: np.ndarray, reach: float = VIEW) -> np.ndarray:
    """A picture `n n 3` of a density with points, `n 2`, on it: a plane small enough for Home."""
    level = np.sqrt(np.clip(values, 0, None) / max(float(values.max()), 1e-30))[::-1, :, None]
    paper, shade = np.array([250, 249, 245.0]), np.array([168, 162, 152.0])
    picture = paper + level * (shade - paper)
    side = len(values)
    inked = np.array([int(FORWARD[k : k + 2], 16) for k in (1, 3, 5)])
    places = np.round((points + reach) / (2 * reach) * (side - 1)).astype(int)
    for x, y in places[np.all((places > 1) & (places < side - 2), axis=1)]:
        picture[side - 1 - y - 1 : side - 1 - y + 2, x - 1 : x + 2] = inked
    return picture.round().astype(np.uint8)


def arrows(
    points: np.ndarray, along: np.ndarray, colour: str, *, width: float, head: float
) -> dict[str, Any]:
    """Arrows from points, `n 2` both."""
    gap = np.full_like(points, np.nan)
    line = np.stack([points, points + along, gap], axis=1).reshape(-1, 2)
    drawn = scatter(line, colour, mode="lines+markers", width=width)
    drawn["marker"] |= {
        "symbol": "arrow",
        "angleref": "previous",
        "size": [0, head, 0] * len(points),
        "line": {"width": 0},
    }
    return drawn


def capped(vectors: np.ndarray, longest: float) -> np.ndarray:
    """The vectors, none longer than this."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * np.minimum(1, longest / np.maximum(length, 1e-12))
