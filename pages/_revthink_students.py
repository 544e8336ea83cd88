"""What students of RevThink know: matrices of relations, and rates by their standing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pages import _markup as markup
from pages._look import ASSETS
from pages._markup import Html, escape

if TYPE_CHECKING:
    from engine.verifying.revthink.results import (
        Point,
    )


MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()

WORLDS = {"year": MONTHS, "week": "mon tue wed thu fri sat sun".split()}

STANDINGS = {
    "asked": "asked in training",
    "inverse": "its inverse was asked",
    "around": "its way around the year was asked",
    "new": "no relative was asked",
}

HEADS = {"asked": "asked", "test": "test, all", "inverse": "inverse asked"}

SHOWN_ARMS = ("sft", "ansaug", "revthink", "revthink+ansaug")

CSS = (ASSETS / "panels" / "revthink.css").read_text("utf-8")


def first_look() -> str:
    """The matrix before anyone was asked."""
    titles = ("SFT", "Answer augmentation", "RevThink")
    empty = "".join(
        f"<section><h3>{title}</h3>{matrix(None, ('unasked',) * 264, title)}</section>"
        for title in titles
    )
    return (
        '<p class="note">264 relations: a month, and how far to go. One cell each.</p>'
        f'<div class="pupils">{empty}</div>{legend()}'
    )


def legend() -> str:
    items = "".join(f'<span><i class="{key}"></i>{text}</span>' for key, text in STANDINGS.items())
    return f'<p class="key">{items}<span>✓ and full colour: answered right</span></p>'


def matrix(
    right: Sequence[bool] | np.ndarray | None,
    standings: Sequence[str],
    title: str,
    asked: Sequence[bool] | np.ndarray | None = None,
    names: Sequence[str] = (),
) -> str:
    """Start by shift, a cell a relation: coloured by its standing, full and ticked if right."""
    names = names or MONTHS
    wide = 2 * (len(names) - 1)
    cells = []
    for index in range(len(names) * wide):
        row, column = divmod(index, wide)
        x, y = 22 + 10 * column + 4 * (column >= wide // 2), 10 * row
        is_right = right is not None and index < len(right) and bool(right[index])
        kind = standings[index] if index < len(standings) else "new"
        if asked is not None and not asked[index]:
            kind = "unasked"
        on = " on" if is_right else ""
        cells.append(f'<rect class="{kind}{on}" x="{x}" y="{y}" width="9" height="9"/>')
        if is_right:
            cells.append(f'<path d="M{x + 2} {y + 4.6}l2 2 3.2-4"/>')
    labels = [f'<text x="0" y="{10 * i + 7}">{escape(n[:4])}</text>' for i, n in enumerate(names)]
    edge = len(names) - 1
    for column, text in ((0, -edge), (edge - 1, -1), (edge, "+1"), (wide - 1, f"+{edge}")):
        x = 26 + 10 * column + 4 * (column >= wide // 2)
        labels.append(f'<text x="{x}" y="{10 * len(names) + 7}" text-anchor="middle">{text}</text>')
    count = 0 if right is None else int(sum(map(bool, right)))
    alt = f"{title}: {count} of {len(names) * wide} relations answered right, by start and shift"
    return (
        f'<svg class="grid" viewBox="0 0 {30 + 10 * wide} {10 * len(names) + 10}" role="img" '
        f'aria-label="{escape(alt)}">{"".join(cells)}{"".join(labels)}</svg>'
    )


def rates_table(rows: Sequence[tuple[str, Sequence[tuple[str, float, int]]]]) -> str:
    """Accuracy by standing, one row a student."""
    if not rows or not rows[0][1]:
        return ""
    counts = {part: count for part, _, count in rows[0][1]}
    head = [f"{HEADS.get(part, part)} ({count})" for part, count in counts.items()]
    body = [
        [title, *(_percent(share, count) for _, share, count in rates)] for title, rates in rows
    ]
    return markup.titled(
        "Where the gain is",
        "Share answered right, by how the test relations stand to the questions that were asked.",
    ) + markup.table(["student", *head], body)


def _percent(share: float, count: int) -> str:
    return f"{100 * share:.0f} %" if count else "none"


def interval(point: "Point") -> Html:
    if point.seeds < 2:
        return Html(f"{100 * point.mean:.0f} % <span class='note'>one seed</span>")
    low, high = in_percent(point.low), in_percent(point.high)
    return Html(f"{100 * point.mean:.0f} % <span class='note'>{low:.0f}–{high:.0f}</span>")


def in_percent(share: float) -> float:
    """An end of an interval in per cent; Student's t does not know that shares stay in 0 to 1."""
    return 100 * min(max(share, 0.0), 1.0)
