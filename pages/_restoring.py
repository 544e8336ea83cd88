"""Recipes into controls: what a link, a file or a run under way sets in a panel."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import gradio as gr
from gradio.components.base import Component

from engine import sounds
from engine.core.catalog import Entry
from engine.core.errors import BadInput
from engine.core.recipe import Recipe
from engine.pictures import HEAD, from_text
from pages._handlers import gradio_errors
from pages._serving import Query
from pages._shelf import model_text
from pages._status import day, note

if TYPE_CHECKING:
    from pages._actions import Action


# What a link says of a panel or a lesson, and of no setting.
NAMING = {"method", "action", "schema", "lesson"}


@dataclass(frozen=True)
class Restoring:
    """The controls of a panel as recipes set them. `actions` may still grow."""

    entry: Entry
    actions: Mapping[str, "Action"]

    def slots(self) -> list[Component]:
        """Every control once. Two actions may each have one of the same name, or share one."""
        every = [c for action in self.actions.values() for c in action.controls.values()]
        return list({id(control): control for control in every}.values())

    def from_page(self, request: gr.Request) -> list[object]:
        """Sets the controls from the address of the page, if it holds a recipe of this method."""
        return self.from_query(urlencode(dict(request.query_params)) if request else "")

    def from_query(self, query: str) -> list[object]:
        """An update of each control, then of the line below each button; the query is that of a
        link."""
        names = {name for action in self.actions.values() for name in action.controls}
        recipe = Recipe.from_query(query, known=names) if query else None
        asked = dict(parse_qsl(query, keep_blank_values=True))
        is_ours = recipe is not None and recipe.method == self.entry.slug
        if recipe is None or not is_ours or not asked.keys() - NAMING:
            return [gr.skip() for _ in range(len(self.slots()) + len(self.actions))]
        unread = unread_in(asked, recipe)
        without = ["seed"] if "seed" not in asked or "seed" in unread else []
        return self._apply(recipe, "the link", without, unread)

    def from_file(self, path: str) -> list[object]:
        """Sets the controls from a recipe file, or from a picture that carries one."""
        with gradio_errors():
            data = Path(path).read_bytes()
            png = data[:8] == b"\x89PNG\r\n\x1a\n"
            recipe = (
                Recipe.from_png(data) if png else Recipe.from_json(data.decode("utf-8", "replace"))
            )
            if recipe.method != self.entry.slug:
                raise BadInput(
                    f"This recipe belongs to {recipe.slug}, not to {self.entry.name}.",
                    "Open it in the panel of that method.",
                )
            return self._apply(recipe, "the file")

    def _apply(
        self, recipe: Recipe, source: str, without: Sequence[str] = (), unread: Sequence[str] = ()
    ) -> list[object]:
        """Updates of all controls and of the lines below the buttons.

        `without` are settings of the recipe that the link does not name, `unread` are names of the
        link that the recipe could not take.
        """
        action = self.actions.get(recipe.action)
        taken = self.entry.without_model(recipe) if action else recipe
        given = {name: v for name, v in self.values(taken).items() if name not in without}
        updates, left_out = self.updates(action, given)
        text = summary(source, sum(new != gr.skip() for new in updates), [*left_out, *unread])
        if text and taken.model is not recipe.model:
            text += f" It names a model; none is used here, so that of {source} is ignored."
        if text and action and (kept := action.recording):
            text += f" What stands here was recorded on {day(kept.made)} with the defaults."
        if text and (mismatch := recipe.mismatch()):
            text += f" {mismatch}"
        # Below the button that is to be pressed: the first one may be far above it, or hidden.
        pressed = recipe.action if action else next(iter(self.actions))
        line = note(text) if text else gr.skip()
        return [*updates, *(line if name == pressed else gr.skip() for name in self.actions)]

    def values(self, recipe: Recipe) -> dict[str, object]:
        """What the controls hold for a recipe, by name."""
        action = self.actions.get(recipe.action)
        given = action.back(dict(recipe.params)) if action else dict(recipe.params)
        model = {} if recipe.model is None else {"model": model_text(recipe.model)}
        return {**given, "seed": recipe.seed, **model}

    def updates(
        self, action: "Action | None", given: Mapping[str, object]
    ) -> tuple[list[object], list[str]]:
        """The update of each slot, and the names whose values no control of the action takes."""
        controls = action.controls if action else {}
        fitting = {name for name in given if name in controls and fits(controls[name], given[name])}
        names = {id(control): name for name, control in controls.items() if name in fitting}
        updates = [
            filled(control, given[names[id(control)]]) if id(control) in names else gr.skip()
            for control in self.slots()
        ]
        return updates, [name for name in given if name not in fitting]

    def of_run(self, action: "Action", recipe: Recipe) -> list[object]:
        """The update of each control of an action, in its order, to what a run was asked with."""
        updates, _ = self.updates(action, self.values(recipe))
        new = dict(zip(map(id, self.slots()), updates, strict=True))
        return [new[id(control)] for control in action.controls.values()]


def asks_for(slug: str, query: Query) -> bool:
    """Whether an address holds a recipe of this method."""
    return query.get("method", "").replace("-", "_") == slug


def summary(source: str, set_here: int, left_out: Sequence[str]) -> str:
    """What was restored from a link or a file, and what was not; nothing to say of nothing."""
    left = f" Left as it was: {', '.join(left_out)}." if left_out else ""
    if set_here:
        return f"Restored from {source}.{left} Press the button to run it."
    return f"Nothing in {source} could be set here.{left}" if left_out else ""


def unread_in(asked: Query, recipe: Recipe) -> list[str]:
    """What a link says of seed and model and its recipe does not: no seed, or edits of no model."""
    seed = asked.get("seed", "")
    is_read = bool(re.fullmatch("[0-9]{1,19}", seed)) and int(seed) == recipe.seed
    unread = ["seed"] if "seed" in asked and not is_read else []
    about_models = ("model", "revision", "edits") if recipe.model is None else ()
    return [*unread, *(name for name in about_models if name in asked)]


def fits(control: Component, value: object) -> bool:
    """Whether a value from outside may be put into a control."""
    if isinstance(control, gr.Slider | gr.Number):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return False
        low = -math.inf if control.minimum is None else control.minimum
        high = math.inf if control.maximum is None else control.maximum
        return low <= value <= high
    if isinstance(control, gr.CheckboxGroup):
        known = [choice for _, choice in control.choices]
        return isinstance(value, list) and all(item in known for item in value)
    if isinstance(control, gr.Dropdown | gr.Radio):
        known = [choice for _, choice in control.choices]
        typed = getattr(control, "allow_custom_value", False)
        if getattr(control, "multiselect", False):
            return isinstance(value, list) and all(
                item in known or (typed and isinstance(item, str) and len(item) < 500)
                for item in value
            )
        return value in known or (typed and isinstance(value, str) and len(value) < 500)
    if isinstance(control, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(control, gr.Image):
        return isinstance(value, str) and value.startswith(HEAD)
    if isinstance(control, gr.Gallery):
        return isinstance(value, list) and all(
            isinstance(text, str) and text.startswith(HEAD) for text in value
        )
    if isinstance(control, gr.Audio):
        return isinstance(value, str) and value.startswith(sounds.HEAD)
    if isinstance(control, gr.Textbox):
        return isinstance(value, str) and len(value) <= (control.max_length or 10_000)
    return False


def filled(control: Component, value: object) -> object:
    """The update that puts a value which fits into a control."""
    if isinstance(control, gr.Image):
        return gr.update(value=from_text(str(value)))
    if isinstance(control, gr.Gallery):
        return gr.update(value=[from_text(text) for text in value])  # type: ignore[attr-defined]
    if isinstance(control, gr.Audio):
        sound = sounds.from_text(str(value))
        return gr.update(value=(sound.rate, sound.samples))
    return gr.update(value=value)
