"""How few questions will do: the curves of RevThink, their table and what they show."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradio.components.plot import PlotData

from pages import _markup as markup
from pages import _plots as plots
from pages._plots import Line
from pages._revthink_students import HEADS, SHOWN_ARMS, in_percent, interval

if TYPE_CHECKING:
    from engine.verifying.revthink.results import (
        Efficiency,
        Point,
    )


CYCLES = {"month": ("months", 12), "day": ("days of the week", 7)}


def efficiency_note(result: "Efficiency | None") -> str:
    """What the curves below are of, and what they show."""
    if result is None:
        return ""
    shares = sorted({p.fraction for p in result.points})
    asked = ", ".join(f"{share * result.pool:.0f}" for share in shares)
    about, names = CYCLES[result.world]
    title = markup.titled(
        "How few questions will do",
        f"Share of the {result.test} test relations answered, by the share of the {result.pool} "
        f"questions that were asked ({asked}), here about {about}. Mean over {result.seeds} seeds; "
        "shaded, its 95 % interval.",
    )
    note = markup.notes(
        f"{result.seeds} students of each method at each share, from nothing: "
        f"{result.weights} weights, {result.sequences} sequences in {result.steps} steps, whatever "
        "the share. They are those that are trained live below, so any point can be tried there. "
        f"All of them took {result.seconds / 60:.0f} minutes ({result.machine})."
    )
    return f"{title}{_efficiency_verdict(result.points, shares, 1 / names)}{note}"


def efficiency_table(result: "Efficiency | None") -> str:
    """All numbers of the curves, and of the other standings, for those who cannot see them."""
    if result is None:
        return ""
    own = {(p.arm, p.fraction, p.part): p for p in result.points}
    shares = sorted({p.fraction for p in result.points})
    rows: list[list[str]] = []
    for part, arm in itertools.product(HEADS, SHOWN_ARMS):
        points = [own.get((arm, share, part)) for share in shares]
        if any(points):
            title = next(p.title for p in points if p)
            cells = [interval(p) if p else "none" for p in points]
            rows.append([HEADS[part], title, *cells])
    head = ["relations", "student", *(f"{100 * share:.0f} %" for share in shares)]
    table = markup.table(head, rows, "The curves in numbers")
    return f"<details><summary>The curves in numbers</summary>{table}</details>"


def _efficiency_verdict(points: "Sequence[Point]", shares: Sequence[float], guess: float) -> str:
    """Where RevThink lies above SFT by their means, where by their intervals, and what a guess is
    worth."""
    own = {(p.arm, p.fraction, p.part): p for p in points}
    pairs = [(s, own.get(("revthink", s, "test")), own.get(("sft", s, "test"))) for s in shares]
    both = [(share, rev, sft) for share, rev, sft in pairs if rev and sft]
    above = [f"{100 * share:.0f}" for share, rev, sft in both if rev.mean > sft.mean]
    apart = [f"{100 * share:.0f}" for share, rev, sft in both if rev.low > sft.high]
    if not both:
        return ""
    said = (
        f"RevThink lies above SFT at {_listed(above)} of the questions, and its interval above "
        f"that of SFT at {_listed(apart)}."
    )
    few, whole = both[0][1], both[-1][2]
    said += (
        f" With {100 * shares[0]:.0f} % of the questions it answers {100 * few.mean:.1f} % of the "
        f"test; SFT with all of them {100 * whole.mean:.1f} %. A guess is right in "
        f"{100 * guess:.0f} %: RevThink passes that at "
        f"{_listed([f'{100 * s:.0f}' for s, rev, _ in both if rev.mean > guess])}."
    )
    learnt = own.get(("revthink", shares[-1], "asked"))
    if learnt and learnt.mean < 0.95:
        said += (
            f" With all of them RevThink has not finished: of what it was asked it answers "
            f"{100 * learnt.mean:.0f} %."
        )
    return f'<p class="verdict">{said}</p>'


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) + " %" if names else "no share"


def efficiency_plot(result: "Efficiency | None", part: str) -> PlotData | None:
    """Accuracy by share of the questions, a curve a method over the band of its interval."""
    points = [] if result is None else [p for p in result.points if p.part == part]
    lines = []
    for place, arm in enumerate(SHOWN_ARMS):
        own = [p for p in points if p.arm == arm]
        if not own:
            continue
        hover = [
            f"{p.title}, {100 * p.fraction:.0f} % of the questions: {100 * p.mean:.1f} % "
            f"({in_percent(p.low):.1f} to {in_percent(p.high):.1f}), {p.seeds} seeds"
            for p in own
        ]
        x, y = [100 * p.fraction for p in own], [100 * p.mean for p in own]
        band = [in_percent(p.low) for p in own], [in_percent(p.high) for p in own]
        is_rev = arm == "revthink"
        lines.append(Line(own[0].title, x, y, place, is_rev, False, hover, band=band))
    if result is None or not lines:
        return None
    guess = 100 / CYCLES[result.world][1]
    ends = [min(line.x[0] for line in lines), max(line.x[-1] for line in lines)]
    said = [f"a guess: {guess:.1f} %"] * 2
    lines.append(Line("a guess", ends, [guess] * 2, neutral=True, hover=said, marks=False))
    title = "test relations, %" if part == "test" else "those of asked inverse, %"
    return plots.curves(lines, "share of the questions asked, %", title, height=320)
