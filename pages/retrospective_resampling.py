"""REVERSE: a model describes a tray, doubts a phrase, takes it back and says what is there."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Done, Progress
from engine.core.recipe import Recipe
from engine.models.library import MODELS
from engine.world import vocabulary as words
from pages import _parts as parts
from pages._frame import Frame, real_number, whole_number
from pages._handlers import friendly, named
from pages._parts import ASSETS, Line, Shot, escape

SLUG = "retrospective_resampling"
EMBEDDED = "emoji-llava"
TRAY = "on yellow; banana 5 noto; cat 12 noto"
QUESTIONS = (
    "describe the picture.",
    "is there a dog?",
    "how many things are there?",
    "what colour is the background?",
)
MOST_THINGS = 4
SEEN = ("noto", "fluent-emoji-flat", "fxemoji")  # artists whose drawings the model learnt from
# Powers of ten; the slider is logarithmic.
PRESETS = {"strict": -2.0, "balanced": -1.0, "talkative": -0.5}
LOWEST_TAU = 1e-5
ENGINES = {"over the cache (ours)": "fast", "as published, from the beginning": "official"}
ARTISTS = {"artists it was trained on": "known", "an artist it never saw": "never seen"}
RIGHT_ALONE = "right answers alone"
BASELINES = {
    "refuse": "say nothing of a doubted phrase",
    "truncate": "end before the first doubted phrase",
    "greedy": "temperature 0, nothing taken back",
    "contrast": "contrast with a blank picture",
    RIGHT_ALONE: "the same network, trained without wrong answers; it has no doubt to act on",
}
LONGEST_RUN_SHOWN = 4
MOST_DOUBTS_SHOWN = 16
PLOT = {"show_label": False, "container": False}


def build(frame: Frame) -> None:
    """The tray and the question; the story of the answer; the trade-off; the calibration."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            tray = _tray_builder()
            question = gr.Textbox(
                QUESTIONS[0],
                label="Ask",
                max_length=500,
                elem_id=f"{SLUG}-question",
                elem_classes="headline",
            )
            parts.suggestions(f"{SLUG}-question", QUESTIONS)
            run = frame.action("run", "Ask the model")
        with gr.Column(elem_classes="settings"):
            tau, preset = _tau_controls()
            noise = gr.Slider(
                0,
                1,
                _noise(),
                step=0.05,
                label="Darkness",
                info="Noise of the camera. In good light there is little to take back",
            )
            frame.seed(0)
            frame.model()
            more = _more_settings()
        with gr.Column(elem_classes="shown"):
            pictures = gr.HTML(parts.shots([Shot("The tray", None, ""), Shot("Seen", None, "")]))
            gr.HTML(
                f'<div class="story-bar" data-story="{SLUG}-story" hidden>'
                '<button type="button" class="copy">▶ Replay</button>'
                '<input type="range" min="0" max="1" value="1" step="1" '
                'aria-label="Step of the story"><output></output></div>',
                js_on_load=(ASSETS / "panels" / "story.js").read_text("utf-8"),
            )
            story = gr.HTML(FIRST_STORY, elem_id=f"{SLUG}-story")
            doubts = gr.HTML()
            heights = gr.Plot(label="Length of the answer", visible=False, **PLOT)
    run.wire(
        {"tray": tray, "question": question, "tau": tau, "noise": noise, **more},
        draw,
        [pictures, story, doubts, heights],
        params=run_params,
        back=run_values,
        also=[question.submit],
        turned=[tau],
    )
    preset.input(
        named(_preset, f"{SLUG}_preset"),
        preset,
        tau,
        api_visibility="private",
        show_progress="hidden",
    )
    _tradeoff(frame, tau, noise)
    _calibration(frame, tau, noise)
    frame.breaks(
        "In the dark the doubt comes from the same eyes as the sight: the model takes back every "
        "guess, one that was right among them, and at last says nothing.",
        "light. A threshold adds nothing that the eyes did not see.",
        {"tray": "on gray; cactus 1 noto; octopus 9 noto", "noise": 0.9, "tau": 0.001},
    )


def _noise() -> float:
    """The darkness that the model's card recommends: there it errs, and can still see."""
    card = MODELS.get(EMBEDDED)
    stated = card.notes.get("noise") if card else None
    return float(stated) if isinstance(stated, int | float) else 0.4


# ---------------------------------------------------------------------- controls


def _tray_builder() -> gr.Textbox:
    """The picture into which things are put, and the text that it writes."""
    partner = dict(words.PAIRS) | {b: a for a, b in words.PAIRS}
    sets = json.loads((ASSETS / "data" / "sprites" / "sprites.json").read_text("utf-8"))["sets"]
    # Artists who lack a drawing would leave holes in the shelf.
    artists = [one["artist"] for one in sets if {*words.ON_TRAYS} <= {*one["objects"]}]
    objects = "".join(
        f'<button type="button" data-name="{name}" aria-pressed="false" title="{name}" '
        f'aria-label="Take {escape(words.article(name))}"><span class="drawing"></span></button>'
        for name in words.ON_TRAYS
    )
    swatches = "".join(
        f'<button type="button" class="swatch" data-colour="{name}" aria-pressed="false" '
        f'title="{name}" aria-label="Background {name}" style="background:rgb{rgb}"></button>'
        for name, rgb in words.BACKGROUNDS.items()
    )
    options = "".join(
        f'<option value="{one}">{one}{" (never seen in training)" * (one not in SEEN)}</option>'
        for one in artists
    )
    # Drawings lie in their atlas in the order of all objects; the model knows some of them.
    data: dict[str, Any] = {"known": words.OBJECTS, "offered": words.ON_TRAYS}
    data |= {"colours": words.BACKGROUNDS, "pairs": partner}
    told = " ".join(f'data-{key}="{escape(json.dumps(value))}"' for key, value in data.items())
    cells = '<button type="button"></button>' * 16
    gr.HTML(
        f'<div data-tray data-field="{SLUG}-tray" data-most="{MOST_THINGS}" {told}>'
        f'<div class="board" role="group" aria-label="The tray">{cells}</div>'
        '<div class="tray-row"><button type="button" data-do="deal">Random tray</button>'
        f'<button type="button" data-do="clear">Empty it</button>{swatches}</div>'
        f'<div class="objects" role="group" aria-label="Things">{objects}</div>'
        f'<div class="tray-row"><label>Drawn by <select>{options}</select></label></div>'
        '<p class="tray-help" role="status" data-said>Drag a thing onto the tray, or choose it '
        "and then a cell. A click on a filled cell takes it away.</p></div>",
        js_on_load=(ASSETS / "panels" / "tray.js").read_text("utf-8"),
        css_template=(ASSETS / "panels" / "tray.css").read_text("utf-8"),
    )
    return gr.Textbox(
        TRAY,
        label="The tray in words",
        info="Background, then thing, cell and artist",
        lines=1,
        max_lines=3,
        max_length=600,
        elem_id=f"{SLUG}-tray",
        elem_classes="mono",
    )


def _tau_controls() -> tuple[gr.Slider, gr.Radio]:
    tau = gr.Slider(
        -4,
        0,
        PRESETS["balanced"],
        step=0.25,
        label="Doubt allowed: tau, as a power of ten",
        info="−1 is tau = 0.1: a phrase goes when P(UN) is above it. 0 takes nothing back",
        elem_id=f"{SLUG}-tau",
    )
    preset = gr.Radio(list(PRESETS), value="balanced", label="Temper")
    return tau, preset


def _preset(name: str) -> float:
    """The power of ten of a temper."""
    return PRESETS.get(name, PRESETS["balanced"])


def _more_settings() -> dict[str, Any]:
    with gr.Accordion("More settings", open=False):
        picture = parts.picture_field(
            label="Your picture in place of the tray",
            height=180,
        )
        engine = gr.Radio(list(ENGINES), value=next(iter(ENGINES)), label="Engine")
        hints = gr.Checkbox(True, label="Name doubted phrases in the question (hints)")
        temperature = gr.Slider(0, 1.5, 1, step=0.05, label="Temperature at the start")
        step = gr.Slider(0, 0.5, 0.05, step=0.05, label="Warmer after each violation by")
        local = gr.Slider(1, 30, 10, step=1, label="Tries in a row before the sentence goes (K)")
        total = gr.Slider(1, 100, 50, step=1, label="Tries in all (N)")
        longest = gr.Slider(8, 512, 64, step=8, label="Longest answer, in tokens")
        open_ended = gr.Checkbox(
            False, label="Open question: whole sentences only; an empty answer is owned up to"
        )
    return {
        "picture": picture,
        "engine": engine,
        "hints": hints,
        "temperature": temperature,
        "step": step,
        "local": local,
        "total": total,
        "max_new_tokens": longest,
        "open_ended": open_ended,
    }


def run_params(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of `run` as the controls give them."""
    return {
        "tray": str(values["tray"] or ""),
        "question": str(values["question"] or ""),
        "tau": tau_of(values["tau"]),
        "noise": real_number(values["noise"], "Darkness"),
        "engine": ENGINES.get(values["engine"], values["engine"]),
        "hints": bool(values["hints"]),
        "temperature": real_number(values["temperature"], "The temperature"),
        "step": real_number(values["step"], "The temperature step"),
        "local": whole_number(values["local"], "Tries in a row"),
        "total": whole_number(values["total"], "Tries in all"),
        "max_new_tokens": whole_number(values["max_new_tokens"], "The longest answer"),
        "open_ended": bool(values["open_ended"]),
    } | parts.picture_setting(values["picture"])


def run_values(params: dict[str, Any]) -> dict[str, Any]:
    """The values of the controls for such settings."""
    found = dict(params)
    if "tau" in found:
        found["tau"] = power_of(found["tau"])
    if "engine" in found:
        titles = {name: title for title, name in ENGINES.items()}
        found["engine"] = titles.get(found["engine"], next(iter(ENGINES)))
    return found


def tau_of(power: object) -> float:
    """tau of a power of ten, with few digits so that links stay short."""
    exponent = real_number(power, "tau")
    if not -8 <= exponent <= 0:
        raise BadInput("tau must lie between 1e-8 and 1.", "Put the slider where you want it.")
    return float(f"{10**exponent:.4g}")


def power_of(tau: object) -> object:
    """The place of the slider for a tau."""
    if isinstance(tau, int | float) and 0 < tau <= 1:
        return round(4 * math.log10(tau)) / 4
    return tau


# ---------------------------------------------------------------------- the story


FIRST_STORY = (
    '<p class="note">Ask, and watch the model speak: what it keeps, what it doubts, and what it '
    "takes back.</p>"
)


def draw(event: Progress | Done, recipe: Recipe) -> tuple[object, object, object, object]:
    """What lies there and what is seen; the words; the doubts; the length of the answer."""
    ended = isinstance(event, Done)
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()
    story = words_note(found) + story_html(found, ended, recipe)
    if not ended:
        return pictures(found), story, doubts_html(found), gr.skip()
    plot = heights_plot(found.heights)
    said = verdict(found) + story + figures(found) + exports(found, recipe)
    return pictures(found), said, doubts_html(found), gr.Plot(value=plot, visible=True)


def pictures(found: Any) -> str:
    """The tray in good light, which the model never sees, and what it does see."""
    seen = Shot("What the model sees", found.picture, "the picture as the model sees it")
    if found.clean is None:
        return parts.shots([seen])
    lies = ", ".join(found.present) if found.present else "nothing"
    clean = Shot("What lies there", found.clean, f"the tray in good light: {lies}", (lies,))
    return parts.shots([clean, seen])


def words_note(found: Any) -> str:
    """A line about words of the question that the model never saw."""
    return f'<p class="note">{escape(found.unknown_words)}</p>' if found.unknown_words else ""


def verdict(found: Any) -> str:
    """Both answers: of the model that never goes back, and of the one that did."""
    rows = [("never going back", found.before.text, found.before.rates, "forward")]
    rows += [("taking back what it doubts", found.text, found.rates, "backward")]
    cells = "".join(
        f'<div><dt class="{tone}">{escape(title)}</dt>'
        f"<dd>{escape(text) or '<i>says nothing</i>'}</dd>{rates_line(rates)}</div>"
        for title, text, rates, tone in rows
    )
    gave_up = (
        ""
        if found.success
        else '<p class="note">It gave up: no answer without a doubted phrase came within the '
        "tries. What stands is given.</p>"
    )
    return f'<dl class="answers">{cells}</dl>{gave_up}'


def rates_line(rates: Any) -> str:
    """The exact CHAIR and cover of one answer, where the truth is known."""
    if rates is None:
        return ""
    return f'<dd class="note">CHAIR {rates.chair_i:.0%} · cover {rates.cover:.0%}</dd>'


def story_html(found: Any, ended: bool, recipe: Recipe) -> str:
    """All that was said, in order, with what was taken back struck through."""
    runs: list[list[list[Any]]] = []
    for key, group in groupby(found.pieces, lambda piece: (piece.phrase, piece.struck)):
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
            told += [_said(one, found) for one in run[:LONGEST_RUN_SHOWN]]
            told.append(f'<span class="note">… {left} more pieces taken back …</span>')
            told += [_said(one, found) for one in run[-LONGEST_RUN_SHOWN:]]
        else:
            told += [_said(one, found) for one in run]
    final = f' data-final="{abs(hash((recipe.json(), found.seconds)))}"' if ended else ""
    steps = len(found.heights) - 1
    return (
        f'<div class="story" data-steps="{steps}"{final}><p>{" ".join(told)}</p>'
        '<p class="note legend"><span class="kept">a cat</span> grounded · '
        '<span class="doubted">a dog?</span> suspected · <del>a dog</del> taken back; small '
        "numbers are P(UN)</p></div>"
    )


def _said(pieces: Sequence[Any], found: Any) -> str:
    """Words of one phrase, or between two, with the steps at which they came and went."""
    first, last = pieces[0], pieces[-1]
    judged = found.phrases[first.phrase] if 0 <= first.phrase < len(found.phrases) else None
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
    kind = "kept" if judged.p_un <= found.tau else "doubted"
    return f'<span class="{kind}" data-born="{first.born}" data-struck="-1">{inner}{doubt}</span>'


def doubts_html(found: Any) -> str:
    """P(UN) of every phrase as a bar on a logarithmic scale, with the line of tau."""
    if not found.phrases:
        return ""
    # A phrase that fails several times in a row is one line.
    told = [list(group) for _, group in groupby(found.phrases, lambda p: (p.text, p.stands))]
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
        f'<section class="doubts" style="--tau:{place(found.tau):.1f}%" '
        f'aria-label="Doubt of each phrase"><h3>Its doubt, phrase by phrase</h3>'
        f'<p class="note">P(UN) from {LOWEST_TAU:g} to 1, logarithmic; the line is tau = '
        f"{found.tau:g}</p><ol>{''.join(rows)}</ol>{more}</section>"
    )


def place(p_un: float) -> float:
    """Where a probability stands on the logarithmic scale, in per cent of its length."""
    return 100 * (1 - math.log10(max(p_un, LOWEST_TAU)) / math.log10(LOWEST_TAU))


def figures(found: Any) -> str:
    """What it cost, and how exactly what was taken back is gone."""
    cost = found.cost
    rows = {
        "tokens said": f"{cost.generated_tokens}",
        "tokens through the network": f"{cost.forward_tokens}",
        "the published loop, at least": f"{cost.official_at_least}",
        "tries": f"{cost.attempts}",
        "taken back": f"{cost.backtracks}",
    }
    cells = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows.items())
    undone = ""
    if found.never_said is not None:
        undone = (
            "<p class='note'>Against a model that never said what was taken back, its state "
            f"agrees {escape(found.never_said)}.</p>"
        )
    return f'<dl class="figures">{cells}</dl>{undone}'


def exports(found: Any, recipe: Recipe) -> str:
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
        for one in found.phrases
    ]
    document = {
        "question": found.question,
        "answer": found.text,
        "tagged": found.tagged,
        "tau": found.tau,
        "model": recipe.model.source if recipe.model else "",
        "phrases": phrases,
        "recipe": json.loads(recipe.json()),
    }
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["phrase", "p_un", "grounded"])
    for one in found.phrases:
        known = "" if one.is_true is None else "yes" if one.is_true else "no"
        writer.writerow([one.text, repr(one.p_un), known])
    links = (
        ("confidence.json", "application/json", json.dumps(document, indent=1), "Save confidence"),
        ("phrases.csv", "text/csv", table.getvalue(), "Save phrases as CSV, to label"),
        ("answer.txt", "text/plain", found.tagged + "\n", "Save tagged answer"),
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
    figure = parts.plot(lines, "step", "tokens that stand", height=220)
    document = json.loads(figure.plot)
    for trace in document["data"][2:]:
        trace["showlegend"] = False
    return PlotData(type="plotly", plot=json.dumps(document))


# ---------------------------------------------------------------------- the trade-off


def _tradeoff(frame: Frame, tau: gr.Slider, noise: gr.Slider) -> None:
    """CHAIR against cover over tau, measured beforehand, and again on request."""
    parts.heading(
        "What doubt costs",
        "On many random trays: fewer things that are not there, and in the end fewer things "
        "that are. The ring marks the current tau.",
        level=2,
    )
    known = measured_curve(frame)
    kept = gr.State(known)
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            plot = gr.Plot(tradeoff_plot(known, 10 ** PRESETS["balanced"]), label="Trade", **PLOT)
        with gr.Column():
            ranks = gr.Plot(label="Doubts", visible=False, **PLOT)
            table = gr.HTML(curve_table(known, "as measured for the claim") if known else "")
    action = frame.action("curve", "Measure on new trays")
    with gr.Row(elem_classes="controls"):
        trays = gr.Slider(4, 200, 16, step=4, label="Trays")
        artists = gr.Radio(list(ARTISTS), value=next(iter(ARTISTS)), label="Drawn by")
        hints = gr.Checkbox(True, label="Hints")
    action.wire(
        {"trays": trays, "artists": artists, "noise": noise, "hints": hints},
        draw_curve,
        [plot, ranks, table, kept],
        params=curve_params,
        back=curve_values,
    )
    tau.change(
        named(_mark_tau, f"{SLUG}_mark_tau"),
        [kept, tau],
        plot,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )


def measured_curve(frame: Frame) -> list[dict[str, Any]]:
    """The points that stand behind the claim, as plain values; empty when there are none."""
    try:
        figures = frame.entry.measured().figures
    except AssetMissing:
        return []
    curve = figures.get("curve")
    return (
        [dict(one) for one in curve if isinstance(one, Mapping)] if isinstance(curve, list) else []
    )


def curve_params(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of `curve` as the controls give them."""
    return {
        "trays": whole_number(values["trays"], "Trays"),
        "artists": ARTISTS.get(values["artists"], values["artists"]),
        "noise": real_number(values["noise"], "Darkness"),
        "hints": bool(values["hints"]),
    }


def curve_values(params: dict[str, Any]) -> dict[str, Any]:
    """The values of the controls for such settings."""
    titles = {name: title for title, name in ARTISTS.items()}
    artists = titles.get(str(params.get("artists")), next(iter(ARTISTS)))
    return params | {"artists": artists}


def _mark_tau(points: list[dict[str, Any]], power: float) -> PlotData:
    """The trade-off with the ring at the current tau."""
    with friendly():
        return tradeoff_plot(points or [], tau_of(power))


def draw_curve(event: Progress | Done, recipe: Recipe) -> tuple[object, object, object, object]:
    """The trade-off so far, how the doubts are spread, and the table."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()
    points = [plain_point(one) for one in (*found.points, *found.baselines)]
    where = f"{found.points[0].trays} trays, darkness {found.noise:g}, seed {recipe.seed}"
    said = curve_table(points, where)
    plot = tradeoff_plot(points, 10 ** PRESETS["balanced"])
    doubts = gr.Plot(value=doubt_plot(found), visible=True)
    return plot, doubts, said, points if isinstance(event, Done) else gr.skip()


def plain_point(point: Any) -> dict[str, Any]:
    """A point as plain values."""
    return {name: getattr(point, name) for name in POINT}


POINT = (
    "name", "tau", "chair_i", "chair_i_low", "chair_i_high", "chair_s", "cover", "cover_low",
    "cover_high", "give_ups", "empty", "generated_tokens", "forward_tokens", "trays",
)  # fmt: skip


def tradeoff_plot(points: Sequence[Mapping[str, Any]], tau: float) -> PlotData:
    """Cover over CHAIR_i, one line a method; tau runs along the lines."""
    lines = []
    names = list(dict.fromkeys(str(one["name"]) for one in points))
    for number, name in enumerate(names):
        mine = [one for one in points if one["name"] == name]
        lines.append(
            Line(
                name,
                [100 * one["chair_i"] for one in mine],
                [100 * one["cover"] for one in mine],
                max(number - 1, 0),
                backward=name == "REVERSE",
                neutral=name == RIGHT_ALONE,
                hover=[
                    f"{name}, tau {one['tau']:g}<br>CHAIR {one['chair_i']:.1%}, "
                    f"cover {one['cover']:.1%}"
                    for one in mine
                ],
            )
        )
    ours = [one for one in points if one["name"] == "REVERSE"]
    if ours:
        near = min(ours, key=lambda one: abs(math.log10(max(one["tau"], 1e-9) / tau)))
        lines.append(
            Line(
                f"tau {near['tau']:g}",
                [100 * near["chair_i"]],
                [100 * near["cover"]],
                neutral=True,
                hover=[f"the nearest measured to tau = {tau:g}"],
            )
        )
    figure = parts.plot(lines, "CHAIR: mentions that are not there, %", "cover, %")
    if not ours:
        return figure
    document = json.loads(figure.plot)
    document["data"][-1]["marker"] |= {"size": 18, "symbol": "circle-open", "line": {"width": 3}}
    return PlotData(type="plotly", plot=json.dumps(document))


def doubt_plot(found: Any) -> PlotData:
    """Share of phrases with at most this P(UN): of those that hold, and of those that do not."""
    lines = []
    for name, values, number in (
        ("grounded", found.p_un_right, 1),
        ("hallucinated", found.p_un_wrong, 0),
    ):
        ordered = np.sort(np.maximum(values, 1e-6))
        if not len(ordered):
            continue
        chosen = np.unique(np.linspace(0, len(ordered) - 1, 60).round().astype(int))
        shares = 100 * (chosen + 1) / len(ordered)
        lines.append(Line(name, ordered[chosen], shares.tolist(), number, marks=False))
    return parts.plot(lines, "P(UN)", "phrases up to here, %", log_x=True, height=260)


def curve_table(points: Sequence[Mapping[str, Any]], where: str) -> str:
    """Every setting with its rates and what it costs."""
    if not points:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one['name'])}</td><td>{one['tau']:g}</td>"
        f"<td style='white-space:nowrap'>{one['chair_i']:.1%} "
        f"<span class='note'>{one['chair_i_low']:.1%}–"
        f"{one['chair_i_high']:.1%}</span></td><td>{one['chair_s']:.0%}</td>"
        f"<td>{one['cover']:.1%}</td><td>{one['give_ups']:.0%}</td><td>{one['empty']:.0%}</td>"
        f"<td>{one['generated_tokens']:.0f}</td></tr>"
        for one in points
        if one["name"] == "REVERSE" or one["tau"] in (1.0, 0.1, 0.01)
    )
    legend = "; ".join(f"{name}: {said}" for name, said in BASELINES.items())
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Rates by tau">'
        '<table class="plain"><tr><th>method</th><th>tau</th><th>CHAIR_i, 95 %</th>'
        "<th>CHAIR_s</th><th>cover</th><th>gave up</th><th>empty</th><th>tokens said</th></tr>"
        f'{rows}</table></div><p class="note">{escape(where)}. {escape(legend)}.</p>'
    )


# ---------------------------------------------------------------------- calibration


def _calibration(frame: Frame, tau: gr.Slider, noise: gr.Slider) -> None:
    """The tau that another model or another kind of picture needs."""
    parts.heading(
        "Find tau for a model",
        "P(UN) of two models cannot be compared. Label some phrases, and take the largest tau at "
        "which enough of what is kept is grounded.",
        level=2,
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            labels = gr.Textbox(
                label="Labelled phrases (CSV), or empty for random trays",
                placeholder="phrase,p_un,grounded\na cat,0.002,yes\na dog,0.41,no",
                lines=5,
                max_lines=12,
                max_length=1_000_000,
                elem_classes="mono",
                elem_id=f"{SLUG}-labels",
            )
            opened = gr.UploadButton("Open a CSV", file_types=[".csv", ".txt"], size="sm")
            precision = gr.Slider(0.5, 0.99, 0.95, step=0.01, label="Share of kept to be grounded")
            action = frame.action("calibrate", "Find tau")
        with gr.Column(elem_classes="shown"):
            said = gr.HTML()
            plot = gr.Plot(label="Precision over tau", visible=False, **PLOT)
    action.wire(
        {"labels": labels, "precision": precision, "noise": noise},
        draw_calibration,
        [said, plot],
        params=calibrate_params,
    )
    opened.upload(
        named(_open_csv, f"{SLUG}_open_csv"),
        opened,
        labels,
        api_visibility="private",
        show_progress="hidden",
    )


def calibrate_params(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of `calibrate` as the controls give them."""
    return {
        "labels": str(values["labels"] or ""),
        "precision": real_number(values["precision"], "The precision"),
        "noise": real_number(values["noise"], "Darkness"),
    }


def _open_csv(path: str) -> str:
    """The text of an uploaded CSV."""
    with friendly():
        file = Path(path)
        if file.stat().st_size > 1_000_000:
            raise BadInput("The CSV is larger than a megabyte.", "Take fewer phrases.")
        try:
            return file.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise BadInput("This file is no text in UTF-8.", "Save it as CSV again.") from None


def draw_calibration(event: Progress | Done, recipe: Recipe) -> tuple[object, object]:
    """The tau found, how well P(UN) tells the two apart, and precision over tau."""
    if isinstance(event, Progress):
        return gr.skip(), gr.skip()
    found = event.result
    if found.tau is None:
        said = f"No tau keeps phrases of which {found.target:.0%} are grounded."
    else:
        said = f"tau = {found.tau:.2g} keeps phrases of which at least {found.target:.0%} hold."
    figures = {
        "AUROC of P(UN)": f"{found.auroc:.3f}",
        "grounded": f"{found.right}",
        "ungrounded": f"{found.wrong}",
    }
    cells = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in figures.items())
    html = (
        f'<p class="verdict">{escape(said)}</p><dl class="figures">{cells}</dl>'
        f'<p class="note">From {escape(found.source)}. On other pictures tau may need to move.</p>'
    )
    taus = [max(one.tau, 1e-8) for one in found.thresholds]
    lines = [
        Line("grounded among kept", taus, [100 * t.precision for t in found.thresholds], 1,
             marks=False),
        Line("kept", taus, [100 * t.kept for t in found.thresholds], 0, marks=False),
    ]  # fmt: skip
    figure = parts.plot(lines, "tau", "%", log_x=True, height=280)
    return html, gr.Plot(value=figure, visible=True)
