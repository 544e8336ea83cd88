"""Few-shot erasing: a word is forgotten from a few pictures, epoch by epoch, and restored."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from engine.core.recipe import Recipe
from engine.erasing.few_shot_erasing import COMPARED, OPTIMIZERS, PARAMETERS
from pages import _concepts as concepts
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.erasing.few_shot_erasing.results import Course, CoursePoint, Curve, Unlearning
    from engine.metrics.intervals import Rate

CONCEPT = "penguin"
SUGGESTIONS = ("penguin", "cactus", "rocket", "guitar")
PROMPTS = "a {0}; a {0} in neon style; a frog; a house"
EPOCHS, RATE = 5, 1.259e-3
MOST_PICTURES = 8
SOURCES = {
    "Drawn from the world": "drawn",
    "Drawn by the model itself": "generated",
    "Control: pictures of other things": "unrelated",
}
FORMS = {
    "Text encoder (model.safetensors)": "encoder",
    "Trained tensors only": "partial",
    "LoRA for diffusers and PEFT, approximate": "lora",
}
PARTS = {"mlp": "feed-forward", "self_attn": "attention", "other": "embeddings and norms"}
SHARE = "share of pictures that show it"


def build(frame: Frame) -> None:
    """What to forget and how far; the curve; the ways to take it along."""
    run = frame.stage("run", "Forget")
    with run.ask:
        concept, source, pictures = _question()
    with run.settings:
        edit, view = _settings(frame)
    with run.shown:
        epochs = gr.HTML(first_look(), elem_id="few-shot-epochs")
    with run.below:
        numbers = gr.HTML("", elem_id="few-shot-numbers")
        errors = plots.place("Denoising error", visible=False)
    edit = {"concept": concept, "source": source, "pictures": pictures, **edit}
    run.wire(
        {**edit, **view},
        draw_run,
        [epochs, numbers, errors],
        number=still_seen,
        film=lambda result: (result.looks[-1].pictures[0], result.undone.pictures[0]),
        params=params,
        back=values,
        also=[concept.submit],
    )
    _curve(frame, edit)
    with frame.tab("Take it along"):
        _take_along(frame, edit)
    # A visitor's own change, as a link brings its own prompts with its concept.
    frame.on(
        concept.input,
        prompts_for,
        [concept, view["prompts"]],
        view["prompts"],
        name="prompts",
        trigger_mode="always_last",
    )
    frame.breaks(
        "Nothing limits how far the error climbs. With twelve epochs at more than "
        "twice the rate everything is lost, not only the word.",
        "an earlier epoch, in which the neighbours are still drawn; or RECE, which "
        "needs no pictures and is told which words to keep.",
        {"concept": CONCEPT, "epochs": 12, "learning_rate": 3e-3, "prompts": _prompts(CONCEPT)},
    )


def _question() -> tuple[gr.Textbox, gr.Radio, gr.Gallery]:
    concept = gr.Textbox(
        CONCEPT,
        label="Forget",
        info="What the pictures show, in the word that the prompts use",
        elem_classes="headline",
        max_length=100,
        elem_id="few-shot-concept",
    )
    fields.suggestions("few-shot-concept", SUGGESTIONS)
    source = gr.Radio(list(SOURCES.items()), value="drawn", label="Pictures to learn from")
    with gr.Accordion("Your own pictures instead", open=False):
        pictures = fields.pictures_field(
            label="One to eight pictures of it", columns=4, height=220, elem_id="few-shot-own"
        )
    return concept, source, pictures


def _settings(frame: Frame) -> tuple[Controls, Controls]:
    """Settings of the erasure, and of the pictures."""
    epochs = gr.Slider(
        1, 20, value=EPOCHS, step=1, label="Epochs", info="Each epoch shows every picture once"
    )
    rate = gr.Slider(
        -5,
        -1,
        value=round(math.log10(RATE), 1),
        step=0.1,
        label="Learning rate, power of ten",
        info="Every weight moves by about this much a step; the paper's −5 is for Stable Diffusion",
    )
    parameters = gr.Radio(
        list(PARAMETERS),
        value=PARAMETERS[0],
        label="What is trained",
        info="In the text encoder; the first is the paper's choice",
    )
    frame.seed(8)
    frame.model()
    with gr.Accordion("More settings", open=False):
        edit = _more() | _optimizer()
        prompts = gr.Textbox(
            _prompts(CONCEPT),
            label="Prompts to watch",
            info="With semicolons between them",
            max_length=600,
        )
        looks = gr.Slider(1, 8, value=3, step=1, label="Epochs to draw")
        sampling = fields.sampling(10)
    edit = {"epochs": epochs, "learning_rate": rate, "parameters": parameters, **edit}
    view = {"prompts": prompts, "looks": looks, **sampling}
    return edit, view


def _more() -> Controls:
    return {
        "count": gr.Slider(1, 16, value=4, step=1, label="Number of pictures"),
        "batch": gr.Slider(1, 8, value=2, step=1, label="Pictures a step"),
        "kind": gr.Radio(["object", "style"], value="object", label="It is"),
        "direction": gr.Radio(
            ["ascent", "descent"],
            value="ascent",
            label="Direction",
            info="Descent is the control: ordinary fine-tuning",
        ),
        "fit": gr.Dropdown(
            ["stretch", "centre", "letterbox"],
            value="stretch",
            label="Pictures that are not square",
        ),
        "flip": gr.Checkbox(True, label="Flip half of the pictures"),
    }


def _optimizer() -> Controls:
    """What else torch.optim is told."""
    with gr.Row():
        return {
            "optimizer": gr.Dropdown(
                list(OPTIMIZERS), value="Adam", label="Optimizer", min_width=120
            ),
            "beta1": gr.Number(0.9, label="beta 1", minimum=0, maximum=0.9999, min_width=80),
            "beta2": gr.Number(0.98, label="beta 2", minimum=0, maximum=0.99999, min_width=80),
            "eps": gr.Number(1e-6, label="eps", minimum=1e-12, maximum=1, min_width=80),
            "weight_decay": gr.Number(
                1e-8, label="Weight decay", minimum=0, maximum=1, min_width=80
            ),
        }


def _curve(frame: Frame, edit: Controls) -> None:
    measure = frame.stage("curve", "Measure the curve", tab="Collateral damage")
    with measure.ask:
        gr.HTML(
            markup.notes(
                "How many pictures still show what their prompt names, as the judge of the "
                "embedded world sees them: prompts with the word, and prompts without it."
            )
        )
    with measure.settings:
        compared = gr.Dropdown(
            list(COMPARED),
            value=[],
            multiselect=True,
            max_choices=6,
            label="Compare with",
            info="Other weights, controls and other methods. Each one takes more time.",
        )
        each = gr.Slider(2, 64, value=8, step=2, label="Pictures of each kind")
        points = gr.Slider(1, 10, value=5, step=1, label="Points on the curve")
    with measure.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading("With the word", "Lower means forgotten", 4)
            erased = plots.place("With the word", visible=False)
        with gr.Column():
            parts.heading("Without it", "Higher means kept", 4)
            kept = plots.place("Without it", visible=False)
    with measure.below:
        became = gr.HTML("", elem_id="few-shot-became")
    measure.wire(
        {**edit, "compared": compared, "pictures_each": each, "points": points},
        draw_curve,
        [erased, kept, became],
        number=forgotten_and_kept,
        params=params,
        back=values,
    )


def _take_along(frame: Frame, edit: Controls) -> None:
    """Baking to the shelf, and files for other tools."""
    gr.HTML(
        markup.notes(
            "Put the edited model on your shelf: other panels can use it there, and you can "
            "undo the edit bit for bit. Or save it as a file, which fits every checkpoint with "
            "the same text encoder."
        )
    )
    epoch = gr.Slider(-1, 20, value=-1, step=1, label="Epoch to take", info="−1 is the last")
    inputs = {**edit, "epoch": epoch}
    taking.bakes(
        frame, "Bake and put on the shelf", inputs, taking.in_tensors, params=params, back=values
    )
    with gr.Row():
        form = gr.Dropdown(list(FORMS.items()), value="encoder", label="File for other tools")
        rank = gr.Number(8, label="Rank of a LoRA", precision=0, minimum=1, maximum=768)
    inputs |= {"form": form, "rank": rank}
    taking.exports(frame, "Write the file", inputs, taking.of_largest, params=params, back=values)


# ---------------------------------------------------------------------- fields


def params(given: Settings) -> Settings:
    """Settings as the controls give them: the rate from its power, pictures as texts."""
    power = fields.real_number(given["learning_rate"], "Learning rate")
    return given | {
        "learning_rate": float(f"{10 ** min(max(power, -9.0), 9.0):.4g}"),
        "pictures": fields.pictures_in(given["pictures"], MOST_PICTURES),
    }


def values(given: Settings) -> Settings:
    """The values of the controls for such settings."""
    rate = given.get("learning_rate")
    if isinstance(rate, int | float) and rate > 0:
        given = given | {"learning_rate": round(math.log10(rate), 6)}
    return fields.joined(given, prompts="; ")


def _prompts(concept: str) -> str:
    return PROMPTS.format(concept)


def prompts_for(concept: str, now: str) -> object:
    """The prompts follow the concept as long as they are the panel's own."""
    ours = {_prompts(word) for word in SUGGESTIONS} | {_prompts(CONCEPT)}
    word = str(concept or "").strip()[:100]
    follows = now in ours or str(now).count("; a frog; a house") == 1
    return _prompts(word) if follows and word else gr.skip()


# ---------------------------------------------------------------------- drawing


def first_look() -> str:
    return parts.before_and_after((None, None, None), (), _prompts(CONCEPT).partition(";")[0])


def draw_run(result: "Unlearning", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The prompts through the epochs, the error as it climbs, and at the end the proof of undo."""
    film = _first(result) + (_film(result) if result.looks else "")
    if not ended:
        return film, gr.skip(), _error_plot(result)
    notes = markup.notes(*result.notes)
    return film + notes + _proof(result), _numbers(result), _error_plot(result)


def _first(result: "Unlearning") -> str:
    """The first prompt's pictures: original, after the last epoch so far, and undone."""
    looks = [*result.looks[:1], *result.looks[1:][-1:]]
    states = [*looks, *[None] * (2 - len(looks)), result.undone]
    return parts.before_and_after(
        [None if state is None else state.pictures[0] for state in states],
        [state.verdicts[0] if state and state.verdicts else "" for state in states],
        result.prompts[0],
        ("Original", f"After epoch {looks[-1].epoch}" if looks[1:] else "Forgotten", "Undone"),
    )


def still_seen(result: "Unlearning", recipe: Recipe) -> Number | None:
    """In how many pictures of prompts with the word the judge still sees it."""
    if len(result.looks) < 2:
        return None
    before, after = result.looks[0].verdicts, result.looks[-1].verdicts
    return concepts.still_seen(recipe.params["concept"], result.prompts, before, after)


def forgotten_and_kept(result: "Curve", recipe: Recipe) -> Number | None:
    """The share of pictures that show the word, at the first and the last point of the curve."""
    points = result.courses[0].points if result.courses else ()
    if len(points) < 2:
        return None
    first, last = points[0], points[-1]
    shares = [f"{100 * rate.rate:.0f} %" for rate in (first.target, last.target)]
    what = f"pictures that show it, by step {last.steps}; others: {last.kept.rate:.0%} right"
    return Number(what.replace("%", " %"), shares[1], shares[0])


def _film(result: "Unlearning") -> str:
    """One card a prompt: the last state, what became of it, and all states to scrub through."""
    first, last = result.looks[0], result.looks[-1]
    cards = []
    for index, prompt in enumerate(result.prompts):
        lines = [
            f"epoch {look.epoch}: {look.verdicts[index]}"
            for look in (first, last)
            if index < len(look.verdicts) and look.verdicts[index]
        ]
        frames = np.stack([look.pictures[index] for look in result.looks])
        cards.append(
            Shot(
                prompt,
                last.pictures[index],
                f"{prompt}, after epoch {last.epoch}",
                tuple(dict.fromkeys(lines)),
                frames=frames if len(frames) > 1 else None,
            )
        )
    ends = ("original", f"epoch {last.epoch}")
    return parts.shots(cards, scrub=len(result.looks) > 1, ends=ends)


def _proof(result: "Unlearning") -> str:
    """Fingerprints of weights and pictures, and whether they came back."""
    assert result.undone is not None  # a run that ended has drawn with the undone weights
    weights = markup.tick(
        result.weights_before == result.weights_undone,
        "the undone weights equal the original's, bit for bit",
        "SHA-256 "
        + markup.there_and_back(result.weights_before, result.weights_after, result.weights_undone),
    )
    pixels = markup.tick(
        result.same_pixels,
        "the undone model draws every pixel as before",
        f"original {markup.digits(result.looks[0].sha256)} · "
        f"undone {markup.digits(result.undone.sha256)}",
    )
    return f'<div class="ticks">{weights}{pixels}</div>'


def _numbers(result: "Unlearning") -> str:
    """The pictures that were learnt from, every epoch with its verdicts, and what moved."""
    assert result.undone is not None
    assert result.given is not None
    rows = {
        "original" if look.epoch == 0 else f"epoch {look.epoch}": (look.pictures, look.verdicts)
        for look in result.looks
    }
    rows["undone"] = (result.undone.pictures, result.undone.verdicts)
    sheet = parts.sheet(result.prompts, rows, backward="undone")
    given = parts.filmstrip("Learnt from", result.given)
    steps = len(result.errors)
    return (
        f'{given}<p class="note">{steps} steps in {result.training_seconds:.1f} s, '
        f"{result.trained_parameters:,} numbers trained of the text encoder; UNet and autoencoder "
        f"untouched.</p>{_moved(result)}"
        f"<details><summary>Every drawn epoch with its verdicts</summary>{sheet}</details>"
    )


def _moved(result: "Unlearning") -> str:
    """How far each part of each layer moved, relative to its size."""
    kinds = [kind for kind in PARTS if any(m.part == kind for m in result.moved)]
    layers = sorted({m.layer for m in result.moved})
    size = {(m.layer, m.part): m.relative for m in result.moved}
    rows = [
        [
            f"layer {layer + 1}" if layer >= 0 else "outside",
            *(
                f"{100 * size[at]:.2f} %" if (at := (layer, kind)) in size else "·"
                for kind in kinds
            ),
        ]
        for layer in layers
    ]
    table = markup.table(["", *(PARTS[kind] for kind in kinds)], rows)
    return markup.notes("How far the weights moved, relative to their size.") + table


def _error_plot(result: "Unlearning") -> object:
    """The denoising error of each batch; the mean of each epoch shows the trend."""
    if not result.errors:
        return gr.skip()
    steps = range(1, len(result.errors) + 1)
    size = result.updates_an_epoch
    means = [
        (first + size / 2 + 0.5, float(np.mean(result.errors[first : first + size])))
        for first in range(0, len(result.errors), size)
    ]
    lines = [
        Line("each step", steps, result.errors, neutral=True, marks=False),
        Line("mean of an epoch", [x for x, _ in means], [y for _, y in means]),
    ]
    title = "denoising error (higher: more forgotten)"
    return plots.shown(plots.curves(lines, "step", title, height=260))


def draw_curve(result: "Curve", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Both curves as they grow, and what prompts with the word became."""
    if not result.courses:
        return ()
    notes = markup.notes(*result.notes)
    return (
        _shares(result, lambda point: point.target),
        _shares(result, lambda point: point.kept),
        _became(result.courses[0]) + notes,
    )


def _shares(result: "Curve", rate: "Callable[[CoursePoint], Rate]") -> object:
    """One line a course; a baseline is level, since it takes no steps of ours."""
    longest = max((p.steps for c in result.courses for p in c.points), default=1) or 1
    lines = []
    for place, course in enumerate(result.courses):
        points = [(p.steps, rate(p)) for p in course.points]
        if course.is_baseline and points:
            points = [(0, points[0][1]), (longest, points[0][1])]
        lines.append(
            Line(
                course.name,
                [x for x, _ in points],
                [r.rate for _, r in points],
                place,
                neutral=course.is_baseline,
                hover=[
                    f"{course.name}, {x} steps: {r.hits} of {r.of} "
                    f"(95 %: {r.low:.0%} to {r.high:.0%})"
                    for x, r in points
                ],
            )
        )
    return plots.shown(plots.curves(lines, "steps", SHARE, height=300))


def _became(course: "Course") -> str:
    """What the judge sees for prompts with the word, by step."""
    rows = [
        [
            point.steps,
            f"{point.target.hits} of {point.target.of}",
            ", ".join(f"{word} {count}" for word, count in list(point.became.items())[:6]),
            f"{point.change:.1f}",
        ]
        for point in course.points
    ]
    table = markup.table(["steps", "still shown", "what is seen", "change of others"], rows)
    return (
        markup.notes(
            f"{course.name}: what prompts with the word show, as the judge sees it; nobody "
            "named what takes its place. The last column is the mean change of the other "
            "pictures, of 255."
        )
        + table
    )
