"""Taking an edited model along: baked into the weights and put on the shelf, or as files.

    bakes(frame, "Bake and put on the shelf", {"concept": concept}, size)
    exports(frame, "Write the file", {"concept": concept, "form": form}, told)

`size` and `told` say in a few words what a bake or a file holds; the rest of what is said is the
same in every panel, and so is what happens.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.base import Component

from engine.core.job import Done, Progress
from engine.core.recipe import ModelRef, Recipe
from engine.core.store import default_store
from pages import _files, _shelf
from pages import _parts as parts
from pages._frame import Frame
from pages._handlers import friendly, named
from pages._parts import escape


def bakes(
    frame: Frame,
    label: str,
    inputs: Mapping[str, Component],
    size: Callable[[Any], str],
    *,
    more: Callable[[Any], str] = lambda found: "",
    **wire: Any,
) -> None:
    """The action `bake`: its patch goes to the store, its model to the visitor's shelf.

    The result of the action has `patch`, `name` and the fingerprints `before`, `after` and
    `undone`; `more` is markup below what is said of them. `wire` goes to `Action.wire`.
    """
    slug = frame.entry.slug
    action = frame.action("bake", label)
    told, baked = gr.HTML("", elem_id=f"{slug}-baked"), gr.State(None)

    def draw(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
        if isinstance(event, Progress):
            return gr.skip(), gr.skip()
        found: Any = event.result
        with friendly():
            digest = default_store().put(found.patch)
        return parts.baked(found, size(found)) + more(found), shelved(found.name, recipe, digest)

    action.wire(inputs, draw, [told, baked], **wire)
    baked.change(
        named(on_shelf, f"{slug}_on_shelf"),
        [frame.shelf.kept, baked],
        frame.shelf.kept,
        api_visibility="private",
        show_progress="hidden",
    )


def shelved(name: str, recipe: Recipe, digest: str) -> dict[str, object]:
    """The model of a recipe with one more edit, in plain values."""
    base = recipe.model or ModelRef("world")
    return {
        "name": name,
        "source": base.source,
        "revision": base.revision,
        "edits": [*base.edits, digest],
    }


def on_shelf(kept: object, baked: Mapping[str, Any] | None) -> object:
    """Puts a baked model on the visitor's shelf."""
    if not baked:
        return gr.skip()
    ref = ModelRef(baked["source"], baked["revision"], tuple(baked["edits"]))
    return _shelf.add(kept, baked["name"], ref, tuple(map(_shelf.label_of, ref.edits)))


def exports(
    frame: Frame,
    label: str,
    inputs: Mapping[str, Component],
    told: Callable[[Any], str],
    **wire: Any,
) -> None:
    """The action `export`: a file to download, or a zip where there are several.

    The result has `files` (each a `NamedFile`) and a `note` on how they are used; `told` says what
    reading them back gave.
    """
    action = frame.action("export", label)
    said, file = gr.HTML(""), gr.File(label="File", visible=False, interactive=False)

    def draw(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
        if isinstance(event, Progress):
            return gr.skip(), gr.skip()
        found: Any = event.result
        made = {one.name: one.data for one in found.files.values()}
        text = (
            f'<div class="ticks"><p><b>Read back: {escape(told(found))}.</b> '
            f'<span class="note">{escape(_listed(made))}</span></p>'
            f'<p class="note"><code>{escape(found.note)}</code></p></div>'
        )
        packed = f"{recipe.slug}-{recipe.params.get('form', 'export')}.zip"
        return text, gr.File(value=str(written(made, packed)), visible=True)

    action.wire(inputs, draw, [said, file], **wire)


def _listed(made: Mapping[str, Sequence]) -> str:
    return f"{sum(map(len, made.values())) / 1e6:.2f} MB: {', '.join(made)}"


def written(made: Mapping[str, bytes], packed: str) -> Path:
    """The one file, or a zip called `packed` of several, where Gradio serves it for a time."""
    if len(made) == 1:
        return _files.written(made)[0]
    with _files.folder() as folder:
        with zipfile.ZipFile(folder / packed, "w") as archive:
            for name, data in made.items():
                archive.writestr(name, data)
        return folder / packed


def in_tensors(found: Any) -> str:
    """The size of most edits."""
    return f"{found.tensors} tensors, {found.megabytes:.1f} MB"


def of_largest(found: Any) -> str:
    """What most files say: how much of the whole edit they miss when they are read back."""
    rank = f"rank {found.rank}, " if getattr(found, "rank", 0) else ""
    if found.error < 1e-3:
        return f"{rank}the whole edit, to {found.error:.1e} of its size"
    return f"{rank}{found.error:.1%} of the edit is missing (norm of the weights)"
