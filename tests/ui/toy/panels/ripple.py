"""The panel of the toy method."""

from typing import TYPE_CHECKING

import gradio as gr

from engine.core.recipe import Recipe
from pages import _parts as parts
from pages._frame import Frame
from pages._recordings import Number

if TYPE_CHECKING:
    from tests.ui.toy.sampling.ripple.algorithm import Ripples


def build(frame: Frame) -> None:
    """Word, steps, run, the ripples, and how many there are."""
    run = frame.stage("run", "Run")
    with run.ask:
        word = gr.Textbox("pond", label="Word", elem_classes="headline", max_length=200)
    with run.settings:
        steps = gr.Slider(1, 200, value=8, step=1, label="Steps")
        frame.seed(7)
        frame.model()
    with run.shown:
        pictures = gr.HTML(parts.shots([parts.Shot("ripple", None, "")]))
    run.wire({"word": word, "steps": steps}, draw, [pictures], number=number, also=[word.submit])


def draw(rippled: "Ripples", recipe: Recipe, ended: bool) -> tuple[str]:
    """The latest ripple; at the end the film with the recipe in the picture."""
    frames = rippled.frames
    shot = parts.Shot(
        str(recipe.params["word"]),
        frames[-1],
        f"ripples, {len(frames)} states",
        (f"{len(frames)} states",),
        frames if ended else None,
        recipe.stamp(parts.png(frames[-1])) if ended else None,
        "ripple.png",
        mark=0,
    )
    return (parts.shots([shot], scrub=ended, ends=("first", "last")),)


def number(rippled: "Ripples", recipe: Recipe) -> Number:
    """The states so far."""
    return Number("states of the water", f"{len(rippled.frames)}")
