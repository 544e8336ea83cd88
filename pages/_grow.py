"""Bars that grow as one slider is dragged, beside those that stand still.

    grow("blocks", ["2", "8", "32"], [
        Group("Bytes kept", [
            Bar("plain autograd", [4.9e6, 1.9e7, 8e7]),
            Bar("reversible", [2.6e5, 2.6e5, 2.6e5], backward=True),
        ], told=told_bytes, log=True),
    ])

Every value is in the page, computed; the slider only picks which of them are shown (rewind.js), so
that it can be dragged as fast as one likes. A bar of a logarithmic group grows by the same length
for each factor, and says so beside its title.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pages import _markup as markup
from pages._look import BACKWARD, FORWARD
from pages._markup import escape

Told = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    """One value for each position; None where there is none."""

    name: str
    values: Sequence[float | None]
    backward: bool = False
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Bars on one scale; `limit` is a line across all of them, with its name.

    `half` groups stand two in a row, to be compared line by line; their names are short.
    """

    title: str
    bars: Sequence[Bar]
    told: Told
    log: bool = False
    ends: tuple[float, float] | None = None
    limit: tuple[float, str] | None = None
    half: bool = False


def grow(what: str, positions: Sequence[str], groups: Sequence[Group], at: int = -1) -> str:
    """The bars at position `at`, and the slider over all positions."""
    at %= len(positions)
    drawn = "".join(_group(group, at) for group in groups)
    return f'<div class="grow">{_slider(what, positions, at)}{drawn}</div>'


def told_bytes(size: float) -> str:
    """A number of bytes as people read it: 256 KiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 100 or unit == "bytes" else f"{size:.3g} {unit}"


def told_error(error: float) -> str:
    """A relative error to one digit, as people write it: 0.02, or 5 × 10⁻⁷ where it is tiny."""
    return markup.figure(error)


def told_share(share: float) -> str:
    """A share in percent."""
    return markup.percent(share, 1)


# ---------------------------------------------------------------------- a film for Home

SIDE, EDGE = 96, 8  # of its pictures, in pixels
PAPER, RAIL = (250, 249, 245), (243, 240, 233)


def film(group: Group) -> list[np.ndarray]:
    """The bars of a group at each position, as pictures `n n 3` small enough for Home."""
    ends, count = _ends(group), max(len(bar.values) for bar in group.bars)
    return [_drawn(group, ends, at) for at in range(count)]


def _drawn(group: Group, ends: tuple[float, float], at: int) -> np.ndarray:
    picture = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    tall = (SIDE - 2 * EDGE) // len(group.bars)
    for place, bar in enumerate(group.bars):
        rows = slice(EDGE + place * tall, EDGE + (place + 1) * tall - max(2, tall // 4))
        picture[rows, EDGE : SIDE - EDGE] = RAIL
        value = bar.values[at]
        if value is not None:
            wide = max(2, round(_share(value, group, ends) * (SIDE - 2 * EDGE)))
            colour = BACKWARD if bar.backward else FORWARD
            picture[rows, EDGE : EDGE + wide] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return picture


# ---------------------------------------------------------------------- markup


def _slider(what: str, positions: Sequence[str], at: int) -> str:
    if len(positions) < 2:
        return ""
    name, told = escape(what), escape(json.dumps(list(positions)))
    return (
        '<div class="scrubber">'
        f'<button type="button" class="round backward" data-way="-1" aria-label="Fewer {name}">◀'
        f'</button><input type="range" min="0" max="{len(positions) - 1}" step="1" value="{at}" '
        f'aria-label="{name}" aria-valuetext="{escape(positions[at])}" data-grow=\'{told}\'>'
        f"<output>{name}: <b>{escape(positions[at])}</b></output>"
        f'<button type="button" class="round forward" data-way="1" aria-label="More {name}">▶'
        "</button></div>"
    )


def _group(group: Group, at: int) -> str:
    low, high = _ends(group)
    rows = "".join(_bar(bar, group, (low, high), at) for bar in group.bars)
    scale = ""
    if group.log and any(value is not None for bar in group.bars for value in bar.values):
        scale = f"{group.told(low)} to {group.told(high)}, logarithmic"
    line = ""
    if group.limit is not None:
        share = _share(group.limit[0], group, (low, high))
        line = f'<p class="limit" style="--at:{share:.3f}">{escape(group.limit[1])}</p>'
    return (
        f"<section{' class=half' * group.half}><h4>{escape(group.title)} "
        f'<span class="note">{escape(scale)}</span></h4>'
        f"{line}<ol>{rows}</ol></section>"
    )


def _bar(bar: Bar, group: Group, ends: tuple[float, float], at: int) -> str:
    shares = [None if v is None else round(_share(v, group, ends), 4) for v in bar.values]
    told = ["" if v is None else group.told(v) for v in bar.values]
    sign = '<span class="mark" aria-hidden="true">◀</span> ' if bar.backward else ""
    note = f' <span class="note">{escape(bar.note)}</span>' if bar.note else ""
    return (
        f'<li{" class=back" if bar.backward else ""} data-shares="{escape(json.dumps(shares))}" '
        f'data-told="{escape(json.dumps(told))}"><span>{sign}{escape(bar.name)}{note}</span>'
        f'<i style="--share:{shares[at] or 0}"></i><b>{escape(told[at])}</b></li>'
    )


def _ends(group: Group) -> tuple[float, float]:
    """The scale: from a power of two to another where it is logarithmic, from zero elsewhere."""
    if group.ends is not None:
        return group.ends
    values = [value for bar in group.bars for value in bar.values if value]
    values += [group.limit[0]] if group.limit else []
    if not group.log:
        return 0.0, max(values, default=1.0)
    low, high = min(values, default=1.0), max(values, default=10.0)
    return 2.0 ** math.floor(math.log2(low) - 1), 2.0 ** math.ceil(math.log2(high))


def _share(value: float, group: Group, ends: tuple[float, float]) -> float:
    low, high = ends
    if group.log:
        value = max(value, low)
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(max((value - low) / (high - low), 0.0), 1.0)
