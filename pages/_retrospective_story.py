"""The story of an answer: what is said, doubted and taken back, and what it cost."""

import csv
import io
import json
import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import quote

from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._markup import escape
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.metrics.hallucination import Rates
    from engine.verifying.retrospective_resampling.results import (
        Piece,
        Telling,
    )


LOWEST_TAU = 1e-5

LONGEST_RUN_SHOWN = 4

MOST_DOUBTS_SHOWN = 16

FIRST_STORY = (
    '<p class="note">Ask, and watch the model speak: what it keeps, what it doubts, and what it '
    "takes back.</p>"
)


def draw(result: "Telling", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """What lies there and what is seen; the words; the doubts; the length of the answer."""
    story = words_note(result) + story_html(result, ended)
    if not ended:
        return pictures(result), story, doubts_html(result)
    plot = heights_plot(result.heights)
    said = verdict(result) + story + figures(result) + exports(result, recipe)
    return pictures(result), said, doubts_html(result), plots.shown(plot)


def unsaid(result: "Telling", recipe: Recipe) -> Number | None:
    """The share of named things that are not there, never going back and taking back."""
    if result.before is None or result.before.rates is None or result.rates is None:
        return None
    shares = [f"{100 * rates.chair_i:.0f} %" for rates in (result.before.rates, result.rates)]
    return Number("named things that are not there", shares[1], shares[0])


def pictures(result: "Telling") -> str:
    """The tray in good light, which the model never sees, and what it does see."""
    seen = Shot("What the model sees", result.picture, "the picture as the model sees it")
    if result.clean is None:
        return parts.shots([seen])
    lies = ", ".join(result.present) if result.present else "nothing"
    clean = Shot("What lies there", result.clean, f"the tray in good light: {lies}", (lies,))
    return parts.shots([clean, seen])


def words_note(result: "Telling") -> str:
    """A line about words of the question that the model never saw."""
    return markup.notes(result.unknown_words) if result.unknown_words else ""


def verdict(result: "Telling") -> str:
    """Both answers: of the model that never goes back, and of the one that did."""
    assert result.before is not None
    rows = [("never going back", result.before.text, result.before.rates, "forward")]
    rows += [("taking back what it doubts", result.text, result.rates, "backward")]
    cells = "".join(
        f'<div><dt class="{tone}">{escape(title)}</dt>'
        f"<dd>{escape(text) or '<i>says nothing</i>'}</dd>{rates_line(rates)}</div>"
        for title, text, rates, tone in rows
    )
    gave_up = (
        ""
        if result.success
        else '<p class="note">It gave up: no answer without a doubted phrase came within the '
        "tries. What stands is given.</p>"
    )
    return f'<dl class="answers">{cells}</dl>{gave_up}'


def rates_line(rates: "Rates | None") -> str:
    """The exact CHAIR and cover of one answer, where the truth is known."""
    if rates is None:
        return ""
    wrong, named = (f"{100 * rate:.0f} %" for rate in (rates.chair_i, rates.cover))
    return (
        f'<dd class="note">{wrong} of what it names is not there (CHAIR) · '
        f"it names {named} of what is (cover)</dd>"
    )


# ---------------------------------------------------------------------- the words


def story_html(result: "Telling", ended: bool) -> str:
    """All that was said, in order, with what was taken back struck through."""
    runs: list[list[list[Piece]]] = []
    for key, group in groupby(result.pieces, lambda piece: (piece.phrase, piece.struck)):
        pieces = list(group)
        struck = key[1] > 0
        if runs and struck and runs[-1][-1][-1].struck > 0:
            runs[-1].append(pieces)
        else:
            runs.append([pieces])
    told = []
    for run in runs:
        if len(run) > 2 * LONGEST_RUN_SHOWN:
            left = sum(1 for _ in run[LONGEST_RUN_SHOWN:-LONGEST_RUN_SHOWN])
            told += [_said(one, result) for one in run[:LONGEST_RUN_SHOWN]]
            told.append(f'<span class="note">… {left} more pieces taken back …</span>')
            told += [_said(one, result) for one in run[-LONGEST_RUN_SHOWN:]]
        else:
            told += [_said(one, result) for one in run]
    final = " data-final" if ended else ""
    steps = len(result.heights) - 1
    return (
        f'<div class="story" data-steps="{steps}"{final}><p>{" ".join(told)}</p>'
        '<p class="note legend"><span class="kept">a cat</span> grounded · '
        '<span class="doubted">a dog?</span> suspected · <del>a dog</del> taken back; small '
        "numbers are P(UN)</p></div>"
    )


def _said(pieces: "Sequence[Piece]", result: "Telling") -> str:
    """Words of one phrase, or between two, with the steps at which they came and went."""
    first, last = pieces[0], pieces[-1]
    judged = result.phrases[first.phrase] if 0 <= first.phrase < len(result.phrases) else None
    inner = " ".join(
        f'<span data-born="{piece.born}" data-struck="{piece.struck}">{escape(piece.text)}</span>'
        for piece in pieces
        if piece.text
    )
    if judged is None:
        return f"<del>{inner}</del>" if first.struck > 0 else inner
    doubt = f"<sup>{judged.p_un:.2g}</sup>"
    if first.struck > 0:
        return (
            f'<del data-born="{first.born}" data-struck="{first.struck}" '
            f'data-closed="{last.born}">{inner}{doubt}</del>'
        )
    kind = "kept" if judged.p_un <= result.tau else "doubted"
    return f'<span class="{kind}" data-born="{first.born}" data-struck="-1">{inner}{doubt}</span>'


def doubts_html(result: "Telling") -> str:
    """P(UN) of every phrase as a bar on a logarithmic scale, with the line of tau."""
    if not result.phrases:
        return ""
    # A phrase that fails several times in a row is one line.
    told = [list(group) for _, group in groupby(result.phrases, lambda p: (p.text, p.stands))]
    shown = told[-MOST_DOUBTS_SHOWN:]
    rows = []
    for group in shown:
        one = group[-1]
        times = f" ×{len(group)}" * (len(group) > 1)
        sign, said = ("✓", "stands") if one.stands else ("↩", "taken back")
        truth = "" if one.is_true is None else " · true" if one.is_true else " · not there"
        rows.append(
            f'<li class="{"stands" if one.stands else "gone"}"><span class="word">{sign} '
            f'{escape(one.text)}{times}</span><span class="bar" style="--p:{place(one.p_un):.1f}%">'
            f'<i></i></span><span class="note">{one.p_un:.2g} · {said}{truth}</span></li>'
        )
    left = len(told) - len(shown)
    more = f'<p class="note">The latest; {left} came before.</p>' if left else ""
    return (
        f'<section class="doubts" style="--tau:{place(result.tau):.1f}%" '
        f'aria-label="Doubt of each phrase"><h3>Its doubt, phrase by phrase</h3>'
        f'<p class="note">P(UN) from {markup.figure(LOWEST_TAU)} to 1, logarithmic; '
        f"the line is tau = {result.tau:g}</p><ol>{''.join(rows)}</ol>{more}</section>"
    )


def place(p_un: float) -> float:
    """Where a probability stands on the logarithmic scale, in per cent of its length."""
    return 100 * (1 - math.log10(max(p_un, LOWEST_TAU)) / math.log10(LOWEST_TAU))


# ---------------------------------------------------------------------- cost and files


def figures(result: "Telling") -> str:
    """What it cost, and how exactly what was taken back is gone."""
    cost = result.cost
    assert cost is not None  # a run that ended has its cost
    rows = {
        "tokens said": cost.generated_tokens,
        "tokens through the network": cost.forward_tokens,
        "the published loop, at least": cost.official_at_least,
        "tries": cost.attempts,
        "taken back": cost.backtracks,
    }
    undone = ""
    if result.never_said is not None:
        undone = markup.notes(
            "Against a model that never said what was taken back, its state "
            f"agrees {result.never_said}."
        )
    return markup.figures(rows) + undone


def exports(result: "Telling", recipe: Recipe) -> str:
    """Confidence of every phrase as JSON and as a CSV to be labelled, and the tagged answer."""
    phrases = [
        {
            "phrase": one.text,
            "p_un": one.p_un,
            "stands": one.stands,
            "grounded": one.is_true,
            "attempt": one.attempt,
            "temperature": one.temperature,
        }
        for one in result.phrases
    ]
    document = {
        "question": result.question,
        "answer": result.text,
        "tagged": result.tagged,
        "tau": result.tau,
        "model": recipe.model.source if recipe.model else "",
        "phrases": phrases,
        "recipe": json.loads(recipe.json()),
    }
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["phrase", "p_un", "grounded"])
    for one in result.phrases:
        known = "" if one.is_true is None else "yes" if one.is_true else "no"
        writer.writerow([one.text, repr(one.p_un), known])
    links = (
        ("confidence.json", "application/json", json.dumps(document, indent=1), "Save confidence"),
        ("phrases.csv", "text/csv", table.getvalue(), "Save phrases as CSV, to label"),
        ("answer.txt", "text/plain", result.tagged + "\n", "Save tagged answer"),
    )
    return '<p class="save">' + " ".join(
        f'<a class="quiet" download="{name}" href="data:{kind},{quote(text)}">{said}</a>'
        for name, kind, text, said in links
    ) + "</p>"  # fmt: skip


def heights_plot(heights: Sequence[int]) -> PlotData:
    """The length of the answer over the steps: every fall is something taken back."""
    steps = list(range(len(heights)))
    falls = [k for k in steps[1:] if heights[k] < heights[k - 1]]
    lines = [Line("length of the answer", steps, heights, 0, marks=False)]
    lines += [
        Line(
            "taken back",
            [k - 1, k],
            [heights[k - 1], heights[k]],
            backward=True,
            hover=[f"{heights[k - 1] - heights[k]} tokens taken back"] * 2,
        )
        for k in falls
    ]
    figure = plots.curves(lines, "step", "tokens that stand", height=220)
    document = json.loads(figure.plot)
    for trace in document["data"][2:]:
        trace["showlegend"] = False
    return PlotData(type="plotly", plot=json.dumps(document))
