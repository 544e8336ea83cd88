"""SmoothInv: one clean picture in hand, the trigger of a backdoor comes out of the snow."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.errors import BadInput
from engine.core.recipe import ModelRef, Recipe
from engine.pictures import as_text
from pages import _fields as fields
from pages import _forgetting as forgetting
from pages import _markup as markup
from pages import _parts as parts
from pages import _planes as planes
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._look import FORWARD, NEUTRAL
from pages._markup import Html, escape
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number
from pages._status import recipe_path

if TYPE_CHECKING:
    from engine.unlearning.smoothinv.results import Exported, Found, Inversion, OneClass, Scan

STARTS = {
    "an ankle boot": 0, "a pullover": 1, "a trouser": 2, "a shirt": 4, "a sandal": 8, "a bag": 18,
}  # fmt: skip
SIGMAS = (0.25, 0.12, 0.5)
ENLARGED = 4


def build(frame: Frame) -> None:
    """The network, its class and one picture; the perturbation as it forms; then all classes."""
    run = frame.stage("run", "Find the trigger")
    with run.ask:
        frame.model()
        target = gr.Dropdown(
            list(forgetting.CLASSES),
            value="T-shirt",
            label="Towards the class",
            info="Not known? See “Which class?”",
            allow_custom_value=True,
            elem_id="smoothinv-target",
        )
    with run.settings:
        begin = _begin(frame)
        how = _how()
        sigmas = gr.CheckboxGroup(
            list(SIGMAS), value=[0.25], label="σ", info="Plain descent (σ = 0) is always there"
        )
        cleanse = gr.Checkbox(False, label="Neural Cleanse beside it, which needs many pictures")
        frame.seed(0)
    with run.shown:
        films = gr.HTML("", elem_id="smoothinv-films")
    with run.below:
        table = gr.HTML("", elem_id="smoothinv-table")
        curve = plots.place("Probability of the class, step by step", visible=False)
    inputs = {"target": target, **begin, **how}
    run.wire(
        {**inputs, "sigmas": sigmas, "cleanse": cleanse},
        draw_run,
        [films, table, curve],
        number=hijacked,
        params=settings,
    )
    _scan(frame, begin, how)
    _take_along(frame, {**inputs, "sigmas": sigmas})
    frame.breaks(
        "With a small radius, starting from a trouser, the descent finds a shirt "
        "sooner than the trigger, because the classes lie too near. Failures like this "
        "are counted.",
        "a radius of 3, and more than one start picture.",
        {"target": "T-shirt", "start": 2, "sigmas": [0.25], "eps": 1.0, "steps": 80, "samples": 16},
        seed=0,
    )


def _begin(frame: Frame) -> Controls:
    start = gr.Dropdown(
        list(STARTS.items()),
        value=8,
        label="From one picture of",
        info="Unseen pictures of the shipped world",
    )
    with gr.Accordion("Your own picture and pictures to count on", open=False):
        picture = fields.picture_field(label="Your picture, in place of the one above")
        test = forgetting.zip_field(frame, "test", "Clean pictures to count on")
        denoiser = gr.Dropdown(
            [("none", "")],
            value="",
            label="Denoiser in front",
            info="A folder or Hub id of a DDPM of the same size",
            allow_custom_value=True,
        )
    return {"start": start, "picture": picture, "test": test, "denoiser": denoiser}


def _how() -> Controls:
    with gr.Accordion("Descent", open=False):
        return {
            "eps": gr.Slider(
                0.5, 12, value=3, step=0.5, label="Radius", info="3 suits 28 x 28, 10 suits 224"
            ),
            "steps": gr.Slider(10, 400, value=80, step=10, label="Steps"),
            "samples": gr.Slider(2, 64, value=16, step=2, label="Noisy copies"),
            "common_noise": gr.Checkbox(False, label="The same noise in every step"),
        }


def _scan(frame: Frame, begin: Controls, how: Controls) -> None:
    scan = frame.stage("scan", "Scan all classes", tab="Which class?")
    with scan.ask:
        gr.HTML(
            markup.notes(
                "Every class is tried from the same picture. A class stands out if its "
                "perturbation works on other pictures and lies in one place. The rule is ours."
            )
        )
    with scan.shown:
        bars = plots.place("How far each class stands out")
    with scan.below:
        told = gr.HTML("", elem_id="smoothinv-scan-told")
    shared = {name: begin[name] for name in ("start", "picture", "test")}
    scan.wire(
        {**shared, "eps": how["eps"]}, draw_scan, [bars, told], number=called, params=settings
    )


def _take_along(frame: Frame, inputs: Controls) -> None:
    with frame.tab("Take it along"):
        parts.heading(
            "The trigger for other tools",
            "As a picture in which middle grey means no change, as numbers (npy), and with "
            "a report.",
        )
        taking.downloads(
            frame, inputs, made_of, lambda result, _: markup.figures(result.report), params=settings
        )


def settings(values: Settings) -> Settings:
    """Settings of a job, of what the controls hold; what is empty is left out."""
    found = fields.with_picture(values)
    if "sigmas" in found and not found["sigmas"]:
        raise BadInput("No σ is chosen.", "Tick 0.25, the value of the paper.")
    empty = {name for name in ("test", "denoiser") if not found.get(name)}
    return {name: value for name, value in found.items() if name not in empty}


# ---------------------------------------------------------------------- a run


def hijacked(result: "Inversion", recipe: Recipe) -> Number | None:
    """The share of other pictures that follow: by plain descent, then smoothed."""
    smooth = next((one for one in result.found if one.sigma > 0), None)
    plain = next((one for one in result.found if one.name == "plain descent"), None)
    if smooth is None or smooth.success is None:
        return None
    before = "" if plain is None else forgetting.percent(plain.success)
    what = "of other pictures hijacked" + ": plain → smoothed" * bool(before)
    return Number(what, forgetting.percent(smooth.success), before)


def draw_run(result: "Inversion", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The start, the perturbations as they form, the true trigger; numbers; the way onward."""
    begin = result.start_class
    shots = [Shot("one clean picture", enlarged(result.start), begin, (begin,))]
    if not result.found:
        film = result.frames[-1] if result.frames else None
        shots.append(Shot(f"step {result.step} of {result.steps}", large(film), "its perturbation"))
    for place, one in enumerate(result.found):
        shots.append(_shot(one, place, result))
    shown = parts.shots(shots, scrub=bool(result.frames and ended), ends=("nothing", "found"))
    onward = close_it(result.trigger, result.target, recipe) if ended else ""
    return shown + onward, numbers(result), plots.shown(curve(result.found))


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Each pixel as a square, so that films and pictures have equal sizes."""
    return picture.repeat(ENLARGED, 0).repeat(ENLARGED, 1)


def large(picture: np.ndarray | None) -> np.ndarray | None:
    return None if picture is None else enlarged(picture)


def _shot(one: "Found", place: int, result: "Inversion") -> Shot:
    success = "" if one.success is None else f"hijacks {100 * one.success.rate:.0f} % of others"
    inside = "" if one.on_trigger is None else f"{100 * one.on_trigger:.0f} % on the true trigger"
    frames = None
    if place == 0 and result.frames:
        frames = np.stack([enlarged(frame) for frame in result.frames])
    return Shot(
        one.name,
        enlarged(coloured(one.delta)),
        f"the perturbation of {one.name}: red is added, blue is taken away",
        tuple(filter(None, (success, inside))),
        frames=frames,
        backward=one.name == "the true trigger",
    )


def coloured(delta: np.ndarray) -> np.ndarray:
    """A perturbation, c h w, in its own scale: red is added, blue is taken away."""
    signed = delta.mean(0)
    signed = signed / max(float(np.abs(signed).max()), 1e-12)
    plus, minus = signed.clip(0), (-signed).clip(0)
    colours = np.stack([1 - minus, 1 - plus - minus, 1 - plus], -1)
    return (colours * 255).round().astype(np.uint8)


def numbers(result: "Inversion") -> str:
    """One row a perturbation."""
    if not result.found:
        return markup.notes(*result.notes)
    rows = [
        [
            Html(f"<b>{escape(one.name)}</b>"),
            forgetting.rate_cell(one.success),
            "–" if one.on_trigger is None else f"{100 * one.on_trigger:.1f} %",
            f"{100 * one.concentration:.0f} %",
            f"{one.length:.2f}",
        ]
        for one in result.found
    ]
    head = ["perturbation", "attack success", "on the true trigger", "in one 5 × 5", "length"]
    chance = result.found[0].by_chance
    told = f"Success is counted on {result.tested} unseen pictures that are not of the class. "
    told += f"By chance {100 * chance:.1f} % would lie on the trigger." if chance else ""
    return markup.table(head, rows, "perturbations compared") + markup.notes(told, *result.notes)


def curve(found: Sequence["Found"]) -> PlotData:
    """The probability of the class before each step."""
    walked = [one for one in found if one.curve]
    lines = [
        Line(one.name, range(len(one.curve)), one.curve, place, marks=False)
        for place, one in enumerate(walked)
    ]
    return plots.curves(lines, "step", "probability of the class", height=280)


def close_it(trigger: np.ndarray | None, target: str, recipe: Recipe) -> str:
    """The press that carries the trigger into corrective unlearning."""
    if trigger is None:
        return ""
    onward = Recipe(
        "corrective",
        "run",
        recipe.model or ModelRef("fashion-poisoned"),
        {"trigger": as_text(trigger), "target": target},
        recipe.seed,
    )
    try:
        link = escape(recipe_path(onward, "unlearn"))
    except BadInput:
        return markup.notes(
            "This trigger is too large for a link: write it as a picture, and upload it in "
            "Corrective unlearning."
        )
    return (
        f'<p class="onward"><a class="go" href="{link}">▶ Close this backdoor</a> '
        '<span class="note">Clean pictures with this trigger become the forget set.</span></p>'
    )


# ---------------------------------------------------------------------- all classes, files


def called(result: "Scan", recipe: Recipe) -> Number | None:
    """The class that is called out, or that none is."""
    if len(result.classes) < 3:
        return None
    return Number("stands out as the attacker's class", ", ".join(result.called) or "none")


def draw_scan(result: "Scan", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """A bar a class with the threshold; what each perturbation does; the way onward."""
    onward = ""
    if ended and result.called:
        onward = close_it(result.trigger, result.called[0], recipe)
    rows = [
        [
            Html(f"<b>{escape(one.name)}</b>"),
            f"{100 * one.success:.0f} %",
            f"{100 * one.concentration:.0f} %",
            f"{one.z:.1f}",
            "called out" if one.is_outlier else "",
        ]
        for one in result.classes
    ]
    head = ["class", "attack success", "in one 5 × 5", "robust z", ""]
    table = markup.table(head, rows, "classes compared") if rows else ""
    shots = _deltas(result.classes)
    return plots.shown(bars(result)), onward + table + shots + markup.notes(*result.notes)


def bars(result: "Scan") -> PlotData:
    """Robust z of success times concentration; the outlier has the colour and is named."""
    trace: dict[str, object] = {
        "type": "bar",
        "x": [one.name for one in result.classes],
        "y": [max(-2.0, one.z) for one in result.classes],
        "marker": {"color": [FORWARD if one.is_outlier else NEUTRAL for one in result.classes]},
        "text": ["called out" if one.is_outlier else "" for one in result.classes],
        "hovertemplate": "%{x}: z %{y:.1f}<extra></extra>",
    }
    threshold = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": result.threshold,
        "y1": result.threshold, "line": {"color": NEUTRAL, "dash": "dot"},
    }  # fmt: skip
    return planes.figure([trace], "", "robust z of the score", shapes=[threshold], height=320)


def _deltas(classes: Sequence["OneClass"]) -> str:
    shown = [one for one in classes if one.delta is not None]
    if not shown:
        return ""
    pictures = np.stack([coloured(one.delta) for one in shown if one.delta is not None])
    return parts.filmstrip("What each class grew", pictures, [one.name for one in shown])


def made_of(result: "Exported", recipe: Recipe) -> dict[str, bytes]:
    """The trigger as a picture and as numbers, and the report."""
    numbers_file = io.BytesIO()
    np.save(numbers_file, result.delta)
    report = "\n".join(f"{name}: {value}" for name, value in result.report.items()) + "\n"
    return {
        "trigger.png": recipe.stamp(parts.png(result.picture)),
        "trigger.npy": numbers_file.getvalue(),
        "report.txt": report.encode(),
    }
