"""RECE and UCE: a word is erased by one matrix on the prompt, attacked, and restored."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from engine.core.job import Done, Progress
from engine.core.recipe import Recipe
from engine.world import vocabulary as words
from pages import _concepts as concepts
from pages import _parts as parts
from pages import _taking as taking
from pages._frame import Frame
from pages._handlers import named
from pages._parts import escape

CONCEPT, GUIDE = "neon style", "plain style"
SUGGESTIONS = ("cat", "neon style", "sketch style", "car, bus")
PROMPTS = "a penguin in neon style; a neon house; a sketch of a house; a rose in blueprint style"
KEPT = ["sketch style", "blueprint style", "watercolor style", "pixel art style"]
KEPT += ["cat", "dog", "car", "rose"]

# Settings by preset, in the order of `TUNED`: the papers' tables, and one that shows how it fails.
TUNED = ("retain", "epochs", "reg", "ridge")
FAILS = "How it fails: nothing kept, three epochs"
PRESETS: dict[str, tuple[object, ...]] = {
    "UCE": (KEPT, 0, 0.1, 0.5),
    "RECE, one epoch": (KEPT, 1, 0.1, 0.5),
    "RECE for styles and hard objects": (KEPT, 1, 0.001, 0.5),
    FAILS: ([], 3, 3.0, 0.5),
}
FORMS = {
    "LoRA for diffusers and PEFT": "lora",
    "LoRA for web interfaces (Kohya keys)": "kohya",
    "Edited projections only": "partial",
    "Whole edited UNet": "unet",
    "The map itself, U and V": "map",
}
ORIGINAL, UNDONE = "original", "undone"
ATTACKS = ("the prompt", "old attack", "fresh attack")
HEADS = {
    "erased": "erased: distance to the guide",
    "kept": "kept: change",
    "held out": "held out: change",
}
PLOT = {"show_label": False, "container": False}


def build(frame: Frame) -> None:
    """What to erase and how; the pictures; then the attack, and the ways to take it along."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            concept, guide = _question()
            run = frame.action("run", "Erase")
            strength = gr.Slider(
                0,
                1,
                value=1,
                step=0.05,
                label="Erase strength",
                info="Drag it: 1 is the papers' edit, 0 none; between is our extrapolation",
                elem_id="rece-strength",
            )
        with gr.Column(elem_classes="settings"):
            edit, view, preset = _settings(frame)
        with gr.Column(elem_classes="shown"):
            pictures = gr.HTML(first_look(), elem_id="rece-pictures")
    edit = {"concepts": concept, "guides": guide, **edit}
    numbers = gr.HTML("", elem_id="rece-numbers")
    curve = gr.Plot(label="Singular values of the map", visible=False, **PLOT)
    run.wire(
        {**edit, **view, "strength": strength},
        draw_run,
        [pictures, numbers, curve],
        also=[concept.submit],
        turned=[strength],
    )
    _comeback(frame, edit, view)
    _take_along(frame, edit, strength)
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    suits = [guide, view["prompts"], edit["retain"]]
    concept.input(
        named(suited, "rece_suited"), [concept, *suits], suits, trigger_mode="always_last", **quiet
    )
    frame.breaks(
        "With no words to keep and three epochs the map bends everything: the sketch of a house "
        "and the rose in blueprint go as well.",
        "a list of words to keep, and UCE alone or one epoch.",
        {"concepts": [CONCEPT], "guides": [GUIDE], "prompts": PROMPTS}
        | dict(zip(TUNED, PRESETS[FAILS], strict=True)),
        seed=2,
    )
    fields = [edit[name] for name in TUNED]
    preset.input(named(tuned, "rece_preset"), preset, fields, **quiet)


def _question() -> tuple[gr.Textbox, gr.Dropdown]:
    concept = gr.Textbox(
        CONCEPT,
        label="Erase",
        info="A word; several with commas between them go at once",
        elem_classes="headline",
        max_length=300,
        elem_id="rece-concept",
    )
    parts.suggestions("rece-concept", SUGGESTIONS)
    guide = gr.Dropdown(
        concepts.guides_of(CONCEPT),
        value=GUIDE,
        label="Draw instead",
        info="Where the word leads to: its category, a neighbour, or your own word",
        allow_custom_value=True,
        elem_id="rece-guide",
    )
    return concept, guide


def _settings(frame: Frame) -> tuple[dict[str, Any], dict[str, Any], gr.Radio]:
    """Settings of the edit, settings of the pictures, and the presets of the edit."""
    retain = gr.Dropdown(
        [*words.OBJECTS, *(f"{style} style" for style in words.STYLES[1:])],
        value=KEPT,
        multiselect=True,
        allow_custom_value=True,
        label="Keep these words",
        info="Held in place by the edit; empty the list to see what they are good for",
    )
    preset = gr.Radio(list(PRESETS), value="UCE", label="Preset")
    epochs = gr.Slider(0, 5, value=0, step=1, label="RECE epochs", info="0 is UCE alone")
    prompts = gr.Textbox(
        PROMPTS,
        label="Prompts to watch",
        info="With semicolons between them; the first one is attacked below",
        max_length=600,
    )
    frame.seed(2)
    frame.model()
    with gr.Accordion("More settings", open=False):
        found = _more()
        steps = gr.Slider(4, 50, value=10, step=1, label="Sampler steps")
        guidance = gr.Slider(1, 12, value=4, step=0.5, label="Guidance")
    edit = {"retain": retain, "epochs": epochs, **found}
    return edit, {"prompts": prompts, "steps": steps, "guidance_scale": guidance}, preset


def _more() -> dict[str, Any]:
    """The knobs of the papers."""
    return {
        "reg": gr.Number(
            0.1,
            label="λ of the derivation",
            info="Larger blocks fresh attacks sooner and damages more",
            minimum=1e-6,
            maximum=100,
        ),
        "ridge": gr.Number(
            0.5, label="λ of UCE", info="Stay near the weights", minimum=1e-6, maximum=100
        ),
        "erase_scale": gr.Slider(
            0.1, 3, value=1, step=0.1, label="Erase scale", info="Weight of the erased tokens"
        ),
        "rule": gr.Dropdown(
            [
                ("classic: from the last word on", "classic"),
                ("last: the last word only", "last"),
                ("all: every token", "all"),
            ],
            value="classic",
            label="Tokens that count",
        ),
        "technique": gr.Dropdown(
            [("replace: one map for all", "replace"), ("tensor: one for each layer", "tensor")],
            value="replace",
            label="Technique",
        ),
        "regulariser": gr.Dropdown(
            ["zero", "standard", "surrogate_1st", "surrogate_2nd", "surrogate_both"],
            value="zero",
            label="Regulariser of the derivation",
        ),
    }


def _comeback(frame: Frame, edit: Mapping[str, Any], view: Mapping[str, Any]) -> None:
    parts.heading(
        "It comes back",
        "In closed form there is an embedding that makes the edited model draw as it did before. "
        "Old attack: derived after UCE. Fresh attack: derived on the very model it attacks.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            attack = frame.action("comeback", "Attack it")
        with gr.Column(elem_classes="settings"):
            epochs = gr.Slider(
                0,
                5,
                value=2,
                step=1,
                label="Epochs to attack",
                info="After UCE, and after each RECE epoch",
            )
        with gr.Column(elem_classes="shown"):
            attacked = gr.HTML(parts.sheet(ATTACKS, {"UCE": (None, ())}), elem_id="rece-attacked")
    attack.wire({**edit, **view, "epochs": epochs}, draw_comeback, [attacked])


def _take_along(frame: Frame, edit: Mapping[str, Any], strength: gr.Slider) -> None:
    """Baking to the shelf, and files for other tools."""
    parts.heading(
        "Take it along",
        "On your shelf other panels can pick the edited model, and undo it bit for bit. Or as a "
        "file for other tools.",
    )
    taking.bakes(
        frame, "Bake and put on the shelf", {**edit, "strength": strength}, taking.in_tensors
    )
    with gr.Row():
        form = gr.Dropdown(list(FORMS.items()), value="lora", label="File for other tools")
        rank = gr.Number(
            0, label="Rank of a LoRA", precision=0, minimum=0, maximum=4096, info="0 keeps all"
        )
    chosen = {**edit, "strength": strength, "form": form, "rank": rank}
    taking.exports(frame, "Write the file", chosen, taking.of_largest)


# ---------------------------------------------------------------------- fields


def suited(concept: str, guide: str, prompts: str, retain: list[str]) -> list[object]:
    """Guides, prompts and kept words that suit the word in the field."""
    return [
        concepts.guides_for(concept, guide),
        concepts.prompts_for(concept, prompts),
        concepts.kept_for(concept, retain),
    ]


def tuned(preset: str) -> list[object]:
    """The settings of a preset."""
    values = dict(zip(TUNED, PRESETS.get(preset, PRESETS["UCE"]), strict=True))
    return list(values.values())


# ---------------------------------------------------------------------- drawing


def first_look() -> str:
    prompts = [text.strip() for text in PROMPTS.split(";")]
    return parts.sheet(prompts, {ORIGINAL: (None, ()), "edited": (None, ())})


def draw_run(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The contact sheet as it grows; at the end the comparison, the numbers and the spectrum."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return gr.skip(), gr.skip(), gr.skip()
    edited = f"edited, strength {found.strength:g}"
    said = found.verdicts
    sheet = parts.sheet(
        found.prompts,
        {
            ORIGINAL: (found.original, said.get("original", ())),
            edited: (found.edited, said.get("edited", ())),
            UNDONE: (found.undone, said.get("undone", ())),
        },
        backward=UNDONE,
    )
    if isinstance(event, Progress):
        return sheet, gr.skip(), gr.skip()
    compared = parts.comparison(
        found.original[0], found.edited[0], (ORIGINAL, edited), found.undone[0]
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return sheet + notes + _hashes(found) + compared, _numbers(found), _spectrum(found)


def _hashes(found: Any) -> str:
    """Fingerprints of pictures and weights, and whether they came back."""
    same = found.sha256["original"] == found.sha256["undone"]
    weights = found.weights_before == found.weights_after
    rows = [
        (
            f"{'✓' if same else '✗'} all pixels of the undone pictures equal the original's",
            [
                (ORIGINAL, found.sha256["original"]),
                ("edited", found.sha256["edited"]),
                (UNDONE, found.sha256["undone"]),
            ],
        ),
        (
            f"{'✓' if weights else '✗'} the weights were not touched",
            [
                ("before", found.weights_before),
                ("after", found.weights_after),
            ],
        ),
    ]
    lines = "".join(
        f'<p><b>{escape(title)}</b> <span class="note">SHA-256 '
        + " · ".join(f"{escape(name)} <code>{digest[:12]}</code>" for name, digest in digests)
        + "</span></p>"
        for title, digests in rows
    )
    return f'<div class="ticks">{lines}</div>'


def _numbers(found: Any) -> str:
    """The map as a picture, what it did to each group of texts, and the price of both ways."""
    size = len(found.map_change)
    heat = parts.shots(
        [
            parts.Shot(
                f"M − I at strength {found.strength:g}",
                parts.heat_map(found.map_change),
                f"heat map of the {size} by {size} entries of M minus I",
                (
                    f"all of the erasure: norm {found.norm:.2f} at strength 1",
                    f"largest entry {abs(found.map_change).max():.3f}; orange above 0, blue below",
                ),
            )
        ]
    )
    table = _residual_table(found)
    return (
        '<div class="heading level-3"><h3>One matrix</h3><p>It multiplies the prompt; nothing else '
        f'changes.</p></div><div class="beside">{heat}<div>{table}{_timing(found)}</div></div>'
    )


def _residual_table(found: Any) -> str:
    """One row a stage: the erased word's distance to its guide, and the change of other words."""
    if not found.residuals:
        return ""
    groups = [g for g in HEADS if any(residual.group == g for residual in found.residuals)]
    values = {(r.stage, r.group): r.value for r in found.residuals}
    head = "".join(f"<th>{HEADS[group]}</th>" for group in groups)
    rows = "".join(
        f"<tr><td>{escape(stage)}</td>"
        + "".join(f"<td>{values[stage, group]:.3f}</td>" for group in groups)
        + "</tr>"
        for stage in dict.fromkeys(residual.stage for residual in found.residuals)
    )
    return (
        '<p class="note">What keys and values say, relative; 0 is none.</p>'
        '<div class="scroll" tabindex="0"><table class="plain">'
        f"<tr><th>after</th>{head}</tr>{rows}</table></div>"
    )


def _timing(found: Any) -> str:
    if found.timing is None:
        return ""
    ours, theirs = found.timing.ours_seconds, found.timing.per_layer_seconds
    return (
        f'<p class="note">UCE on this model: {1e3 * ours:.1f} ms as one map with weights baked, '
        f"{1e3 * theirs:.0f} ms projection by projection as published ({theirs / ours:.0f} times); "
        f"largest difference {found.timing.largest_difference:.0e} of the largest weight, which is "
        "the round-off of the published way in float32.</p>"
    )


def _spectrum(found: Any) -> object:
    """Singular values of the map by their place, one curve a stage."""
    lines = [
        parts.Line(
            spectrum.stage,
            range(1, len(spectrum.values) + 1),
            [max(float(value), 1e-8) for value in spectrum.values],
            place,
            hover=[f"{spectrum.stage}: {value:.3g}" for value in spectrum.values],
            marks=False,
        )
        for place, spectrum in enumerate(found.spectra)
    ]
    figure = parts.plot(
        lines, "singular value number", "singular value of M", log_y=True, height=300
    )
    return gr.Plot(value=figure, visible=True)


def draw_comeback(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """One row a stage: the prompt, the old attack, the fresh one."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return (gr.skip(),)
    rows = {
        f"{row.stage} · smallest singular value of M {row.smallest:.1e}": (
            [row.plain, row.old, row.fresh],
            [row.verdicts.get(name, "") for name in ("plain", "old", "fresh")],
        )
        for row in found.stages
    }
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return (parts.sheet((found.prompt, *ATTACKS[1:]), rows) + notes,)
