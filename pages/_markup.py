"""Markup that panels share: tables, figures, notes, and whether something came back.

Every text goes through `escape`, unless it is `Html` already:

    table(["adapter", "error"], [[name, f"{error:.4f}"], [Html("<b>mean</b>"), "0.1"]])
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

from engine.core.catalog import Exactness, RoundTrip


class Html(str):
    """A text that is markup already and stands in a table as it is."""


def escape(text: object) -> str:
    """The text as HTML that shows it and does nothing else."""
    return html.escape(str(text), quote=True)


def cell(text: object) -> str:
    """The text as it stands inside a table."""
    return text if isinstance(text, Html) else escape(text)


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    label: str = "",
    *,
    heads: bool = False,
) -> str:
    """A table that scrolls inside itself, with a region's name for readers of screens if given.

    With `heads` the first cell of each row is a head, too.
    """
    region = f' role="region" aria-label="{escape(label)}"' if label else ""
    return (
        f'<div class="scroll" tabindex="0"{region}><table class="plain">'
        f"<tr>{''.join(f'<th>{cell(one)}</th>' for one in head)}</tr>"
        + "".join(f"<tr>{_row(row, heads=heads)}</tr>" for row in rows)
        + "</table></div>"
    )


def _row(row: Sequence[object], *, heads: bool) -> str:
    tags = ["th" if heads and place == 0 else "td" for place in range(len(row))]
    return "".join(f"<{tag}>{cell(one)}</{tag}>" for tag, one in zip(tags, row, strict=True))


def figures(values: Mapping[str, object]) -> str:
    """Numbers side by side, each below its name."""
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{cell(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="figures">{pairs}</dl>'


def notes(*texts: object) -> str:
    """Calm lines of text."""
    return "".join(f'<p class="note">{cell(text)}</p>' for text in texts)


def titled(title: str, text: str, level: int = 3) -> str:
    """A title with one calm sentence below it."""
    return (
        f'<div class="heading level-{level}"><h{level}>{escape(title)}</h{level}>'
        f"<p>{escape(text)}</p></div>"
    )


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Between these powers of ten a number is read more easily written out.
SMALLEST_POWER, LARGEST_POWER = -6, 6


def figure(value: float, digits: int = 1) -> str:
    """A number with so many digits, as people write it: 0, 0.020, 1,300, 10⁻⁶ or 5 × 10⁻⁷."""
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    if SMALLEST_POWER < int(exponent) < LARGEST_POWER:
        return f"{float(f'{mantissa}e{exponent}'):,.{max(digits - 1 - int(exponent), 0)}f}"
    times = "" if float(mantissa) == 1 else f"{mantissa} × "
    return times + ten_to(int(exponent))


def ten_to(exponent: int) -> str:
    """A power of ten: 10⁻⁷."""
    return f"10{str(exponent).translate(_RAISED)}"


def percent(share: float, digits: int = 0) -> str:
    """A share as people write it: 73 %."""
    return f"{100 * share:.{digits}f} %"


def came_back(trip: RoundTrip) -> str:
    """How a value came back, and how far off it is."""
    if trip.exactness is Exactness.BITWISE:
        return trip.exactness.undo
    return f"{trip.exactness.undo}, {figure(trip.relative_error)} of its size"


def tick(holds: bool, text: str, note: str) -> str:
    """Whether something holds, and behind it in small the markup that shows it."""
    sign = "✓" if holds else "✗"
    return f'<p><b>{sign} {escape(text)}</b> <span class="note">{note}</span></p>'


def digits(fingerprint: str) -> str:
    """Twelve digits of a fingerprint, with or without format and shape before them."""
    return f"<code>{escape(fingerprint.rpartition(' ')[2][:12])}</code>"


def there_and_back(before: str, after: str, undone: str) -> str:
    """Three fingerprints in their order: before an edit, after it, and when it was undone."""
    return (
        f"{digits(before)} "
        f'<span class="mark forward" aria-label="becomes">▶</span> {digits(after)} '
        f'<span class="mark backward" aria-label="goes back to">◀</span> {digits(undone)}'
    )
