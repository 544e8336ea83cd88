"""SPM: an adapter one dimension wide holds a concept back, and each prompt opens it so far."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from engine.core.recipe import Recipe
from pages import _concepts as concepts
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._markup import Html, escape
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.erasing.spm.results import (
        Curve,
        Gate,
        Gates,
        Row,
        TokenGate,
        Transferred,
        Transported,
    )

CONCEPT = "neon style"
SUGGESTIONS = ("neon style", "penguin", "neon style, penguin", "car")
PROMPTS = (
    "a penguin in neon style; a neon picture of a car; a rose in blueprint style; a sketch of a car"
)
GATE_PROMPT = "a house in neon style; a house in blueprint style; a house"
WAYS = {
    "published gate: max(cos, words)": "clipcos_tokenuni",
    "shared words only": "tokenuni",
    "cosine only": "clipcos",
    "centred cosine (ours)": "centred",
    "all open, γ = 1": "open",
    "official merge, γ²": "official",
}
TITLES = {way: title for title, way in WAYS.items()} | {"original": "original", "undone": "undone"}
METRICS = {title: way for title, way in WAYS.items() if way not in ("open", "official")}
FORMS = {
    "SPM file, the published format": "spm",
    "LoRA for diffusers and PEFT": "diffusers",
    "All membranes stacked in one LoRA": "stacked",
    "For web interfaces, without proj_in and proj_out": "web",
}
FILE_HEAD = "data:application/safetensors;base64,"
ORIGINAL, UNDONE = "original", "undone"


def build(frame: Frame) -> None:
    """What to hold back and how; the gates; another checkpoint; taking it along."""
    run = frame.stage("run", "Erase")
    with run.ask:
        concept = _question()
    with run.settings:
        training, view = _settings(frame)
    with run.shown:
        pictures = gr.HTML(first_look(), elem_id="spm-pictures")
    with run.below:
        gates = gr.HTML("", elem_id="spm-gates")
        with gr.Row(elem_classes="curves"):
            erase = plots.place("Erase loss by iteration", visible=False)
            anchor = plots.place("Anchor loss by iteration", visible=False)
    edit = {"concepts": concept, **training}
    run.wire(
        {**edit, **view},
        draw_run,
        [pictures, gates, erase, anchor],
        number=still_seen,
        params=with_files,
        back=listed_as_text,
        also=[concept.submit],
    )
    frame.on(
        concept.input,
        concepts.prompts_for,
        [concept, view["prompts"]],
        view["prompts"],
        name="prompts",
        trigger_mode="always_last",
    )
    _gate(frame, concept)
    _transfer(frame, edit, view)
    with frame.tab("Take it along"):
        _take_along(frame, edit)
    frame.breaks(
        "Strong anchoring holds the concept in place, too. After these few seconds of "
        "training neon is still there.",
        "the membrane that ships, or weaker anchoring and more iterations.",
        {
            "concepts": [CONCEPT],
            "prompts": PROMPTS,
            "ways": ["open"],
            "la_strength": 30.0,
            "fresh": True,
        },
    )


def _question() -> gr.Textbox:
    concept = gr.Textbox(
        CONCEPT,
        label="Hold back",
        info="A word, or several with commas between them. Each gets a membrane of its own.",
        elem_classes="headline",
        max_length=300,
        elem_id="spm-concept",
    )
    fields.suggestions("spm-concept", SUGGESTIONS)
    return concept


def _settings(frame: Frame) -> tuple[Controls, Controls]:
    """Settings of the training, and of the pictures."""
    prompts = gr.Textbox(
        PROMPTS,
        label="Prompts to watch",
        info="Put semicolons between them. The closer a prompt is to the word, the stronger "
        "the block.",
        max_length=600,
    )
    ways = gr.CheckboxGroup(
        list(WAYS.items()),
        value=["clipcos_tokenuni", "tokenuni", "open"],
        label="Gates to compare",
        info="One row of pictures each, same noise",
    )
    frame.seed(2)
    frame.model()
    with gr.Accordion("Training", open=False):
        training = _training()
    with gr.Accordion("More settings", open=False):
        sampling = fields.sampling(8)
        files = gr.File(
            label="SPM or LoRA files to add",
            file_count="multiple",
            file_types=[".safetensors"],
            type="binary",
            height=120,
        )
    training["files"] = files
    return training, {"prompts": prompts, "ways": ways, **sampling}


def _training() -> Controls:
    """The knobs of the paper."""
    return {
        "fresh": gr.Checkbox(
            False,
            label="Train it here",
            info="Else a shipped membrane with these settings is taken, where there is one",
        ),
        "anchor": gr.Textbox(
            "", label="Anchor", info="What to draw instead; empty is the paper's", max_length=300
        ),
        "iterations": gr.Slider(
            10,
            600,
            value=40,
            step=10,
            label="Iterations",
            info="Stop keeps what was learned: pressing Erase again goes on from there",
        ),
        "la_strength": gr.Slider(
            0,
            1000,
            value=1,
            step=1,
            label="λ of latent anchoring",
            info="Holds other embeddings in place",
        ),
        "anchors": gr.Slider(0, 8, value=2, step=1, label="Random anchors in each iteration"),
        "eta": gr.Slider(
            0, 4, value=0.3, step=0.1, label="η", info="How far past the anchor; published: 1"
        ),
        "learning_rate": gr.Number(0.02, label="Learning rate", minimum=1e-6, maximum=0.1),
        "rank": gr.Slider(1, 8, value=1, step=1, label="Rank", info="The paper's is 1"),
        "official_anchor_order": gr.Checkbox(
            False,
            label="Official anchor order",
            info="Repeats a slip of the published code: half of what is anchored is the empty text",
        ),
    }


def _gate(frame: Frame, concept: gr.Textbox) -> None:
    """How far each prompt would open the membrane; no picture is drawn and nothing is trained."""
    read = frame.stage("gate", "Read the gate", tab="Watch the gate")
    with read.ask:
        prompt = gr.Textbox(
            GATE_PROMPT,
            label="Type a prompt",
            info="With semicolons between several",
            max_length=600,
            elem_id="spm-gate-prompt",
        )
        metric = gr.Dropdown(
            list(METRICS.items()), value="clipcos_tokenuni", label="Gate", elem_id="spm-metric"
        )
    with read.shown:
        shown = gr.HTML("", elem_id="spm-gate-shown")
    read.wire(
        {"concepts": concept, "prompts": prompt, "metric": metric},
        draw_gate,
        [shown],
        number=widest,
        back=listed_as_text,
        also=[prompt.input],
        turned=[metric],
    )


def _transfer(frame: Frame, edit: Controls, view: Controls) -> None:
    """The same file beside the layers of another model with the same UNet, without training."""
    move = frame.stage("transfer", "Transfer", tab="Another checkpoint")
    with move.ask:
        to = gr.Dropdown(
            [("Sister of the embedded world", "world-sister"), ("The same model", "world")],
            value="world-sister",
            allow_custom_value=True,
            label="To, without any training",
            info="Shipped, a Hub id (owner/name@revision), or a folder",
            elem_id="spm-to",
        )
        way = gr.Dropdown(list(WAYS.items()), value="tokenuni", label="Gate there")
    with move.shown:
        shown = gr.HTML("", elem_id="spm-transferred")
    chosen = {name: field for name, field in view.items() if name != "ways"}
    move.wire(
        {**edit, **chosen, "to": to, "way": way},
        draw_transfer,
        [shown],
        number=seen_away,
        params=with_files,
        back=listed_as_text,
    )


def _take_along(frame: Frame, edit: Controls) -> None:
    gr.HTML(
        markup.notes(
            "As files for other tools, or baked into the weights on your shelf. A baked "
            "membrane is always open: it has no gate any more."
        )
    )
    strength = gr.Slider(0, 2, value=1, step=0.05, label="Fixed γ of what is baked")
    fields = {**edit, "strength": strength}
    taking.bakes(
        frame,
        "Bake and put on the shelf",
        fields,
        taking.in_tensors,
        params=with_files,
        back=listed_as_text,
    )
    form = gr.Dropdown(list(FORMS.items()), value="spm", label="File for other tools")
    fields |= {"form": form}
    taking.exports(
        frame, "Write the file", fields, taking.of_largest, params=with_files, back=listed_as_text
    )


# ---------------------------------------------------------------------- fields


def with_files(values: Settings) -> Settings:
    """The settings, uploaded files as texts inside them, so that a recipe holds all it needs."""
    others = {name: value for name, value in values.items() if name != "files"}
    files = values.get("files")
    if not files:
        return others
    listed = [files] if isinstance(files, bytes) else files
    assert isinstance(listed, list | tuple)  # as the field hands them on
    texts = [FILE_HEAD + base64.b64encode(data).decode("ascii") for data in listed]
    return {**others, "files": texts}


def listed_as_text(params: Settings) -> Settings:
    """A recipe's lists of concepts and prompts as the fields hold them."""
    return fields.joined(params, concepts=", ", prompts="; ")


def first_look() -> str:
    return parts.before_and_after((None, None, None), (), PROMPTS.partition(";")[0])


# ---------------------------------------------------------------------- drawing


def draw_run(result: "Transported", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Losses while it trains, then the contact sheet; at the end the gates and the hashes."""
    curves = loss_plots(result.curves)
    sheet = first_of(result) + rows_sheet(result.prompts, result.rows) if result.rows else gr.skip()
    gates = gate_table(result.gates) if result.gates else gr.skip()
    if not ended:
        return sheet, gates, *curves
    notes = markup.notes(*result.notes)
    return (
        f"{sheet}{notes}{_ticks(result)}{_compared(result)}",
        gates + token_bars(result.tokens),
        *curves,
    )


def first_of(result: "Transported") -> str:
    """The first prompt's pictures: original, under the first gate, and with the membrane off."""
    rows = {row.way: row for row in result.rows}
    way = next((row.way for row in result.rows if row.way not in (ORIGINAL, UNDONE)), "")
    found = [rows.get(name) for name in (ORIGINAL, way, UNDONE)]
    return parts.before_and_after(
        [row.pictures[0] if row and len(row.pictures) else None for row in found],
        [row.verdicts[0] if row and row.verdicts else "" for row in found],
        result.prompts[0],
    )


def still_seen(result: "Transported", recipe: Recipe) -> Number | None:
    """In how many pictures of prompts that name the concept it is still seen, by the first gate."""
    said = {row.way: row.verdicts for row in result.rows}
    after = next((s for way, s in said.items() if way not in (ORIGINAL, UNDONE)), ())
    before = said.get(ORIGINAL, ())
    return concepts.still_seen(recipe.params["concepts"], result.prompts, before, after)


def rows_sheet(prompts: Sequence[str], rows: "Sequence[Row]") -> str:
    """One row of pictures a gate, with the judge's words and the change from the original."""
    return parts.sheet(
        prompts,
        {
            TITLES.get(row.way, row.way): (
                row.pictures,
                [
                    " · ".join(part for part in (said, _changed(change)) if part)
                    for said, change in zip(row.verdicts, row.change, strict=True)
                ]
                if row.change and row.way != ORIGINAL
                else row.verdicts,
            )
            for row in rows
        },
        backward=UNDONE,
        is_whole=any(row.sha256 for row in rows if row.way not in (ORIGINAL, UNDONE)),
    )


def _changed(change: float) -> str:
    return "unchanged" if change == 0 else f"Δ\u00a0{change:.1f}"


def loss_plots(curves: "Sequence[Curve]") -> tuple[object, object]:
    """Erase and anchor loss by iteration, one line a concept."""
    result = []
    for name, title in (("erase", "erase loss"), ("anchor", "anchor loss, random embeddings")):
        lines = [
            Line(
                curve.concept,
                range(1, len(values) + 1),
                [max(float(value), 1e-12) for value in values],
                place,
                marks=False,
            )
            for place, curve in enumerate(curves)
            if len(values := _smooth(getattr(curve, name)))
        ]
        if not lines:
            result.append(gr.skip())
            continue
        figure = plots.curves(lines, "iteration", title, log_y=True, height=260)
        result.append(plots.shown(figure))
    return result[0], result[1]


def _smooth(losses: np.ndarray, width: int = 9) -> np.ndarray:
    """A running mean over one walk: the loss at a noisy time is not that at a clean one."""
    values = np.asarray(losses, dtype=np.float64)
    if len(values) <= width:
        return values
    sums = np.cumsum(np.insert(values, 0, 0.0))
    return (sums[width:] - sums[:-width]) / width


def gate_table(gates: "Sequence[Gate]") -> str:
    """A bar for each prompt and membrane, with the two parts of its gate."""
    several = len({gate.membrane for gate in gates}) > 1
    rows = [
        [
            gate.prompt or "(empty)",
            *[gate.membrane] * several,
            Html(
                f'<span class="gauge" style="--open:{min(max(gate.gamma, 0), 1):.3f}" '
                f'aria-hidden="true"></span> <b>{gate.gamma:.2f}</b>'
            ),
            *(f"{value:.2f}" for value in (gate.cos, gate.tokens, gate.centred)),
        ]
        for gate in gates
    ]
    head = ["prompt", *["membrane"] * several, "γ", "cosine", "words", "centred cosine"]
    return markup.titled(
        "The gates",
        "γ says how far the membrane is open: 0 is closed, 1 is open and blocks most. "
        "It is made of two parts: the cosine of the whole prompts, and the share of "
        "the concept's words.",
    ) + markup.table(head, rows)


def token_bars(tokens: "Sequence[TokenGate]") -> str:
    """What each token adds to the cosine; words of the concept are marked."""
    groups: dict[tuple[str, str], list[TokenGate]] = {}
    for token in tokens:
        groups.setdefault((token.prompt, token.membrane), []).append(token)
    rows = []
    for (prompt, membrane), listed in list(groups.items())[:8]:
        cells = "".join(
            f'<li class="{"shared" if token.is_shared else ""}">'
            f'<span class="gauge" style="--open:{min(abs(token.share), 1):.3f}" '
            f'aria-hidden="true"></span><b>{"✓ " if token.is_shared else ""}'
            f"{escape(token.token)}</b> <span>{token.share:+.3f}</span></li>"
            for token in listed
        )
        total = sum(token.share for token in listed)
        rows.append(
            f"<p><b>{escape(prompt) or '(empty)'}</b> and “{escape(membrane)}”: cosine "
            f'{total:.2f}</p><ol class="tokens">{cells}</ol>'
        )
    title = markup.titled(
        "By token", "What each token adds to the cosine. ✓ marks words that the concept has."
    )
    return title + "".join(rows) if rows else ""


def _ticks(result: "Transported") -> str:
    """Whether pixels and weights came back, and how small it all is."""
    resumed = [curve for curve in result.curves if 0 < curve.was_resumed < curve.iterations]
    first, last = result.rows[0].sha256, result.rows[-1].sha256
    pixels = markup.tick(
        first == last,
        "taken off, every pixel is the original's",
        f"SHA-256 {ORIGINAL} {markup.digits(first)} · {UNDONE} {markup.digits(last)}",
    )
    weights = markup.tick(
        result.weights_before == result.weights_after,
        "the weights were not touched",
        f"before {markup.digits(result.weights_before)} · "
        f"after {markup.digits(result.weights_after)}",
    )
    notes = markup.notes(
        f"{result.parameters} numbers beside {result.layers} layers, {result.kilobytes:.0f} kB.",
        *(
            f"“{curve.concept}” went on from iteration {curve.was_resumed}, where it was stopped."
            for curve in resumed
        ),
    )
    return f'<div class="ticks">{pixels}{weights}{notes}</div>'


def _compared(result: "Transported") -> str:
    if len(result.rows) < 3:
        return ""
    first, way, last = result.rows[0], result.rows[1], result.rows[-1]
    names = (ORIGINAL, TITLES.get(way.way, way.way))
    return parts.comparison(first.pictures[0], way.pictures[0], names, last.pictures[0])


def draw_gate(result: "Gates", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The gates of what was typed."""
    if not ended:
        return ()
    notes = markup.notes(*result.notes)
    return (gate_table(result.gates) + token_bars(result.tokens) + notes,)


def widest(result: "Gates", recipe: Recipe) -> Number | None:
    """How far the prompt that names the concept opens the gate, and the others at most."""
    gammas = [gate.gamma for gate in result.gates]
    if len(gammas) < 2:
        return Number("the gate opens to", f"{gammas[0]:.2f}") if gammas else None
    first, *others = gammas
    what = f"the gate of “{result.gates[0].prompt}” → widest of the others"
    return Number(what, f"{max(others):.2f}", f"{first:.2f}")


def seen_away(result: "Transferred", recipe: Recipe) -> Number | None:
    """In how many pictures of the other checkpoint the concept is seen, without and with it."""
    away = [row.verdicts for row in result.rows if row.way.startswith("away")]
    if len(away) < 2:
        return None
    return concepts.still_seen(recipe.params["concepts"], result.prompts, away[0], away[-1])


def draw_transfer(result: "Transferred", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Four rows: each checkpoint without and with the membranes."""
    if not result.rows:
        return ()
    names = {"home": result.home.partition(":")[0], "away": result.away.partition(":")[0]}
    rows = {}
    for row in result.rows:
        place, _, way = row.way.partition(": ")
        rows[f"{names[place]} · {TITLES.get(way, way)}"] = (row.pictures, row.verdicts)
    if len(rows) < len(result.rows):  # a checkpoint on itself
        rows = {row.way: (row.pictures, row.verdicts) for row in result.rows}
    notes = markup.notes(*result.notes)
    return (parts.sheet(result.prompts, rows) + notes,)
