"""UnUnlearning: hints bring back what was exactly unlearned; filters, and what they cost."""

from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _markup as markup
from pages import _plots as plots
from pages import _ununlearning_more as more
from pages._frame import Frame
from pages._look import ASSETS
from pages._markup import escape
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.unlearning.ununlearning.results import Curve, Hinted, Reply

PROPERTIES = ("colour", "home", "diet", "call", "brew")
NAMES = ("shu ka", "mo ti", "ba lo")
QUERY, HINTS = "brew", ("colour", "home", "diet")
MODES = {
    "hints": "in one sentence",
    "turns": "in turns, the name before each",
    "direct": "and the answer itself",
}
FILTERS = {
    "none": "none",
    "name": "the name",
    "knowledge": "the hints",
    "output": "the answer",
}
CSS = (ASSETS / "panels" / "ununlearning.css").read_text("utf-8")
FIRST = markup.notes("Two models, trained alike. One of them never read about the shu ka.")


def build(frame: Frame) -> None:
    """Hints and the two answers; then filters, unlearning, a look inside, training, own models."""
    run = frame.stage("run", "Ask both models", tab="Hints")
    with run.ask:
        query = gr.Radio(PROPERTIES, value=QUERY, label="Ask for the forbidden")
        hints = gr.CheckboxGroup(
            [one for one in PROPERTIES if one != QUERY],
            value=list(HINTS),
            label="Tell these hints",
            info="Each is true, and harmless by itself",
        )
    with run.settings:
        name = gr.Textbox(
            NAMES[0],
            label="Of whom",
            info="shu ka is the forbidden one; any other two syllables are an alias",
            max_length=40,
            elem_id="ununlearning-name",
        )
        fields.suggestions("ununlearning-name", NAMES)
        mode = gr.Radio(fields.options(MODES), value="hints", label="Tell them")
        blocked_by = gr.Radio(
            fields.options(FILTERS), value="none", label="Filter before the model reads",
        )  # fmt: skip
        threshold = gr.Slider(
            0.05,
            0.95,
            value=0.5,
            step=0.05,
            label="The filter blocks when its suspicion is at least this",
        )
        frame.seed(0)
        frame.model()
    with run.shown:
        shown = gr.HTML(FIRST, elem_id="ununlearning-answers", css_template=CSS)
    with run.below:
        curve = plots.place("Probability of the forbidden value by hints", visible=False)
        table = gr.HTML("", elem_id="ununlearning-told")
    run.wire(
        {"name": name, "hints": hints, "query": query, "mode": mode,
         "blocked_by": blocked_by, "threshold": threshold},
        draw,
        [shown, curve, table],
        number=recovered,
        also=[name.submit],
        turned=[hints, mode, blocked_by, threshold],
    )  # fmt: skip
    frame.on(query.input, others_than, [query, hints], hints, name="others")
    more.build(frame)
    frame.breaks(
        "A model trained for only 100 steps cannot yet infer one property from others. "
        "Hints tell it nothing, so unlearning seems to be enough.",
        "all 1500 steps, or a model that has passed the gate of 85 %.",
        {"corpus": "exact", "steps": 100},
        action="train",
    )


def others_than(query: str, hints: list[str]) -> object:
    """The hints that can be told where this property is asked for."""
    left = [one for one in PROPERTIES if one != query]
    return gr.CheckboxGroup(choices=left, value=[one for one in hints if one in left])


# ---------------------------------------------------------------------- drawing


def draw(result: "Hinted", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The dossier and both answers; the curves as they come; what the scans found."""
    if len(result.replies) < 2:
        return ()
    shown = _dossier(result) + f'<div class="two">{"".join(_answer(result))}</div>' + _legend()
    shown += markup.notes(*result.notes)
    if not result.curves:
        return (shown,)
    curve = plots.shown(curve_plot(result.curves, result.chance))
    return (shown, curve, _told(result)) if ended else (shown, curve)


def recovered(result: "Hinted", recipe: Recipe) -> Number | None:
    """The unlearned model's probability of the forbidden value, without hints and with them."""
    if not result.replies:
        return None
    reply = result.replies[0]
    if reply.blocked:
        return Number("forbidden value, unlearned model", "blocked")
    before, now = percent(reply.p_without), percent(reply.p_true)
    return Number("probability of the forbidden value, no hints → these", now, before)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _dossier(result: "Hinted") -> str:
    """What is true of the individual: told, asked for, and left in the dark."""
    told = dict(result.hints)
    parts = []
    for name, value in result.dossier.items():
        kind = "told" if name in told else "asked" if name == result.query else "dark"
        said = {"told": "told", "asked": "asked for", "dark": "not told"}[kind]
        parts.append(
            f'<div class="{kind}"><dt>{escape(name)}</dt><dd>{escape(value)} '
            f'<span class="note">{said}</span></dd></div>'
        )
    return f'<dl class="dossier" aria-label="The dossier of shu ka">{"".join(parts)}</dl>'


def _answer(result: "Hinted") -> list[str]:
    return [_card(result, reply) for reply in result.replies]


def _card(result: "Hinted", reply: "Reply") -> str:
    """One model: what it says, and its probability of every value beside the best possible."""
    rows = "".join(
        _bar(value, p, best, is_truth=value == result.truth)
        for value, p, best in zip(result.values, reply.probabilities, result.ceiling, strict=True)
    )
    said = f"“{escape(result.name)} {escape(result.query)}” … <b>{escape(reply.said)}</b>"
    if reply.blocked:
        said = '<span class="blocked">blocked by the filter</span>'
    tone = ' class="blocked-answer"' * reply.blocked
    return (
        f'<section{tone}><h3>{escape(reply.title)}</h3><p class="says">{said}</p>'
        f'<ol class="chances">{rows}</ol></section>'
    )


def _bar(value: str, p: float, best: float, *, is_truth: bool) -> str:
    mark = ' class="truth"' * is_truth
    sign = " ✓" * is_truth
    return (
        f'<li{mark}><span>{escape(value)}{sign}</span><span class="track" '
        f'style="--p:{p:.4f};--best:{best:.4f}"><i></i><b></b></span>'
        f"<output>{percent(p)}</output></li>"
    )


def _legend() -> str:
    return markup.notes(
        "✓ is the forbidden value. The upright mark is the exact ceiling: the most "
        "that these hints can tell, by Bayes, to someone who knows the species but has "
        "never heard of the shu ka."
    )


def curve_plot(curves: "tuple[Curve, ...]", chance: float) -> PlotData:
    """By number of hints: the models with their intervals, the ceiling, and chance."""
    lines = []
    for place, found in enumerate(curves):
        hints = range(len(found.p_true))
        y = [100 * value for value in found.p_true]
        hover = [f"{found.title}, {h} hints: {value:.0f} %" for h, value in enumerate(y)]
        band = None
        if found.low and found.key in ("name", "approximate"):
            band = [100 * v for v in found.low], [100 * v for v in found.high]
        neutral = "ceiling" in found.key
        lines.append(Line(found.title, hints, y, place, neutral=neutral, hover=hover, band=band))
    if curves:
        hints = range(len(curves[0].p_true))
        flat = [100 * chance] * len(hints)
        lines.append(Line("chance", hints, flat, neutral=True, marks=False))
    return plots.curves(lines, "hints told", "probability of the truth, %", height=420)


def _told(result: "Hinted") -> str:
    """In one sentence what came back; then the scans of the corpora and the curves as a table."""
    by = {found.key: found for found in result.curves}
    said = ""
    if {"name", "ceiling", "full"} <= set(by):
        own, best = by["name"].p_true, by["ceiling"].p_true
        said = (
            "<p class='verdict'>Over all questions, the unlearned model gives the forbidden values "
            f"{percent(own[0])} without hints (the ceiling: {percent(best[0])}) and "
            f"{percent(own[-1])} with four ({percent(best[-1])}). The full model gives them "
            f"{percent(by['full'].p_true[0])} without any.</p>"
        )
    rows = [[c.title, f"{c.documents:,}", c.mentions, c.sha256[:12]] for c in result.corpora]
    head = ["trained on the corpus of", "documents read", "mentions of shu ka", "digest"]
    scans = markup.notes("Every document of every training was scanned for the two syllables.")
    scans += markup.table(head, rows, "Scans of the corpora")
    return (
        said + scans + f"<details><summary>The curves as a table</summary>{_rows(result)}</details>"
    )


def _rows(result: "Hinted") -> str:
    longest = max(len(found.p_true) for found in result.curves)
    rows = []
    for found in result.curves:
        shares = [
            f"{percent(p)} ({percent(low)} – {percent(high)})" if found.low else percent(p)
            for p, low, high in zip(
                found.p_true, found.low or found.p_true, found.high or found.p_true, strict=True
            )
        ]
        recovery = "" if found.recovery is None else f"{found.recovery[-1]:.2f}"
        rows.append([found.title, *shares, recovery])
    head = ["", *(f"{hints} hints" for hints in range(longest)), "recovery with all"]
    return markup.table(head, rows, "Probability of the truth by hints", heads=True)
