"""Taking an edited model along: baked into the weights and put on the shelf, or as files.

    bakes(frame, "Bake and put on the shelf", {"concept": concept}, size)
    exports(frame, "Write the file", {"concept": concept, "form": form}, read_back)
    downloads(frame, {"steps": steps}, texts)

`size` and `read_back` say in a few words what a bake or a file holds; the rest of what is said is
the same in every panel, and so is what happens.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gradio as gr
from gradio.events import Dependency

from engine.core.recipe import ModelRef, Recipe
from engine.core.store import default_store
from pages import _files, _shelf
from pages import _markup as markup
from pages._actions import Convert, Settle
from pages._fields import Controls
from pages._frame import Frame
from pages._handlers import gradio_errors, named
from pages._markup import escape
from pages._serving import QUIET

if TYPE_CHECKING:
    from engine.core import baked
    from engine.core.patch import Patch


class Bake(Protocol):
    """What the result of an action `bake` has: the patch and fingerprints of the weights."""

    @property
    def name(self) -> str: ...
    @property
    def patch(self) -> "Patch": ...
    @property
    def before(self) -> str: ...
    @property
    def after(self) -> str: ...
    @property
    def undone(self) -> str: ...


class File(Protocol):
    """A file of a result."""

    @property
    def name(self) -> str: ...
    @property
    def data(self) -> bytes: ...


class Export(Protocol):
    """What the result of an action `export` has: files, and a note on how they are used.

    It may have `texts` besides, documents by the name of their file.
    """

    @property
    def files(self) -> Mapping[str, File]: ...
    @property
    def note(self) -> str: ...


class Texts(Protocol):
    """Documents of a result by the name of their file."""

    @property
    def texts(self) -> Mapping[str, str]: ...


class Approximate(Export, Protocol):
    """Files that miss a share of the edit, relative to its norm."""

    @property
    def error(self) -> float: ...


B = TypeVar("B", bound=Bake)
X = TypeVar("X", bound=Export)
R = TypeVar("R")


def bakes(
    frame: Frame,
    label: str,
    inputs: Controls,
    size: Callable[[B], str],
    *,
    more: Callable[[B], str] | None = None,
    params: Convert | None = None,
    back: Convert | None = None,
) -> None:
    """The action `bake`: its patch goes to the store, its model to the visitor's shelf.

    `more` is markup below what is said of the result; `params` and `back` go to `Action.wire`.
    """
    action = frame.action("bake", label)
    shown, entry = gr.HTML("", elem_id=f"{frame.entry.slug}-baked"), gr.State(None)

    def draw(bake: B, recipe: Recipe, ended: bool) -> tuple[object, ...]:
        if not ended:
            return ()
        with gradio_errors():
            digest = default_store().put(bake.patch)
        below = "" if more is None else more(bake)
        return baked_line(bake, size(bake)) + below, shelved(bake.name, recipe, digest)

    settles = shelves(frame, entry)
    action.wire(inputs, draw, [shown, entry], params=params, back=back, settles=settles)


def baked_line(bake: Bake, size: str) -> str:
    """What a bake says of itself: name, size, and the fingerprints before, after and undone."""
    same = bake.before == bake.undone
    kept = "every bit as before" if same else "bits differ"
    prints = markup.there_and_back(bake.before, bake.after, bake.undone)
    tick = markup.tick(same, f"applied and undone: {kept}", f"before {prints}")
    note = markup.notes(f"“{bake.name}”: {size}. It lies on your shelf below; undo it there.")
    return f'<div class="ticks">{tick}{note}</div>'


def shelves(frame: Frame, entry: gr.State) -> Settle:
    """Puts what `shelved` gave into this state onto the visitor's shelf, for `settles` of `wire`.

    The shelf is read when the run has ended, since an edit may have been taken off meanwhile.
    """
    kept, name = frame.shelf.kept, f"{frame.entry.slug}_on_shelf"

    def settle(run: Dependency) -> Dependency:
        return run.success(named(on_shelf, name), [kept, entry], [kept, entry], **QUIET)

    return settle


def shelved(name: str, recipe: Recipe, digest: str) -> dict[str, object]:
    """The model of a recipe with one more edit, in plain values."""
    base = recipe.model or ModelRef("world")
    return {
        "name": name,
        "source": base.source,
        "revision": base.revision,
        "edits": [*base.edits, digest],
    }


def on_shelf(kept: object, entry: Mapping[str, Any] | None) -> tuple[object, object]:
    """The visitor's shelf with a baked model in front, which is put there once."""
    if not entry:
        return gr.skip(), gr.skip()
    with gradio_errors():
        ref = ModelRef(entry["source"], entry["revision"], tuple(entry["edits"]))
        shelf = _shelf.add(kept, entry["name"], ref, tuple(map(_shelf.label_of, ref.edits)))
    return shelf, None


def exports(
    frame: Frame,
    label: str,
    inputs: Controls,
    read_back: Callable[[X], str],
    *,
    params: Convert | None = None,
    back: Convert | None = None,
) -> None:
    """The action `export`: a file to download, or a zip where there are several.

    `read_back` says what reading the files back gave.
    """
    action = frame.action("export", label)
    line, file = gr.HTML(""), gr.File(label="File", visible=False, interactive=False)

    def draw(export: X, recipe: Recipe, ended: bool) -> tuple[object, ...]:
        if not ended:
            return ()
        made = {one.name: one.data for one in export.files.values()}
        made |= {name: text.encode() for name, text in getattr(export, "texts", {}).items()}
        text = (
            f'<div class="ticks"><p><b>Read back: {escape(read_back(export))}.</b> '
            f'<span class="note">{escape(listed(made))}</span></p>'
            f'<p class="note"><code>{escape(export.note)}</code></p></div>'
        )
        packed = f"{recipe.slug}-{recipe.params.get('form', 'export')}.zip"
        return text, gr.File(value=str(written(made, packed)), visible=True)

    action.wire(inputs, draw, [line, file], params=params, back=back)


def downloads(
    frame: Frame,
    inputs: Controls,
    files: Callable[[R, Recipe], Mapping[str, bytes]],
    told: Callable[[R, Mapping[str, bytes]], str] | None = None,
    *,
    params: Convert | None = None,
) -> None:
    """The action `export` where nothing is read back: files side by side, by their names.

    `told` is what stands above them, their names when there is nothing else to say.
    """
    action = frame.action("export", "Write the files")
    line = gr.HTML("")
    shown = gr.File(label="Files", visible=False, interactive=False, file_count="multiple")

    def draw(export: R, recipe: Recipe, ended: bool) -> tuple[object, ...]:
        if not ended:
            return ()
        made = files(export, recipe)
        said = f"<p><b>{escape(', '.join(made))}</b></p>" if told is None else told(export, made)
        paths = [str(path) for path in _files.written(made)]
        return said, gr.File(value=paths, visible=True)

    action.wire(inputs, draw, [line, shown], params=params)


def texts(export: Texts, recipe: Recipe) -> dict[str, bytes]:
    """The documents of a result, as `downloads` takes them."""
    return {name: text.encode() for name, text in export.texts.items()}


def listed(made: Mapping[str, bytes]) -> str:
    """The size of these files together, and their names."""
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


def in_tensors(bake: "baked.Baked") -> str:
    """The size of most edits."""
    return f"{bake.tensors} tensors, {bake.megabytes:.1f} MB"


def of_largest(export: Approximate) -> str:
    """What most files say: how much of the whole edit they miss when they are read back."""
    kept = getattr(export, "rank", 0)
    rank = f"rank {kept}, " if kept else ""
    if export.error < 1e-3:
        return f"{rank}the whole edit, to {export.error:.1e} of its size"
    return f"{rank}{export.error:.1%} of the edit is missing (norm of the weights)"
