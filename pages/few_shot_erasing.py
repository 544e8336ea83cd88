"""Few-shot erasing: a word is forgotten from a few pictures, epoch by epoch, and restored."""

import math
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np

from engine.core.job import Done, Progress
from engine.core.recipe import Recipe
from engine.erasing.few_shot_erasing import COMPARED, OPTIMIZERS, PARAMETERS
from pages import _parts as parts
from pages import _taking as taking
from pages._frame import Frame, real_number
from pages._handlers import named
from pages._parts import escape

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
PLOT = {"show_label": False, "container": False}


def build(frame: Frame) -> None:
    """What to forget and how far; the epochs; then the curve, and the ways to take it along."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            concept, source, pictures = _question()
            run = frame.action("run", "Forget")
        with gr.Column(elem_classes="settings"):
            edit, view = _settings(frame)
        with gr.Column(elem_classes="shown"):
            epochs = gr.HTML(first_look(), elem_id="few-shot-epochs")
    edit = {"concept": concept, "source": source, "pictures": pictures, **edit}
    numbers = gr.HTML("", elem_id="few-shot-numbers")
    errors = gr.Plot(label="Denoising error", visible=False, **PLOT)
    run.wire(
        {**edit, **view},
        draw_run,
        [epochs, numbers, errors],
        params=params,
        back=values,
        also=[concept.submit],
    )
    _curve(frame, edit)
    _take_along(frame, edit)
    # A visitor's own change, as a link brings its own prompts with its concept.
    concept.input(
        named(prompts_for, "few_shot_prompts"),
        [concept, view["prompts"]],
        view["prompts"],
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    frame.breaks(
        "Nothing bounds the climb. With twelve epochs at more than twice the rate everything goes, "
        "not only the word.",
        "an earlier epoch, in which the neighbours still stand; or RECE, which needs no pictures "
        "and is told which words to keep.",
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
    parts.suggestions("few-shot-concept", SUGGESTIONS)
    source = gr.Radio(list(SOURCES.items()), value="drawn", label="Pictures to learn from")
    with gr.Accordion("Your own pictures instead", open=False):
        pictures = parts.pictures_field(
            label="One to eight pictures of it", columns=4, height=220, elem_id="few-shot-own"
        )
    return concept, source, pictures


def _settings(frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the erasure, and of the pictures."""
    epochs = gr.Slider(
        1, 20, value=EPOCHS, step=1, label="Epochs", info="Each shows every picture once"
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
        steps = gr.Slider(4, 50, value=10, step=1, label="Sampler steps")
        guidance = gr.Slider(1, 12, value=4, step=0.5, label="Guidance")
    edit = {"epochs": epochs, "learning_rate": rate, "parameters": parameters, **edit}
    view = {"prompts": prompts, "looks": looks, "steps": steps, "guidance_scale": guidance}
    return edit, view


def _more() -> dict[str, Any]:
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


def _optimizer() -> dict[str, Any]:
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


def _curve(frame: Frame, edit: Mapping[str, Any]) -> None:
    parts.heading(
        "Collateral damage",
        "How many pictures still show what their prompt names, as the judge of the embedded world "
        "sees them: prompts with the word, and prompts without it.",
    )
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="ask"):
            measure = frame.action("curve", "Measure the curve")
        with gr.Column(elem_classes="settings"):
            compared = gr.Dropdown(
                list(COMPARED),
                value=[],
                multiselect=True,
                max_choices=6,
                label="Compare with",
                info="Other weights, controls, and other methods; each takes its time",
            )
            each = gr.Slider(2, 64, value=8, step=2, label="Pictures of each kind")
            points = gr.Slider(1, 10, value=5, step=1, label="Points on the curve")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading("With the word", "Down is forgotten", 4)
            erased = gr.Plot(label="With the word", visible=False, **PLOT)
        with gr.Column():
            parts.heading("Without it", "Up is kept", 4)
            kept = gr.Plot(label="Without it", visible=False, **PLOT)
    became = gr.HTML("", elem_id="few-shot-became")
    measure.wire(
        {**edit, "compared": compared, "pictures_each": each, "points": points},
        draw_curve,
        [erased, kept, became],
        params=params,
        back=values,
    )


def _take_along(frame: Frame, edit: Mapping[str, Any]) -> None:
    """Baking to the shelf, and files for other tools."""
    parts.heading(
        "Take it along",
        "On your shelf other panels can pick the edited model, and undo it bit for bit. Or as a "
        "file: it fits every checkpoint with the same text encoder.",
    )
    epoch = gr.Slider(-1, 20, value=-1, step=1, label="Epoch to take", info="−1 is the last")
    fields = {**edit, "epoch": epoch}
    both_ways: dict[str, Any] = {"params": params, "back": values}
    taking.bakes(frame, "Bake and put on the shelf", fields, taking.in_tensors, **both_ways)
    with gr.Row():
        form = gr.Dropdown(list(FORMS.items()), value="encoder", label="File for other tools")
        rank = gr.Number(8, label="Rank of a LoRA", precision=0, minimum=1, maximum=768)
    fields |= {"form": form, "rank": rank}
    taking.exports(frame, "Write the file", fields, taking.of_largest, **both_ways)


# ---------------------------------------------------------------------- fields


def params(given: dict[str, Any]) -> dict[str, Any]:
    """Settings as the controls give them: the rate from its power, pictures as texts."""
    power = real_number(given["learning_rate"], "Learning rate")
    return given | {
        "learning_rate": float(f"{10 ** min(max(power, -9.0), 9.0):.4g}"),
        "pictures": parts.pictures_in(given["pictures"], MOST_PICTURES),
    }


def values(given: dict[str, Any]) -> dict[str, Any]:
    """The values of the controls for such settings."""
    rate = given.get("learning_rate")
    if isinstance(rate, int | float) and rate > 0:
        given = given | {"learning_rate": round(math.log10(rate), 6)}
    if isinstance(given.get("prompts"), list):
        given = given | {"prompts": "; ".join(map(str, given["prompts"]))}
    return given


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
    prompts = [text.strip() for text in _prompts(CONCEPT).split(";")]
    return parts.shots([parts.Shot(prompt, None, "") for prompt in prompts])


def draw_run(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The prompts through the epochs, the error as it climbs, and at the end the proof of undo."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None:
        return gr.skip(), gr.skip(), gr.skip()
    film = _film(found) if found.looks else first_look_of(found.prompts)
    if isinstance(event, Progress):
        return film, gr.skip(), _error_plot(found)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return film + notes + _proof(found), _numbers(found), _error_plot(found)


def first_look_of(prompts: tuple[str, ...]) -> str:
    return parts.shots([parts.Shot(prompt, None, "") for prompt in prompts])


def _film(found: Any) -> str:
    """One card a prompt: the last state, what became of it, and all states to scrub through."""
    first, last = found.looks[0], found.looks[-1]
    cards = []
    for index, prompt in enumerate(found.prompts):
        lines = [
            f"epoch {look.epoch}: {look.verdicts[index]}"
            for look in (first, last)
            if index < len(look.verdicts) and look.verdicts[index]
        ]
        frames = np.stack([look.pictures[index] for look in found.looks])
        cards.append(
            parts.Shot(
                prompt,
                last.pictures[index],
                f"{prompt}, after epoch {last.epoch}",
                tuple(dict.fromkeys(lines)),
                frames=frames if len(frames) > 1 else None,
            )
        )
    ends = ("original", f"epoch {last.epoch}")
    return parts.shots(cards, scrub=len(found.looks) > 1, ends=ends)


def _proof(found: Any) -> str:
    """Fingerprints of weights and pictures, and whether they came back."""
    weights = found.weights_before == found.weights_undone
    arrows = (
        f"<code>{found.weights_before[:12]}</code> "
        f'<span class="mark forward" aria-label="becomes">▶</span> '
        f"<code>{found.weights_after[:12]}</code> "
        f'<span class="mark backward" aria-label="goes back to">◀</span> '
        f"<code>{found.weights_undone[:12]}</code>"
    )
    pixels = (
        f"<code>{found.looks[0].sha256[:12]}</code> · undone "
        f"<code>{found.undone.sha256[:12]}</code>"
    )
    return (
        '<div class="ticks">'
        f"<p><b>{'✓' if weights else '✗'} the undone weights equal the original's, bit for bit</b> "
        f'<span class="note">SHA-256 {arrows}</span></p>'
        f"<p><b>{'✓' if found.same_pixels else '✗'} the undone model draws every pixel as before"
        f'</b> <span class="note">original {pixels}</span></p></div>'
    )


def _numbers(found: Any) -> str:
    """The pictures that were learnt from, every epoch with its verdicts, and what moved."""
    rows = {
        "original" if look.epoch == 0 else f"epoch {look.epoch}": (look.pictures, look.verdicts)
        for look in found.looks
    }
    rows["undone"] = (found.undone.pictures, found.undone.verdicts)
    sheet = parts.sheet(found.prompts, rows, backward="undone")
    given = parts.filmstrip("Learnt from", found.given)
    steps = len(found.errors)
    return (
        f'{given}<p class="note">{steps} steps in {found.training_seconds:.1f} s, '
        f"{found.trained_parameters:,} numbers trained of the text encoder; UNet and autoencoder "
        f"untouched.</p>{_moved(found)}"
        f"<details><summary>Every drawn epoch with its verdicts</summary>{sheet}</details>"
    )


def _moved(found: Any) -> str:
    """How far each part of each layer moved, relative to its size."""
    kinds = [kind for kind in PARTS if any(m.part == kind for m in found.moved)]
    layers = sorted({m.layer for m in found.moved})
    size = {(m.layer, m.part): m.relative for m in found.moved}
    head = "".join(f"<th>{PARTS[kind]}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><td>{'layer ' + str(layer + 1) if layer >= 0 else 'outside'}</td>"
        + "".join(
            f"<td>{size[layer, kind]:.2%}</td>" if (layer, kind) in size else "<td>·</td>"
            for kind in kinds
        )
        + "</tr>"
        for layer in layers
    ).replace("%", " %")
    return (
        '<p class="note">How far the weights moved, relative to their size.</p>'
        '<div class="scroll" tabindex="0"><table class="plain">'
        f"<tr><th></th>{head}</tr>{rows}</table></div>"
    )


def _error_plot(found: Any) -> object:
    """The denoising error of each batch; the mean of each epoch shows the trend."""
    if not found.errors:
        return gr.skip()
    steps = range(1, len(found.errors) + 1)
    size = found.updates_an_epoch
    means = [
        (first + size / 2 + 0.5, float(np.mean(found.errors[first : first + size])))
        for first in range(0, len(found.errors), size)
    ]
    lines = [
        parts.Line("each step", steps, found.errors, neutral=True, marks=False),
        parts.Line("mean of an epoch", [x for x, _ in means], [y for _, y in means]),
    ]
    title = "denoising error (up is forgetting)"
    return gr.Plot(value=parts.plot(lines, "step", title, height=260), visible=True)


def draw_curve(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """Both curves as they grow, and what prompts with the word became."""
    found: Any = event.result if isinstance(event, Done) else event.preview
    if found is None or not found.courses:
        return gr.skip(), gr.skip(), gr.skip()
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    return (
        _shares(found, lambda point: point.target),
        _shares(found, lambda point: point.kept),
        _became(found.courses[0]) + notes,
    )


def _shares(found: Any, rate: Any) -> object:
    """One line a course; a baseline is level, since it takes no steps of ours."""
    longest = max((p.steps for c in found.courses for p in c.points), default=1) or 1
    lines = []
    for place, course in enumerate(found.courses):
        points = [(p.steps, rate(p)) for p in course.points]
        if course.is_baseline and points:
            points = [(0, points[0][1]), (longest, points[0][1])]
        lines.append(
            parts.Line(
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
    return gr.Plot(value=parts.plot(lines, "steps", SHARE, height=300), visible=True)


def _became(course: Any) -> str:
    """What the judge sees for prompts with the word, by step."""
    rows = "".join(
        f"<tr><td>{point.steps}</td><td>{point.target.hits} of {point.target.of}</td><td>"
        + escape(", ".join(f"{word} {count}" for word, count in list(point.became.items())[:6]))
        + f"</td><td>{point.change:.1f}</td></tr>"
        for point in course.points
    )
    return (
        f'<p class="note">{escape(course.name)}: what prompts with the word show, as the judge '
        "sees it; nobody named what takes its place. The last column is the mean change of the "
        "other pictures, of 255.</p>"
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>steps</th>'
        "<th>still shown</th><th>what is seen</th><th>change of others</th></tr>"
        f"{rows}</table></div>"
    )
