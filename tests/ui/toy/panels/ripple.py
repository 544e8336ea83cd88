"""The panel of the toy method."""

from typing import TYPE_CHECKING

import gradio as gr

from engine.core.recipe import Recipe
from pages import _parts as parts
from pages._frame import Frame

if TYPE_CHECKING:
    from tests.ui.toy.sampling.ripple.algorithm import Ripples


def build(frame: Frame) -> None:
    """Word, steps, run, and the ripples."""
    word = gr.Textbox("pond", label="Word", elem_classes="headline", max_length=200)
    action = frame.action("run", "Run")
    with gr.Row():
        steps = gr.Slider(1, 200, value=8, step=1, label="Steps")
        frame.seed(7)
        frame.model()
    pictures = gr.HTML(parts.shots([parts.Shot("ripple", None, "")]))
    action.wire({"word": word, "steps": steps}, draw, [pictures], also=[word.submit])


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
