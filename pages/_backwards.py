"""The figure of everything that runs backwards: how exactly it comes back, and what it keeps.

It is drawn as SVG, so that Home and the page itself show it without a script; each point is a link
to the panel that it was measured with.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from engine.core.catalog import Catalog
from pages import _markup as markup
from pages._look import ASSETS
from pages._markup import Html, escape

if TYPE_CHECKING:
    from engine.networks import _backwards as measured

ROUTE = "backwards"
RECORD = ASSETS / "backwards.json"

WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 150, 24, 48, 52
LEAST_KEPT, LEAST_ERROR, BITS = 5e-3, 1e-17, 1e-19  # where "every bit" is drawn
LANES = (
    (BITS, "every bit"),
    (1e-15, "round-off, float64"),
    (1e-7, "round-off, float32"),
    (1e-3, "approximately"),
    (1.0, "another one"),
)


@dataclass(frozen=True)
class Recorded:
    """A point of the record."""

    title: str
    how: str
    method: str
    action: str
    exactness: str
    error: float
    equal_bits: float
    kept: float
    note: str


# A point as it was measured just now, or as it was recorded.
Way: TypeAlias = "measured.Way | Recorded"


def recorded() -> tuple[Recorded, ...]:
    """The points as they were measured last; none where the file is missing."""
    try:
        held = json.loads(RECORD.read_text("utf-8"))
        return tuple(Recorded(**one) for one in held["ways"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def small(catalog: Catalog) -> str:
    """The figure for Home, with its sentence; nothing where nothing is recorded."""
    known = recorded()
    if not known:
        return ""
    return (
        '<section class="family"><div>'
        f'<h2><a href="{ROUTE}">Everything, in one view</a></h2>'
        "<p>How exactly it comes back, against what is kept for it. Each point was measured with "
        "the code of its panel, and leads there.</p></div>"
        f"<div>{figure(known, catalog)}</div></section>"
    )


# ---------------------------------------------------------------------- the figure


def figure(ways: Sequence[Way], catalog: Catalog) -> str:
    """All points: what is kept to the right, the error upwards, both in powers of ten."""
    points = "".join(_point(way, height, catalog) for way, height in _apart(ways))
    told = "; ".join(f"{way.title}: {comes_back(way)}, keeps {way.kept:.1%}" for way in ways)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Error against what is kept">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(told)}" '
        'style="min-width:620px;width:100%;max-width:980px;font:13px Plex,system-ui,sans-serif">'
        f"{_axes()}{points}</svg></div>"
    )


def _axes() -> str:
    """Lanes of exactness from below upwards, and shares of memory along the foot."""
    parts = []
    for error, name in LANES:
        y = _y(error)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.0f}" y2="{y:.0f}" '
            'style="stroke:var(--rule)"/>'
            f'<text x="{LEFT - 12}" y="{y + 4:.0f}" text-anchor="end" style="fill:var(--muted)">'
            f"{escape(name)}</text>"
        )
    foot = HEIGHT - BOTTOM + 22
    for share, name in ((0.01, "1 %"), (0.1, "10 %"), (1.0, "all of it")):
        parts.append(
            f'<text x="{_x(share):.0f}" y="{foot}" text-anchor="middle" '
            f'style="fill:var(--muted)">{name}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle" '
        'style="fill:var(--ink)">kept to come back, as a share of keeping every state</text>'
        f'<text x="{LEFT}" y="16" style="fill:var(--ink)">how far from what it was</text>'
    )
    return "".join(parts)


def _point(way: Way, label: float, catalog: Catalog) -> str:
    """A mark with its name, which leads to the panel: filled where it comes back, else a ring."""
    x, y = _x(way.kept), _y(drawn_error(way))
    back = way.error < 1e-5
    fill = "var(--backward)" if back else "var(--paper)"
    edge = "var(--backward)" if back else "var(--forward)"
    to_left = x > WIDTH - 240
    place = f'x="{x - 12:.0f}" text-anchor="end"' if to_left else f'x="{x + 12:.0f}"'
    mark = (
        f"<title>{escape(f'{way.title}: {way.how}; {comes_back(way)}')}</title>"
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" style="fill:{fill};stroke:{edge};'
        'stroke-width:2.5"/>'
        f'<text {place} y="{label + 4:.1f}" style="fill:var(--ink);font-weight:600">'
        f"{escape(way.title)}</text>"
    )
    return _linked(way, mark, catalog)


def _linked(way: Way, markup_: str, catalog: Catalog) -> str:
    """The markup as a link to the panel of a way, where there is that panel."""
    if (address := address_of(way, catalog)) is None:
        return markup_
    return f'<a href="{escape(address)}">{markup_}</a>'


def address_of(way: Way, catalog: Catalog) -> str | None:
    """Where the panel of a way opens; None where this server shows none."""
    entry = catalog.get(way.method)
    if entry is None:
        return None
    route = entry.card.family.route.strip("/")
    return f"{route}?method={entry.name}&action={way.action}"


def _apart(ways: Sequence[Way]) -> Iterator[tuple[Way, float]]:
    """The height of each name: at its point, or some lines below or above where one is near."""
    marks = [(_x(way.kept), _y(drawn_error(way))) for way in ways]
    taken: list[tuple[float, float]] = []
    for way, (x, y) in zip(ways, marks, strict=True):
        beyond = x + 12 + 8 * len(way.title)
        under = [high for at, high in marks if x < at < beyond]
        for lines in (0, 1, -1, 2, -2, 3):
            free = y + 16 * lines
            near = (abs(x - at) < 180 and abs(free - high) < 15 for at, high in taken)
            if not any(near) and all(abs(free - high) > 12 for high in under):
                break
        taken.append((x, free))
        yield way, free


def drawn_error(way: Way) -> float:
    """The error as it is drawn: where every bit agrees, below all that round off."""
    return BITS if way.error == 0 else min(max(way.error, LEAST_ERROR), 1.0)


def _x(kept: float) -> float:
    share = math.log(min(max(kept, LEAST_KEPT), 1) / LEAST_KEPT) / math.log(1 / LEAST_KEPT)
    return LEFT + 20 + share * (WIDTH - LEFT - RIGHT - 60)


def _y(error: float) -> float:
    share = math.log(error / BITS) / math.log(1 / BITS)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


# ---------------------------------------------------------------------- the table


def table(ways: Sequence[Way], catalog: Catalog) -> str:
    """The same in numbers and words."""
    rows = [
        [
            Html(_linked(way, escape(way.title), catalog)),
            way.how,
            comes_back(way),
            f"{way.equal_bits:.0%}",
            f"{way.kept:.1%}",
            way.note,
        ]
        for way in ways
    ]
    head = ["what", "how", "comes back", "equal bits", "kept", "here"]
    return markup.table(head, rows, "Everything that runs backwards", heads=True)


def comes_back(way: Way) -> str:
    """How near it comes back, in words with the number."""
    if way.error == 0:
        return "bit for bit"
    return f"{way.exactness}, {way.error:.0e}"
