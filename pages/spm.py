"""SPM: an adapter one dimension wide holds a concept back, and each prompt opens it so far."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from engine.core.job import Done, Progress
from engine.core.recipe import Recipe
from pages import _concepts as concepts
from pages import _parts as parts
from pages import _taking as taking
from pages._frame import Frame
from pages._handlers import named
from pages._parts import escape

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
PLOT = {"show_label": False, "container": False}


def build(frame: Frame) -> None:
    """What to hold back and how; the pictures; the gates; another checkpoint; taking it along."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            concept = _question()
            run = frame.action("run", "Erase")
        with gr.Column(elem_classes="settings"):
            training, view = _settings(frame)
        with gr.Column(elem_classes="shown"):
            pictures = gr.HTML(first_look(), elem_id="spm-pictures")
    edit = {"concepts": concept, **training}
    gates = gr.HTML("", elem_id="spm-gates")
    with gr.Row(elem_classes="curves"):
        erase = gr.Plot(label="Erase loss by iteration", visible=False, **PLOT)
        anchor = gr.Plot(label="Anchor loss by iteration", visible=False, **PLOT)
    run.wire(
        {**edit, **view},
        draw_run,
        [pictures, gates, erase, anchor],
        params=with_files,
        back=listed_as_text,
        also=[concept.submit],
    )
    concept.input(
        named(concepts.prompts_for, "spm_prompts"),
        [concept, view["prompts"]],
        view["prompts"],
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    _gate(frame, concept)
    _transfer(frame, edit, view)
    _take_along(frame, edit)
    frame.breaks(
        "Strong anchoring holds the concept in place as well: after these few seconds of training "
        "neon is still there.",
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
        info="A word; several with commas between them get a membrane each",
        elem_classes="headline",
        max_length=300,
        elem_id="spm-concept",
    )
    parts.suggestions("spm-concept", SUGGESTIONS)
    return concept


def _settings(frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the training, and of the pictures."""
    prompts = gr.Textbox(
        PROMPTS,
        label="Prompts to watch",
        info="With semicolons between them; each opens the membranes so far as it is like them",
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
        steps = gr.Slider(4, 50, value=8, step=1, label="Sampler steps")
        guidance = gr.Slider(1, 12, value=4, step=0.5, label="Guidance")
        files = gr.File(
            label="SPM or LoRA files to add",
            file_count="multiple",
            file_types=[".safetensors"],
            type="binary",
            height=120,
        )
    training["files"] = files
    return training, {
        "prompts": prompts,
        "ways": ways,
        "steps": steps,
        "guidance_scale": guidance,
    }


def _training() -> dict[str, Any]:
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
        "anchors": gr.Slider(0, 8, value=2, step=1, label="Random anchors an iteration"),
        "eta": gr.Slider(
            0, 4, value=0.3, step=0.1, label="η", info="How far past the anchor; published: 1"
        ),
        "learning_rate": gr.Number(0.02, label="Learning rate", minimum=1e-6, maximum=0.1),
        "rank": gr.Slider(1, 8, value=1, step=1, label="Rank", info="The paper's is 1"),
        "official_anchor_order": gr.Checkbox(
            False,
            label="Official anchor order",
            info="The slip of the published code: half of what is anchored is the empty text",
        ),
    }


def _gate(frame: Frame, concept: gr.Textbox) -> None:
    parts.heading(
        "Type a prompt, watch the gate",
        "How far it would open the membrane of the concept above. No picture is drawn and nothing "
        "is trained.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            prompt = gr.Textbox(
                GATE_PROMPT,
                label="Prompt",
                info="With semicolons between several",
                max_length=600,
                elem_id="spm-gate-prompt",
            )
            metric = gr.Dropdown(
                list(METRICS.items()), value="clipcos_tokenuni", label="Gate", elem_id="spm-metric"
            )
            read = frame.action("gate", "Read the gate")
        with gr.Column(elem_classes="shown"):
            shown = gr.HTML(
                '<p class="note">Type, or press the button.</p>', elem_id="spm-gate-shown"
            )
    read.wire(
        {"concepts": concept, "prompts": prompt, "metric": metric},
        draw_gate,
        [shown],
        back=listed_as_text,
        also=[prompt.input],
        turned=[metric],
    )


def _transfer(frame: Frame, edit: Mapping[str, Any], view: Mapping[str, Any]) -> None:
    parts.heading(
        "Another checkpoint, no training",
        "The same file beside the layers of another model with the same UNet.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            to = gr.Dropdown(
                [("Sister of the embedded world", "world-sister"), ("The same model", "world")],
                value="world-sister",
                allow_custom_value=True,
                label="To",
                info="Shipped, a Hub id (owner/name@revision), or a folder",
                elem_id="spm-to",
            )
            way = gr.Dropdown(list(WAYS.items()), value="tokenuni", label="Gate there")
            move = frame.action("transfer", "Transfer")
        with gr.Column(elem_classes="shown"):
            shown = gr.HTML("", elem_id="spm-transferred")
    chosen = {name: field for name, field in view.items() if name != "ways"}
    move.wire(
        {**edit, **chosen, "to": to, "way": way},
        draw_transfer,
        [shown],
        params=with_files,
        back=listed_as_text,
    )


def _take_along(frame: Frame, edit: Mapping[str, Any]) -> None:
    parts.heading(
        "Take it along",
        "As files for other tools, or baked into the weights on your shelf. Baked, a membrane is "
        "always open; the gate is lost.",
    )
    strength = gr.Slider(0, 2, value=1, step=0.05, label="Fixed γ of what is baked")
    fields = {**edit, "strength": strength}
    both_ways: dict[str, Any] = {"params": with_files, "back": listed_as_text}
    taking.bakes(frame, "Bake and put on the shelf", fields, taking.in_tensors, **both_ways)
    form = gr.Dropdown(list(FORMS.items()), value="spm", label="File for other tools")
    fields |= {"form": form}
    taking.exports(frame, "Write the file", fields, taking.of_largest, **both_ways)


# ---------------------------------------------------------------------- fields


def with_files(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, uploaded files as texts inside them, so that a recipe holds all it needs."""
    files: Sequence[bytes] | bytes | None = values.pop("files", None)
    if not files:
        return values
    listed = [files] if isinstance(files, bytes) else list(files)
    texts = [FILE_HEAD + base64.b64encode(data).decode("ascii") for data in listed]
    return {**values, "files": texts}


def listed_as_text(params: dict[str, Any]) -> dict[str, Any]:
    """A recipe's lists of concepts and prompts as the fields hold them."""
    joined = {"concepts": ", ", "prompts": "; "}
    return {
        name: joined[name].join(value) if name in joined and isinstance(value, list) else value
        for name, value in params.items()
    }


def first_look() -> str:
    prompts = [text.strip() for text in PROMPTS.split(";")]
    return parts.sheet(prompts, {ORIGINAL: (None, ()), "published gate": (None, ())})


# ---------------------------------------------------------------------- drawing


def draw_run(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Losses while it trains, then the contact sheet; at the end the gates and the hashes."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return (gr.skip(),) * 4
    curves = loss_plots(found.curves)
    sheet = rows_sheet(found.prompts, found.rows) if found.rows else gr.skip()
    gates = gate_table(found.gates) if found.gates else gr.skip()
    if isinstance(event, Progress):
        return sheet, gates, *curves
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return (
        sheet + notes + _ticks(found) + _compared(found),
        gates + token_bars(found.tokens),
        *curves,
    )


def rows_sheet(prompts: Sequence[str], rows: Sequence[Any]) -> str:
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


def loss_plots(curves: Sequence[Any]) -> tuple[object, object]:
    """Erase and anchor loss by iteration, one line a concept."""
    found = []
    for name, title in (("erase", "erase loss"), ("anchor", "anchor loss, random embeddings")):
        lines = [
            parts.Line(
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
            found.append(gr.skip())
            continue
        figure = parts.plot(lines, "iteration", title, log_y=True, height=260)
        found.append(gr.Plot(value=figure, visible=True))
    return found[0], found[1]


def _smooth(values: Any, width: int = 9) -> Any:
    """A running mean over one walk: the loss at a noisy time is not that at a clean one."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) <= width:
        return values
    sums = np.cumsum(np.insert(values, 0, 0.0))
    return (sums[width:] - sums[:-width]) / width


def gate_table(gates: Sequence[Any]) -> str:
    """A bar for each prompt and membrane, with the two parts of its gate."""
    several = len({gate.membrane for gate in gates}) > 1
    rows = "".join(
        f"<tr><td>{escape(gate.prompt) or '(empty)'}</td>"
        + (f"<td>{escape(gate.membrane)}</td>" if several else "")
        + f'<td><span class="gauge" style="--open:{min(max(gate.gamma, 0), 1):.3f}" '
        f'aria-hidden="true"></span> <b>{gate.gamma:.2f}</b></td>'
        f"<td>{gate.cos:.2f}</td><td>{gate.tokens:.2f}</td><td>{gate.centred:.2f}</td></tr>"
        for gate in gates
    )
    head = "<th>membrane</th>" if several else ""
    return (
        '<div class="heading level-3"><h3>The gates</h3><p>γ opens the membrane: 0 closed, 1 open. '
        "Its parts are the cosine of whole prompts and the share of the concept's words.</p></div>"
        f'<div class="scroll" tabindex="0"><table class="plain"><tr><th>prompt</th>{head}'
        "<th>γ</th><th>cosine</th><th>words</th><th>centred cosine</th></tr>"
        f"{rows}</table></div>"
    )


def token_bars(tokens: Sequence[Any]) -> str:
    """What each token adds to the cosine; words of the concept are marked."""
    groups: dict[tuple[str, str], list[Any]] = {}
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
    return (
        '<div class="heading level-3"><h3>By token</h3><p>What each token adds to the cosine. '
        f"✓ marks words that the concept has.</p></div>{''.join(rows)}"
        if rows
        else ""
    )


def _ticks(found: Any) -> str:
    """Whether pixels and weights came back, and how small it all is."""
    same = found.rows[0].sha256 == found.rows[-1].sha256
    weights = found.weights_before == found.weights_after
    resumed = [curve for curve in found.curves if 0 < curve.was_resumed < curve.iterations]
    told = "".join(
        f'<p class="note">“{escape(curve.concept)}” went on from iteration {curve.was_resumed}, '
        "where it was stopped.</p>"
        for curve in resumed
    )
    return (
        f'<div class="ticks"><p><b>{"✓" if same else "✗"} taken off, every pixel is the '
        f'original\'s</b> <span class="note">SHA-256 {ORIGINAL} '
        f"<code>{found.rows[0].sha256[:12]}</code> · {UNDONE} "
        f"<code>{found.rows[-1].sha256[:12]}</code></span></p>"
        f"<p><b>{'✓' if weights else '✗'} the weights were not touched</b> "
        f'<span class="note">before <code>{found.weights_before[:12]}</code> · after '
        f"<code>{found.weights_after[:12]}</code></span></p>"
        f'<p class="note">{found.parameters} numbers beside {found.layers} layers, '
        f"{found.kilobytes:.0f} kB.</p>{told}</div>"
    )


def _compared(found: Any) -> str:
    if len(found.rows) < 3:
        return ""
    first, way, last = found.rows[0], found.rows[1], found.rows[-1]
    names = (ORIGINAL, TITLES.get(way.way, way.way))
    return parts.comparison(first.pictures[0], way.pictures[0], names, last.pictures[0])


def draw_gate(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The gates of what was typed."""
    if isinstance(event, Progress):
        return (gr.skip(),)
    found = event.result
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return (gate_table(found.gates) + token_bars(found.tokens) + notes,)


def draw_transfer(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Four rows: each checkpoint without and with the membranes."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None or not found.rows:
        return (gr.skip(),)
    names = {"home": found.home.partition(":")[0], "away": found.away.partition(":")[0]}
    rows = {}
    for row in found.rows:
        place, _, way = row.way.partition(": ")
        rows[f"{names[place]} · {TITLES.get(way, way)}"] = (row.pictures, row.verdicts)
    if len(rows) < len(found.rows):  # a checkpoint on itself
        rows = {row.way: (row.pictures, row.verdicts) for row in found.rows}
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return (parts.sheet(found.prompts, rows) + notes,)
