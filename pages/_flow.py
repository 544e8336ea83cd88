"""The plane of a drawn curve: its field, the way there, and the ways back under one slider.

The visitor draws on the figure itself (flow.js); what is drawn goes into a text field. Every state
on the ways back lies in the page, so moving through time asks nothing of the server.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from pages import _grow as bars
from pages._grow import Bar, Group
from pages._look import ASSETS, BACKWARD, FORWARD
from pages._markup import escape

if TYPE_CHECKING:
    from engine.networks.neural_de.results import Drawn, WayBack

REACH, SIDE = 1.6, 420
LENS, RADIUS, LEAST_MAGNIFIED = 118, 46, 3
FARTHEST = 1e-17
SAID = (
    "A plane to draw on: press and drag, or arrow keys and then Enter; Delete clears it. "
    "It shows the curve, the slopes of the field, the way forwards and the ways back"
)
KEY = (
    '<p class="key"><span><i class="drawn"></i>as drawn</span> <span><i class="there"></i>forwards'
    '</span> <span><i class="heun"></i>back by Heun</span> <span><i class="ours"></i>back by '
    "reversible Heun</span></p>"
)
JS = (ASSETS / "panels" / "flow.js").read_text("utf-8")
CSS = (ASSETS / "panels" / "flow.css").read_text("utf-8")


def place(value: str, elem_id: str) -> gr.HTML:
    """Where the plane is drawn, with what moves it."""
    return gr.HTML(value, elem_id=elem_id, js_on_load=JS, css_template=CSS)


def ready(curves: Mapping[str, str], field: str, run: str) -> gr.HTML:
    """Curves that are put into the field and run at a click."""
    buttons = "".join(
        f'<button type="button" data-curve="{escape(text)}">{escape(name)}</button>'
        for name, text in curves.items()
    )
    return gr.HTML(
        f'<div data-field="{field}" data-run="{run}"><p>Draw a curve on the plane; it is learnt '
        'when you let go. Or take a ready one:</p><div class="ready" role="group" '
        f'aria-label="Ready curves">{buttons}</div></div>',
        js_on_load=JS,
        css_template=CSS,
    )


def empty(drawing: str, curve: np.ndarray, field: str, run: str) -> str:
    """The curve alone, before there is a field."""
    return _flow(f'<polyline class="drawn" points="{_points(curve)}"/>', "", drawing, field, run)


def flow(result: "Drawn", drawing: str, field: str, run: str) -> str:
    """The plane, and beside it once they are known the ways back with their slider."""
    slopes = ""
    if result.places is not None and result.arrows is not None:
        slopes = f'<path class="slopes" d="{_slopes(result.places, result.arrows)}"/>'
    start = _points(result.target[:1]).split(",")
    inside = (
        f'{slopes}<polyline class="drawn" points="{_points(result.target)}"/>'
        f'<polyline class="there" points="{_points(result.trajectory)}"/>'
        + "".join(_way(way) for way in result.ways if way.method != "on_grid")
        + f'<circle class="start" cx="{start[0]}" cy="{start[1]}" r="10"/>'
    )
    return _flow(inside, _beside(result.ways) if result.ways else "", drawing, field, run)


def _flow(inside: str, beside: str, drawing: str, field: str, run: str) -> str:
    return (
        f'<div class="flow" data-drawing="{escape(drawing)}" data-field="{field}" data-run="{run}">'
        f'<figure class="board"><svg viewBox="0 0 {SIDE} {SIDE}" tabindex="0" role="application" '
        f'aria-label="{SAID}">{inside}</svg></figure><div>{beside}</div></div>'
    )


# ---------------------------------------------------------------------- the plane


def _points(states: np.ndarray) -> str:
    """States `n 2` as places of the figure; those far outside stay at its edge."""
    kept = np.clip(states, -2 * REACH, 2 * REACH)
    x, y = (1 + kept[:, 0] / REACH) / 2 * SIDE, (1 - kept[:, 1] / REACH) / 2 * SIDE
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _slopes(places: np.ndarray, slopes: np.ndarray) -> str:
    """A stroke with a head for each slope, the longest as long as the grid is wide."""
    longest = float(np.percentile(np.linalg.norm(slopes, axis=1), 90)) or 1.0
    size = np.linalg.norm(slopes, axis=1, keepdims=True)
    along = slopes * np.minimum(0.2 / longest, 0.2 / np.maximum(size, 1e-12))
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    tips = places + along
    strokes = (places, tips, tips - 0.3 * along + 0.18 * across, tips - 0.3 * along - 0.18 * across)
    drawn = zip(*(_points(one).split(" ") for one in strokes), strict=True)
    return "".join(f"M{a}L{b}M{c}L{b}L{d}" for a, b, c, d in drawn)


def _way(way: "WayBack") -> str:
    """A way back with the state that the slider stands at."""
    states = _points(way.back)
    x, y = states.split(" ")[-1].split(",")
    return (
        f'<g class="way {_kind(way)}" data-back="{states}"><polyline points="{states}"/>'
        f'<circle cx="{x}" cy="{y}" r="6.5"/></g>'
    )


def _kind(way: "WayBack") -> str:
    return "heun" if way.method == "heun" else "ours"


# ---------------------------------------------------------------------- beside it


def _beside(ways: "Sequence[WayBack]") -> str:
    last = max(len(way.misses) for way in ways) - 1
    times = [f"{k / last:.2f}" for k in range(last + 1)]
    rows = [Bar(way.title, _padded(way.misses, last + 1), way.method != "heun") for way in ways]
    off = Group("How far from its own track", rows, bars.told_error, log=True, ends=(FARTHEST, 1.0))
    return bars.grow("time", times, [off], at=0) + KEY + _lens(ways)


def _padded(misses: np.ndarray, count: int) -> list[float | None]:
    """By time, from the start; one that left all bounds was never at the later ones."""
    return [float(miss) for miss in reversed(misses)] + [None] * (count - len(misses))


def _lens(ways: "Sequence[WayBack]") -> str:
    """The distances as directions, magnified alike; none where the plane itself shows them."""
    offs = [(way, way.back - way.trajectory[::-1]) for way in ways if _is_whole(way)]
    farthest = max((float(np.abs(off).max()) for _, off in offs), default=1.0)
    per_unit = SIDE / (2 * REACH)
    times = float(f"{RADIUS / max(farthest, 1e-9) / per_unit:.2g}")
    if times < LEAST_MAGNIFIED:
        return ""
    dots = "".join(_dot(way, off * times * per_unit) for way, off in offs)
    middle = LENS / 2
    return (
        f'<figure class="lens"><svg viewBox="0 0 {LENS} {LENS}" aria-hidden="true">'
        f'<circle class="rim" cx="{middle}" cy="{middle}" r="{middle - 1}"/>'
        f'<path class="cross" d="M0 {middle}H{LENS}M{middle} 0V{LENS}"/>{dots}</svg>'
        f"<figcaption>The same through a lens, magnified {times:,.10g} times: the middle is the "
        "track.</figcaption></figure>"
    )


def _is_whole(way: "WayBack") -> bool:
    return way.method != "on_grid" and len(way.back) == len(way.trajectory)


def _dot(way: "WayBack", offs: np.ndarray) -> str:
    x, y = LENS / 2 + offs[:, 0], LENS / 2 - offs[:, 1]
    states = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<g class="way {_kind(way)}" data-back="{states}">'
        f'<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="5"/></g>'
    )


# ---------------------------------------------------------------------- for Home

PICTURE, WAY = 96, 1.5


def there_and_back(count: int, frames: int) -> list[tuple[int, int]]:
    """How many states of the way there and of the way back each frame shows."""
    half = np.linspace(0, count - 1, frames // 2).round().astype(int)
    return [(int(k), 0) for k in half] + [(count - 1, int(k) + 1) for k in half]


def picture(path: np.ndarray, back: np.ndarray) -> np.ndarray:
    """A small picture `h w 3`: the way there, and over it in the other colour the way back."""
    paper = np.full((PICTURE, PICTURE, 3), (250, 249, 245), np.uint8)
    for states, colour, width in ((path, FORWARD, 3), (back, BACKWARD, 1.8)):
        if len(states):
            paper[_near(states, width)] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return paper


def _near(states: np.ndarray, width: float) -> np.ndarray:
    """The pixels within half a width of a line through the states."""
    fine = np.linspace(0, len(states) - 1, 24 * len(states))
    line = np.stack([np.interp(fine, np.arange(len(states)), axis) for axis in states.T], 1)
    places = (line * (1, -1) / WAY + 1) / 2 * (PICTURE - 1)
    grid = np.stack(np.meshgrid(*[np.arange(PICTURE)] * 2), -1).reshape(-1, 1, 2)
    distance = np.linalg.norm(grid - places, axis=-1).min(1)
    return (distance <= width).reshape(PICTURE, PICTURE)
