"""RECE and UCE: a word is erased by one matrix on the prompt, attacked, and restored."""

from typing import TYPE_CHECKING

import gradio as gr

from engine.core.recipe import Recipe
from engine.world import vocabulary as words
from pages import _concepts as concepts
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls
from pages._frame import Frame
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.erasing.rece.results import Erasure, Reattacked

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


def build(frame: Frame) -> None:
    """What to erase and how; the attack; the ways to take it along."""
    run = frame.stage("run", "Erase")
    with run.ask:
        concept, guide = _question()
        strength = gr.Slider(
            0,
            1,
            value=1,
            step=0.05,
            label="Erase strength",
            info="1 is the edit of the papers, 0 is no edit; in between is our own",
            elem_id="rece-strength",
        )
    with run.settings:
        edit, view, preset = _settings(frame)
    with run.shown:
        pictures = gr.HTML(first_look(), elem_id="rece-pictures")
    with run.below:
        numbers = gr.HTML("", elem_id="rece-numbers")
        curve = plots.place("Singular values of the map", visible=False)
    edit = {"concepts": concept, "guides": guide, **edit}
    run.wire(
        {**edit, **view, "strength": strength},
        draw_run,
        [pictures, numbers, curve],
        number=still_named,
        also=[concept.submit],
        turned=[strength],
    )
    _comeback(frame, edit, view)
    with frame.tab("Take it along"):
        _take_along(frame, edit, strength)
    suits = [guide, view["prompts"], edit["retain"]]
    frame.on(
        concept.input, suited, [concept, *suits], suits, trigger_mode="always_last", name="suited"
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
    frame.on(preset.input, tuned, preset, fields, name="preset")


def _question() -> tuple[gr.Textbox, gr.Dropdown]:
    concept = gr.Textbox(
        CONCEPT,
        label="Erase",
        info="A word, or several with commas between them",
        elem_classes="headline",
        max_length=300,
        elem_id="rece-concept",
    )
    fields.suggestions("rece-concept", SUGGESTIONS)
    guide = gr.Dropdown(
        concepts.guides_of(CONCEPT),
        value=GUIDE,
        label="Draw instead",
        info="Where the word leads to: its category, a neighbour, or your own word",
        allow_custom_value=True,
        elem_id="rece-guide",
    )
    return concept, guide


def _settings(frame: Frame) -> tuple[Controls, Controls, gr.Radio]:
    """Settings of the edit, settings of the pictures, and the presets of the edit."""
    retain = gr.Dropdown(
        [*words.OBJECTS, *(f"{style} style" for style in words.STYLES[1:])],
        value=KEPT,
        multiselect=True,
        allow_custom_value=True,
        label="Keep these words",
        info="The edit holds these in place. Empty the list to see why that matters.",
    )
    preset = gr.Radio(list(PRESETS), value="RECE, one epoch", label="Preset")
    epochs = gr.Slider(0, 5, value=1, step=1, label="RECE epochs", info="0 is UCE alone")
    prompts = gr.Textbox(
        PROMPTS,
        label="Prompts to watch",
        info="Put semicolons between them. The first one is attacked below.",
        max_length=600,
    )
    frame.seed(2)
    frame.model()
    with gr.Accordion("More settings", open=False):
        result = _more()
        sampling = fields.sampling(10)
    edit = {"retain": retain, "epochs": epochs, **result}
    return edit, {"prompts": prompts, **sampling}, preset


def _more() -> Controls:
    """The knobs of the papers."""
    return {
        "reg": gr.Number(
            0.1,
            label="λ of the derivation",
            info="A larger value blocks fresh attacks sooner and damages more",
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


def _comeback(frame: Frame, edit: Controls, view: Controls) -> None:
    attack = frame.stage("comeback", "Attack it", tab="It comes back")
    with attack.ask:
        gr.HTML(
            markup.notes(
                "A formula gives an embedding that makes the edited model draw as it did "
                "before. The old attack is computed after UCE, the fresh attack on the very "
                "model that it attacks."
            )
        )
        epochs = gr.Slider(
            0,
            5,
            value=2,
            step=1,
            label="Epochs to attack",
            info="After UCE, and after each RECE epoch",
        )
    with attack.shown:
        attacked = gr.HTML(parts.sheet(ATTACKS, {"UCE": (None, ())}), elem_id="rece-attacked")
    attack.wire({**edit, **view, "epochs": epochs}, draw_comeback, [attacked], number=comes_back)


def _take_along(frame: Frame, edit: Controls, strength: gr.Slider) -> None:
    """Baking to the shelf, and files for other tools."""
    gr.HTML(
        markup.notes(
            "Put the edited model on your shelf: other panels can use it there, and you can "
            "undo the edit bit for bit. Or save it as a file for other tools."
        )
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
    return parts.before_and_after((None, None, None), (), PROMPTS.partition(";")[0])


def draw_run(result: "Erasure", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The first prompt's pictures, then those of all; at the end the numbers and the spectrum."""
    edited = f"edited, strength {result.strength:g}"
    said = result.verdicts
    drawn = (result.original, result.edited, result.undone)
    spoken = [said.get(name, ()) for name in (ORIGINAL, "edited", UNDONE)]
    first = parts.before_and_after(
        [None if pictures is None else pictures[0] for pictures in drawn],
        [next(iter(lines), "") for lines in spoken],
        result.prompts[0],
    )
    names = (ORIGINAL, edited, UNDONE)
    rows = dict(zip(names, zip(drawn, spoken, strict=True), strict=True))
    sheet = parts.sheet(result.prompts, rows, backward=UNDONE)
    if result.original is None or result.edited is None or result.undone is None or not ended:
        return (first + sheet,)
    compared = parts.comparison(
        result.original[0], result.edited[0], (ORIGINAL, edited), result.undone[0]
    )
    notes = markup.notes(*result.notes)
    shown = first + _hashes(result) + sheet + notes + compared
    return shown, _numbers(result), _spectrum(result)


def still_named(result: "Erasure", recipe: Recipe) -> Number | None:
    """In how many pictures of prompts that name the word the judge still sees it."""
    said = result.verdicts
    before, after = said.get(ORIGINAL, ()), said.get("edited", ())
    return concepts.still_seen(recipe.params["concepts"], result.prompts, before, after)


def _hashes(result: "Erasure") -> str:
    """Fingerprints of pictures and weights, and whether they came back."""
    prints = " · ".join(
        f"{name} {markup.digits(result.sha256[name])}" for name in (ORIGINAL, "edited", UNDONE)
    )
    weights = markup.tick(
        result.weights_before == result.weights_after,
        "the weights were not touched",
        f"SHA-256 before {markup.digits(result.weights_before)} · "
        f"after {markup.digits(result.weights_after)}",
    )
    pixels = markup.tick(
        result.sha256[ORIGINAL] == result.sha256[UNDONE],
        "all pixels of the undone pictures equal the original's",
        f"SHA-256 {prints}",
    )
    return f'<div class="ticks">{pixels}{weights}</div>'


def _numbers(result: "Erasure") -> str:
    """The map as a picture, what it did to each group of texts, and the price of both ways."""
    assert result.map_change is not None  # a run that ended has its map
    size = len(result.map_change)
    heat = parts.shots(
        [
            Shot(
                f"M − I at strength {result.strength:g}",
                parts.heat_map(result.map_change),
                f"heat map of the {size} by {size} entries of M minus I",
                (
                    f"this matrix is the whole erasure: norm {result.norm:.2f} at strength 1",
                    f"largest entry {abs(result.map_change).max():.3f}; orange above 0, blue below",
                ),
            )
        ]
    )
    table = _residual_table(result)
    title = markup.titled("One matrix", "It multiplies the prompt; nothing else changes.")
    return f'{title}<div class="beside">{heat}<div>{table}{_timing(result)}</div></div>'


def _residual_table(result: "Erasure") -> str:
    """One row a stage: the erased word's distance to its guide, and the change of other words."""
    if not result.residuals:
        return ""
    groups = [g for g in HEADS if any(residual.group == g for residual in result.residuals)]
    values = {(r.stage, r.group): r.value for r in result.residuals}
    rows = [
        [stage, *(f"{values[stage, group]:.3f}" for group in groups)]
        for stage in dict.fromkeys(residual.stage for residual in result.residuals)
    ]
    table = markup.table(["after", *(HEADS[group] for group in groups)], rows)
    return markup.notes("What keys and values say, relative; 0 is none.") + table


def _timing(result: "Erasure") -> str:
    if result.timing is None:
        return ""
    ours, theirs = result.timing.ours_seconds, result.timing.per_layer_seconds
    return markup.notes(
        f"UCE on this model: {1e3 * ours:.1f} ms as one map with weights baked, "
        f"{1e3 * theirs:.0f} ms projection by projection as published ({theirs / ours:.0f} times); "
        f"largest difference {result.timing.largest_difference:.0e} of the largest weight, which "
        "is the round-off of the published way in float32."
    )


def _spectrum(result: "Erasure") -> object:
    """Singular values of the map by their place, one curve a stage."""
    lines = [
        Line(
            spectrum.stage,
            range(1, len(spectrum.values) + 1),
            [max(float(value), 1e-8) for value in spectrum.values],
            place,
            hover=[f"{spectrum.stage}: {value:.3g}" for value in spectrum.values],
            marks=False,
        )
        for place, spectrum in enumerate(result.spectra)
    ]
    figure = plots.curves(
        lines, "singular value number", "singular value of M", log_y=True, height=300
    )
    return plots.shown(figure)


def comes_back(result: "Reattacked", recipe: Recipe) -> Number | None:
    """What the judge sees of the word in a picture of the old attack: after UCE, and one epoch."""
    said = [row.verdicts.get("old", "").split(", ") for row in result.stages[:2]]
    if len(said) < 2 or not all(map(any, said)):
        return None
    asked = str(recipe.params["concepts"]).lower()
    place = next((k for k, part in enumerate(said[0]) if part.split()[0] in asked), 0)
    what = f"what the old attack draws: {result.stages[0].stage} → {result.stages[1].stage}"
    return Number(what, said[1][min(place, len(said[1]) - 1)], said[0][place])


def draw_comeback(result: "Reattacked", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """One row a stage: the prompt, the old attack, the fresh one."""
    rows = {
        f"{row.stage} · smallest singular value of M {markup.figure(row.smallest, 2)}": (
            [row.plain, row.old, row.fresh],
            [row.verdicts.get(name, "") for name in ("plain", "old", "fresh")],
        )
        for row in result.stages
    }
    notes = markup.notes(*result.notes)
    return (parts.sheet((result.prompt, *ATTACKS[1:]), rows) + notes,)
