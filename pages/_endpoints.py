"""Recipes over the API: one endpoint an action, plain values and files out."""

import base64
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from engine.core.catalog import Entry
from engine.core.errors import BadInput
from engine.core.job import Done, Event, Job, Progress
from engine.core.recipe import ModelRef, Recipe
from engine.results import files_of, keep_edit
from pages._handlers import gradio_errors, guarded

Runner: TypeAlias = Callable[[Job], Generator[Event, None, None]]


def endpoint_of(entry: Entry, action: str, runner: Runner) -> Callable[[str], Iterator[dict]]:
    """The function behind the endpoint of an action: the recipe as JSON text in, its events out."""

    def endpoint(recipe: str) -> Iterator[dict]:
        """Runs a recipe (JSON text) and gives its progress, then its result as plain values."""
        with gradio_errors():
            given = Recipe.from_json(recipe if isinstance(recipe, str) else json.dumps(recipe))
            if (given.method, given.action) != (entry.slug, action):
                raise BadInput(
                    f"This endpoint runs {entry.name} {action}, the recipe says "
                    f"{given.slug} {given.action}.",
                    f"Call {given.endpoint}.",
                )
            given = entry.without_model(given)
            job = given.job(entry.target(given.action))
        for event in guarded(runner(job)):
            if isinstance(event, Progress):
                yield {"done": event.done, "total": event.total, "note": event.note}
            elif isinstance(event, Done):
                with gradio_errors():
                    edited = keep_edit(event.result, given.model)
                yield api_result(event.result, given.here(), edited)

    return endpoint


def api_result(result: object, recipe: Recipe, edited: ModelRef | None = None) -> dict:
    """A result for clients: its plain values, its files as data URLs, and the recipe.

    After an edit also the model that it makes, as other recipes name it.
    """
    files = files_of(result, recipe)
    kinds = {".png": "image/png", ".csv": "text/csv", ".wav": "audio/wav"}
    return {
        "recipe": json.loads(files.pop("recipe.json")),
        "result": json.loads(files.pop("result.json")),
        **({"model": asdict(edited)} if edited else {}),
        "files": {
            name: f"data:{kinds.get(Path(name).suffix, 'application/octet-stream')};base64,"
            + base64.b64encode(content).decode("ascii")
            for name, content in files.items()
        },
    }
