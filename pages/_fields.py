"""Fields of panels: pictures and numbers that are checked with a sentence, suggestions, models."""

import math
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import gradio as gr
from gradio.component_meta import ComponentMeta
from gradio.components.base import Component
from gradio.data_classes import ImageData
from PIL import Image

from engine.core.errors import BadInput
from engine.models import devices
from engine.pictures import as_text, at_most, opened
from pages._markup import escape

# Uploaded pictures travel inside recipes, and with every update of the page.
LARGEST_UPLOAD, LARGEST_UPLOADS = 512, 900_000


# What controls hold by name, and the settings of a job that are made of it.
Settings: TypeAlias = dict[str, object]
Controls: TypeAlias = dict[str, Component]


class _Unlisted(ComponentMeta):
    """Makes a component class without the stub file that Gradio writes beside its module."""

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, object]) -> type:
        return ABCMeta.__new__(cls, name, bases, attrs)


class PictureField(gr.Image, metaclass=_Unlisted):
    """A picture field that hands on the file as it came; `picture_setting` opens and checks it.

    Gradio's own decoding comes before any handler, so a file that is no picture would end without a
    sentence. A class and not a changed instance: Gradio makes a component anew from its arguments
    whenever an event of the page updates it.
    """

    is_template = True  # for the page it is an Image

    def preprocess(self, payload: ImageData | None) -> str | None:
        return None if payload is None else payload.path or ""


class WholeNumber(gr.Number, metaclass=_Unlisted):
    """A number field that hands on what was typed, for a sentence about it where it does not fit.

    Gradio's own check would round 1.5 without a word and refuse -1 before any handler runs. In the
    page, rewind.js settles the field when it is left, and says so.
    """

    is_template = True

    def preprocess(self, payload: float | None) -> float | int | None:
        return payload


def picture_field(**settings: object) -> gr.Image:
    """A field for one picture; `picture_setting` reads what was put there."""
    return PictureField(sources=["upload", "clipboard"], elem_classes="pixel upload", **settings)


def picture_setting(value: object, side: int | None = LARGEST_UPLOAD) -> dict[str, str]:
    """The setting `picture` with what such a field holds, turned as its camera says; or none.

    Shrunk until it fits into a recipe and `side`; None keeps up to four megapixels.
    Raises `BadInput` for a file that is no picture.
    """
    if value is None:
        return {}
    picture = opened(value)
    if side is None:
        return {"picture": as_text(at_most(picture))}
    return {"picture": _texts([picture], side)[0]}


def with_picture(values: Mapping[str, object], side: int | None = LARGEST_UPLOAD) -> Settings:
    """The settings with what the field `picture` holds as text, or without one."""
    others = {name: value for name, value in values.items() if name != "picture"}
    return others | picture_setting(values.get("picture"), side)


def joined(settings: Mapping[str, object], **between: str) -> Settings:
    """The settings with lists as a text field holds them, what stands between items by name."""
    return {
        name: between[name].join(map(str, value))
        if name in between and isinstance(value, list)
        else value
        for name, value in settings.items()
    }


def options(titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Choices of a field, of titles by name."""
    return [(title, name) for name, title in titles.items()]


def pictures_field(**settings: object) -> gr.Gallery:
    """Several pictures to upload; `pictures_in` reads what was put there."""
    return gr.Gallery(
        type="filepath", file_types=["image"], format="png", interactive=True, **settings
    )


def pictures_in(value: object, most: int) -> list[str]:
    """The pictures of such a field as texts for a recipe, turned as their camera says.

    Raises `BadInput` for a file that is no picture.
    """
    listed = value if isinstance(value, list | tuple) else []
    if len(listed) > most:
        raise BadInput(f"There are {len(listed)} pictures; {most} are allowed.", "Take fewer.")
    return _texts(
        [opened(item[0] if isinstance(item, list | tuple) else item) for item in listed],
        LARGEST_UPLOAD,
    )


def _texts(pictures: Sequence[Image.Image], side: int) -> list[str]:
    """Pictures as texts, their sides halved until all fit into a recipe."""
    while True:
        texts = [as_text(at_most(picture, side)) for picture in pictures]
        if sum(map(len, texts)) < LARGEST_UPLOADS or side <= 64:
            return texts
        side //= 2


def real_number(value: object, name: str) -> float:
    """The value as a number. Raises `BadInput` for anything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{name} must be a number.", "Put the slider where you want it.")
    return value


def sampling(steps: int, least: int = 4) -> Controls:
    """How pictures are drawn: the number of steps, and how strongly the prompt guides them."""
    return {
        "steps": gr.Slider(least, 50, value=steps, step=1, label="Sampler steps"),
        "guidance_scale": gr.Slider(1, 12, value=4, step=0.5, label="Guidance"),
    }


def suggestions(field: str, texts: Sequence[str]) -> None:
    """Small buttons that put a text into the field with this id."""
    buttons = "".join(
        f'<button type="button" class="copy" data-fill="{escape(field)}">{escape(text)}</button>'
        for text in texts
    )
    gr.HTML(f'<div class="suggestions" role="group" aria-label="Suggestions">{buttons}</div>')


def model_picker(models: Mapping[str, str], **settings: object) -> gr.Dropdown:
    """A choice of shipped models that also takes a Hub id or a local folder as typed text.

    `models` maps key to title. Models of the visitor's shelf are added to it by the frame.
    """
    return gr.Dropdown(
        choices=[(title, key) for key, title in models.items()],
        value=next(iter(models), None),
        allow_custom_value=True,
        filterable=True,
        label="Model",
        info="Shipped, from your shelf, a Hub id (owner/name@revision), or a folder; "
        f"it computes on {devices.told()}",
        **settings,
    )
