"""The visitor's shelf: models with their stacks of edits, kept in the visitor's own browser.

What is kept is small and plain: for each model its source, revision and the digests of its edits
in order; a checkpoint that was uploaded has none at first. The edits themselves lie in the server's
content-addressed store. So the shelf survives a reload and a change of route, and two visitors
never see each other's models.

    {"models": [{"name": "cat erased", "source": "world", "revision": null, "edits": ["3f2a..."]}],
     "labels": {"3f2a...": "erase cat"}}
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
from gradio.components.base import Component

from engine.core import budgets
from engine.core.errors import BadInput, EngineError, OutOfBudget
from engine.core.job import Done, Job, Progress
from engine.core.recipe import ModelRef, Plain
from engine.core.stack import PatchStack
from engine.core.store import default_store
from engine.models.library import receive_checkpoint, source_title
from pages import _files
from pages._endpoints import Runner
from pages._handlers import gradio_errors, guarded, named
from pages._lane import LANE
from pages._markup import escape
from pages._serving import QUIET

STORAGE_KEY = "rewind-shelf"
# Local storage holds no secrets; a fixed word keeps it readable after a restart of the server.
STORAGE_WORD = "rewind"
EMPTY: dict[str, Plain] = {"models": [], "labels": {}}

UPLOADED = "upload:"
# Gradio's list breaks when its last choice goes, so that something always stands in it.
NOTHING = ("nothing on the shelf", "")

_DIGEST = re.compile("[0-9a-f]{8,128}")
_EDITS = re.compile(r"(.+?)((?:\+[0-9a-f]{8,128})+)")


def model_text(ref: ModelRef) -> str:
    """A reference as one text for a field: "world", "owner/name@revision", "world+3f2a..."."""
    revision = f"@{ref.revision}" if ref.revision else ""
    return ref.source + revision + "".join(f"+{digest}" for digest in ref.edits)


def model_ref(text: object) -> ModelRef:
    """The reference in such a text; what it names is checked when it is loaded."""
    text = str(text or "").strip()
    edits: tuple[str, ...] = ()
    if found := _EDITS.fullmatch(text):
        text, edits = found[1], tuple(found[2].split("+")[1:])
    source, mark, revision = text.rpartition("@")
    if mark and re.fullmatch(r"[\w.-]{1,100}", revision) and source:
        return ModelRef(source, revision, edits)
    return ModelRef(text, None, edits)


@dataclass(frozen=True)
class Shelved:
    """One model on the shelf."""

    name: str
    ref: ModelRef
    labels: tuple[str, ...]


def read(kept: object) -> list[Shelved]:
    """The models in what a browser sent; anything that is not well formed is left out."""
    document = kept if isinstance(kept, Mapping) else {}
    models = document.get("models")
    labels = document.get("labels")
    labels = labels if isinstance(labels, Mapping) else {}
    listed = models[: budgets.SHELF_MODELS] if isinstance(models, list) else []
    return [shelved for model in listed if (shelved := _shelved(model, labels)) is not None]


def _shelved(model: object, labels: Mapping[object, object]) -> Shelved | None:
    """One model in what a browser sent, if it is well formed and within the budget."""
    if not isinstance(model, Mapping):
        return None
    source, revision = _short(model.get("source")), _short(model.get("revision"))
    edits = model.get("edits") or []
    if source is None or (revision is None and model.get("revision") is not None):
        return None
    if not isinstance(edits, list) or len(edits) > budgets.MODEL_EDITS:
        return None
    if not all(isinstance(edit, str) and _DIGEST.fullmatch(edit) for edit in edits):
        return None
    titles = tuple(_title(labels.get(edit)) or "an edit" for edit in edits)
    return Shelved(
        _title(model.get("name")) or source, ModelRef(source, revision, tuple(edits)), titles
    )


def _short(text: object) -> str | None:
    fits = isinstance(text, str) and 0 < len(text) <= budgets.SOURCE_CHARACTERS
    return str(text) if fits else None


def _title(text: object) -> str:
    return text[: budgets.SHELF_NAME] if isinstance(text, str) else ""


def written(models: list[Shelved]) -> dict[str, Plain]:
    """The shelf as the browser keeps it."""
    labels = {d: label for m in models for d, label in zip(m.ref.edits, m.labels, strict=True)}
    return {
        "models": [
            {
                "name": model.name,
                "source": model.ref.source,
                "revision": model.ref.revision,
                "edits": list(model.ref.edits),
            }
            for model in models[: budgets.SHELF_MODELS]
        ],
        "labels": labels,
    }


def add(kept: object, name: str, ref: ModelRef, labels: tuple[str, ...]) -> dict[str, Plain]:
    """The shelf with one more model in front; the same reference is kept once.

    Raises `OutOfBudget` when more edits lie on it than a shelf keeps.
    """
    if len(ref.edits) > budgets.MODEL_EDITS:
        raise OutOfBudget(
            f"{len(ref.edits)} edits lie on this model; {budgets.MODEL_EDITS} are kept.",
            "Save the whole model, open it as a checkpoint, and go on from there.",
        )
    rest = [model for model in read(kept) if model.ref != ref]
    return written([Shelved(name[:80], ref, labels), *rest])


def without(kept: object, ref: ModelRef, digest: str) -> tuple[dict[str, Plain], ModelRef]:
    """The shelf with one edit taken off one of its models, and the model that this gives.

    Raises `PatchConflict` when a later edit lies on the same tensors, `AssetMissing` when the
    store has forgotten an edit of the stack.
    """
    store = default_store()
    stack = PatchStack(tuple(store.header(edit) for edit in ref.edits)).undo(digest)
    models = read(kept)
    for place, model in enumerate(models):
        if model.ref != ref:
            continue
        labels = dict(zip(ref.edits, model.labels, strict=True))
        left = replace(ref, edits=stack.digests)
        rest = models[:place] + models[place + 1 :]
        stays = left.edits or left.source.startswith(UPLOADED)
        if stays and left not in [other.ref for other in rest]:
            again = Shelved(model.name, left, tuple(labels[d] for d in stack.digests))
            rest.insert(place, again)
        return written(rest), left
    raise BadInput("This model is not on the shelf any more.", "Reload the page.")


def imported(kept: object, path: Path) -> dict[str, Plain]:
    """The shelf with the model that a patch file makes, on top of the model it was made for.

    Raises `BadInput` when the file is no sound patch or does not say what it was made for.
    """
    digest = default_store().put_file(path)
    header = default_store().header(digest)
    base = header.recipe.model
    if base is None:
        raise BadInput("This patch does not name the model it was made for.", "Export it again.")
    labels = tuple(label_of(edit) for edit in (*base.edits, digest))
    return add(kept, header.name, replace(base, edits=(*base.edits, digest)), labels)


def with_checkpoint(kept: object, archive: Path) -> dict[str, Plain]:
    """The shelf with an uploaded checkpoint, which bears the name of its archive.

    Raises an `EngineError` when the archive is no sound checkpoint folder.
    """
    return add(kept, archive.stem, ModelRef(receive_checkpoint(archive)), ())


def label_of(digest: str) -> str:
    """The name of an edit, as far as the store still knows it."""
    try:
        return default_store().header(digest).name
    except EngineError:
        return f"edit {digest[:8]}"


def choices(kept: object, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Shipped models first, then those of the shelf."""
    shelved = [(f"{model.name} (shelf)", model_text(model.ref)) for model in read(kept)]
    return [(title, key) for key, title in titles.items()] + shelved


def key_of(ref: ModelRef) -> str:
    """Twelve digits for a model of the shelf, however many edits lie on it."""
    return hashlib.sha256(model_text(ref).encode("utf-8", "replace")).hexdigest()[:12]


def fallen_back(held: object, gone: ModelRef, left: ModelRef, known: Sequence[str]) -> str:
    """What a picker of these choices holds once the model `gone` has become `left`.

    An empty text where it held another model; the first choice where nothing is left of an upload.
    """
    if model_ref(held) != gone:
        return ""
    text = model_text(left)
    return text if text in known or not left.source.startswith(UPLOADED) else known[0]


def edits_on(kept: object) -> list[tuple[str, str]]:
    """Every edit on the shelf as title and value; the value names its model too."""
    return [
        (f"{model.name} › {label}", f"{key}|{digest}")
        for model in read(kept)
        for key in [key_of(model.ref)]
        for digest, label in zip(
            model.ref.edits or ("",), model.labels or ("no edit yet",), strict=True
        )
    ]


def drawn(kept: object) -> str:
    """The shelf as a list of models, each with its stack of edits and their fingerprints."""
    models = "".join(_drawn_model(model) for model in read(kept))
    empty = (
        '<p class="note">Nothing here yet. A model that you edit in a panel lands here, and a '
        "patch file or a checkpoint of your own can be opened. Edits stay with this browser.</p>"
    )
    return f'<div class="shelf">{f"<ul>{models}</ul>" if models else empty}</div>'


def _drawn_model(model: Shelved) -> str:
    rows = "".join(
        _drawn_edit(digest, label)
        for digest, label in zip(model.ref.edits, model.labels, strict=True)
    )
    return (
        f"<li><h4>{escape(model.name)}</h4>"
        f'<p class="note">on {escape(source_title(model.ref.source))}, '
        f"{'first edit at the bottom' if rows else 'no edit yet'}</p>"
        f"<ol reversed>{rows}</ol></li>"
    )


def _drawn_edit(digest: str, label: str) -> str:
    try:
        header = default_store().header(digest)
    except EngineError:
        return f"<li><b>{escape(label)}</b> <span class='note'>forgotten by this server</span></li>"
    megabytes = header.file_bytes / 1e6
    return (
        f"<li><b>{escape(label)}</b> <span class='note'>{len(header.before)} tensors, "
        f"{megabytes:.1f} MB</span><br><code>{combined(header.before)}</code> "
        f'<span class="mark forward" aria-label="becomes">▶</span> '
        f"<code>{combined(header.after)}</code></li>"
    )


def message(said: str) -> str:
    """What was done, above the shelf."""
    return f'<p role="status" class="said">{said}</p>'


def combined(fingerprints: Mapping[str, str]) -> str:
    """Twelve digits that stand for the fingerprints of all touched tensors together."""
    lines = "".join(f"{name} {print_}\n" for name, print_ in sorted(fingerprints.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


# ---------------------------------------------------------------------- on the page


class Shelf:
    """The shelf of one route: what the browser keeps, and the fields that offer its models."""

    def __init__(self) -> None:
        self.kept = gr.BrowserState(EMPTY, storage_key=STORAGE_KEY, secret=STORAGE_WORD)
        self.said: gr.HTML | None = None
        self.pickers: list[tuple[gr.Dropdown, Mapping[str, str]]] = []
        self.panels: list[str] = []

    def offer(self, picker: gr.Dropdown, titles: Mapping[str, str], panel: str) -> None:
        """Adds the shelf's models to this choice when the page opens and when the shelf changes.

        `panel` is the title of the panel that the choice belongs to.
        """
        self.pickers.append((picker, titles))
        self.panels.append(panel)

    def stand_by(self, demo: gr.Blocks, page: str) -> None:
        """The chip in the bar of a page without panels: it shows the shelf and takes edits off."""
        self._chip(demo, page, [self.kept], [])

    def _chip(
        self,
        demo: gr.Blocks,
        page: str,
        outputs: Sequence[Component],
        held: Sequence[gr.Dropdown],
    ) -> None:
        """What the chip in the bar of a page asks for; rewind.js draws it."""
        latest = gr.Button(elem_id=f"{page}-shelf-latest", visible="hidden")
        latest.click(
            named(self._undo_latest, f"{page}_shelf_latest"),
            [self.kept, *held],
            list(outputs),
            **QUIET,
        )
        # A visitor who keeps nothing asks for nothing.
        demo.load(None, self.kept, None, js=f"(kept) => rewindShelf.opens(kept, '{page}')")
        self.kept.change(None, self.kept, None, js=f"(kept) => rewindShelf.chip(kept, '{page}')")

    def draw(self, demo: gr.Blocks, family: str, runner: Runner) -> None:
        """The fold-out below the panels."""
        self.runner = runner
        with gr.Accordion("Your shelf: edited models", open=False, elem_id="shelf"):
            self.said = gr.HTML("")
            self.view = gr.HTML(drawn(EMPTY))
            self.edit = gr.Dropdown(
                [NOTHING], value="", label="Edit", info="What the buttons below act on"
            )
            with gr.Row():
                undo = gr.Button("◀  Undo this edit", elem_classes="backward", size="sm")
                save = gr.Button("Save as patch file", size="sm")
                whole = gr.Button("Save the whole model (zip)", size="sm")
                forget = gr.Button("Take the model off the shelf", size="sm")
            with gr.Row():
                opened = gr.UploadButton(
                    "Open a patch file", file_types=[".safetensors"], size="sm"
                )
                checkpoint = gr.UploadButton(
                    "Open a checkpoint (zip of its folder)", file_types=[".zip"], size="sm"
                )
        again = gr.Button(elem_id=f"{family}-shelf-show", visible="hidden")
        shown = [self.view, self.edit, *(picker for picker, _ in self.pickers)]
        held = [self.edit, *(picker for picker, _ in self.pickers)]
        wire: Mapping[str, tuple[Callable, Callable, list]] = {
            "undo": (undo.click, self._undo, held),
            "forget": (forget.click, self._forget, held),
            "open": (opened.upload, self._open, [opened]),
            "checkpoint": (checkpoint.upload, self._checkpoint, [checkpoint]),
        }
        for name, (trigger, handler, given) in wire.items():
            outputs = [self.kept, self.said, *shown]
            trigger(named(handler, f"{family}_shelf_{name}"), [self.kept, *given], outputs, **QUIET)
        save.click(
            named(self._save, f"{family}_shelf_save"), [self.kept, self.edit], self.said, **QUIET
        )
        whole.click(
            named(self._whole, f"{family}_shelf_whole"),
            [self.kept, self.edit],
            self.said,
            **LANE,
            **QUIET,
        )
        show = named(self._show, f"{family}_shelf_show")
        gr.on([again.click, self.kept.change], show, self.kept, shown, queue=False, **QUIET)
        self._chip(demo, family, [self.kept, self.said, *shown], held)

    def _show(self, kept: object) -> list[object]:
        """Draws the shelf that the browser keeps and offers its models."""
        options = edits_on(kept) or [NOTHING]
        pickers = [gr.Dropdown(choices=choices(kept, titles)) for _, titles in self.pickers]
        return [drawn(kept), gr.Dropdown(choices=options, value=options[0][1]), *pickers]

    def _updates(self, kept: object, said: str) -> list[object]:
        return [kept, message(said), *self._show(kept)]

    def _gone(
        self, kept: object, said: str, held: Sequence[object], gone: ModelRef, left: ModelRef
    ) -> list[object]:
        """The updates once a model has become another: pickers that held it hold what is left."""
        updates, fallen, title = [], [], ""
        for value, (_, titles), panel in zip(held, self.pickers, self.panels, strict=True):
            options = choices(kept, titles)
            known = {text: shown for shown, text in options}
            now = fallen_back(value, gone, left, list(known))
            updates.append(gr.Dropdown(choices=options, **({"value": now} if now else {})))
            if now:
                fallen.append(panel)
                title = known.get(now, source_title(left.source))
        if fallen:
            said += f" Model of {escape(' and '.join(fallen))} from now on: {escape(title)}."
        shelf = self._updates(kept, said)
        return [*shelf[: len(shelf) - len(updates)], *updates]

    def _undo(self, kept: object, edit: str, *held: object) -> list[object]:
        """Takes one edit off its model, if nothing later lies on it."""
        with gradio_errors():
            ref, digest = _chosen_edit(kept, edit)
            header = default_store().header(digest)
            shelf, left = without(kept, ref, digest)
            said = (
                f"Undone: {escape(header.name)}. Fingerprint <code>{combined(header.after)}</code> "
                f'<span class="mark backward" aria-label="goes back to">◀</span> '
                f"<code>{combined(header.before)}</code>."
            )
            return self._gone(shelf, said, held, ref, left)

    def _undo_latest(self, kept: object, chosen: object = None, *held: object) -> list[object]:
        """Takes the last edit off the model in front of the shelf."""
        with gradio_errors():
            models = read(kept)
            if not models or not models[0].ref.edits:
                raise BadInput("The model in front has no edit to undo.", "Edit it in a panel.")
            ref = models[0].ref
            edit = f"{key_of(ref)}|{ref.edits[-1]}"
        if self.said is None:  # a page without panels
            with gradio_errors():
                return [without(kept, ref, ref.edits[-1])[0]]
        return self._undo(kept, edit, *held)

    def _forget(self, kept: object, edit: str, *held: object) -> list[object]:
        """Takes a whole model off the shelf; the store forgets its edits in time."""
        with gradio_errors():
            ref, _ = _chosen(kept, edit)
            shelf = written([model for model in read(kept) if model.ref != ref])
            return self._gone(shelf, "Taken off the shelf.", held, ref, replace(ref, edits=()))

    def _open(self, kept: object, path: str) -> list[object]:
        """Puts the model that a patch file makes on the shelf."""
        with gradio_errors():
            shelf = imported(kept, Path(path))
            return self._updates(shelf, "Opened. Its model can be picked in the panels.")

    def _save(self, kept: object, edit: str) -> str:
        """Gives the chosen edit as a patch file to download."""
        with gradio_errors():
            _, digest = _chosen_edit(kept, edit)
            name = _file_name(default_store().header(digest).name)
            with _files.folder() as folder:
                copy = shutil.copy(default_store().path(digest), folder / f"{name}.safetensors")
            return message(_link(Path(copy)))

    def _whole(self, kept: object, edit: str) -> Iterator[str]:
        """Gives the model of the chosen edit, with all its edits, as a checkpoint folder."""
        with gradio_errors():
            ref, _ = _chosen(kept, edit)
            name = _file_name(label_of(ref.edits[-1]) if ref.edits else source_title(ref.source))
        yield message("Writing the model.")
        with _files.folder("The model") as folder:
            yield from self._exported(ref, folder / name)

    def _exported(self, ref: ModelRef, folder: Path) -> Iterator[str]:
        job = Job("engine.models.export:run", {"model": ref, "folder": str(folder), "as_zip": True})
        for event in guarded(self.runner(job)):
            if isinstance(event, Progress):
                yield message(f"Writing the model: {event.done} of {event.total}.")
            elif isinstance(event, Done):
                yield message(
                    f"{_link(Path(event.result))}. Unzipped, it opens with "
                    "<code>StableDiffusionPipeline.from_pretrained</code>; in <code>undo</code> "
                    "lie the patches that give the base back."
                )

    def _checkpoint(self, kept: object, path: str) -> list[object]:
        """Puts an uploaded checkpoint on the shelf, from where every panel can take it."""
        with gradio_errors():
            shelf = with_checkpoint(kept, Path(path))
            return self._updates(shelf, "Opened. It can be picked as the model of the panels.")


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "edit"


def _link(path: Path) -> str:
    address = f"gradio_api/file={escape(path)}"
    megabytes = path.stat().st_size / 1e6
    return f'<a download="{path.name}" href="{address}">{path.name}</a>, {megabytes:.1f} MB'


def _chosen_edit(kept: object, edit: object) -> tuple[ModelRef, str]:
    ref, digest = _chosen(kept, edit)
    if not digest:
        raise BadInput("This model has no edit yet.", "Edit it in a panel.")
    return ref, digest


def _chosen(kept: object, edit: object) -> tuple[ModelRef, str]:
    key, mark, digest = str(edit or "").rpartition("|")
    if not mark:
        raise BadInput("No edit is chosen.", "Pick one from the list above the buttons.")
    for model in read(kept):
        if key_of(model.ref) == key and digest in (model.ref.edits or ("",)):
            return model.ref, digest
    raise BadInput("This edit is not on the shelf any more.", "Pick another one from the list.")
