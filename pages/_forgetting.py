"""What panels of un-learning share: what shall be forgotten, and how a card is shown.

asked = forgetting.asks(frame)          what is asked first: the class
more = forgetting.more(frame)           other forget sets, and the visitor's own pictures
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components.base import Component
from PIL import Image

from engine.models import picture_sets
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _taking as taking
from pages._actions import Convert
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._handlers import gradio_errors
from pages._look import ASSETS
from pages._markup import Html, escape

if TYPE_CHECKING:
    from engine.metrics.intervals import Rate
    from engine.unlearning._card import Card
    from engine.unlearning._export import Exported

DATA = ASSETS / "data" / "fashion"
CLASSES: Sequence[str] = json.loads((DATA / "card.json").read_text())["classes"]
SIDE, THUMBNAILS = 28, 24
PARTS = 4  # groups of a class
WAYS = {
    "class": "a whole class",
    "cluster": "a part of the class",
    "random": "random pictures",
    "picked": "pictures picked by number",
    "uploaded": "uploaded pictures",
}
UNITS = {
    "sample": "single samples, as the paper writes",
    "sorted": "batches sorted by class, as its code does",
    "mixed": "batches of mixed classes",
}
FORMS = {
    "Sparse patch (safetensors)": "patch",
    "Edited checkpoint for transformers, with its undo file": "checkpoint",
    "Audit card (JSON)": "card",
}
PICKED = ("3, 41, 180, 222", "0, 1, 2, 3, 4, 5, 6, 7")


def asks(frame: Frame) -> Controls:
    """The one question: which class."""
    what = gr.Dropdown(
        list(CLASSES),
        value="bag",
        label="Forget",
        info="T-shirts have close neighbours, and are harder",
        allow_custom_value=True,
        elem_classes="headline",
        elem_id=f"{frame.entry.slug}-what",
    )
    return {"what": what}


def more(frame: Frame, question: Controls) -> Controls:
    """Other forget sets, and the pictures of a visitor's own model."""
    slug = frame.entry.slug
    with gr.Accordion("Other forget sets, your own pictures", open=False):
        forget = gr.Dropdown(fields.options(WAYS), value="class", label="Forget set")
        cluster = gr.Dropdown(
            [(f"part {place + 1} of {PARTS}", place) for place in range(PARTS)],
            value=0,
            label="Part of the class",
            info="Groups that the network's own features form",
        )
        count = gr.Number(100, label="Random pictures", precision=0, minimum=1, maximum=2000)
        table = gr.Textbox(
            "",
            label="Numbers of pictures",
            info="One a line, or a CSV with a column called index; counted from 0",
            lines=2,
            max_length=100_000,
            elem_id=f"{slug}-indices",
        )
        fields.suggestions(f"{slug}-indices", PICKED)
        _picks(frame, question["what"], forget, table)
        sets = {
            name: zip_field(frame, name, label)
            for name, label in (
                ("pictures", "Pictures to forget"),
                ("retain", "Training pictures to keep"),
                ("test", "Unseen pictures to judge by"),
            )
        }
    return {"forget": forget, "cluster": cluster, "count": count, "index_table": table, **sets}


def _picks(frame: Frame, what: Component, forget: gr.Dropdown, table: gr.Textbox) -> None:
    """Training pictures of the class to pick by hand: one that is clicked joins the numbers."""
    with gr.Accordion("Pick pictures of the class by hand", open=False) as fold:
        gallery = gr.Gallery(
            label="Training pictures with their numbers; click to pick, again to put back",
            columns=8,
            allow_preview=False,
            format="png",
            elem_classes="pixel",
        )
    frame.on(fold.expand, thumbnails, what, gallery, name="thumbnails", queue=False)
    frame.on(gallery.select, picked, table, [forget, table], name="picked", queue=False)


def thumbnails(what: str) -> list[tuple[Image.Image, str]]:
    """The first training pictures of a class, each with its number."""
    if what not in CLASSES:
        return []
    labels = json.loads((DATA / "labels.json").read_text())["train"]
    digit = str(CLASSES.index(what))
    places = [place for place, label in enumerate(labels) if label == digit][:THUMBNAILS]
    with Image.open(DATA / "train-1.png") as sheet:
        return [(sheet.crop(_square(place)), str(place)) for place in places]


def _square(place: int) -> tuple[int, int, int, int]:
    """Where a picture lies in its sheet, which holds a hundred side by side."""
    left, top = SIDE * (place % 100), SIDE * (place // 100)
    return left, top, left + SIDE, top + SIDE


def picked(table: str, event: gr.SelectData) -> tuple[str, str]:
    """The numbers with one more, or with one less where it was picked already."""
    number = str(event.value["caption"])
    numbers = [one.strip() for one in str(table).split(",") if one.strip()]
    rest = [one for one in numbers if one != number]
    return "picked", ", ".join(rest if number in numbers else [*numbers, number])


def zip_field(frame: Frame, name: str, label: str) -> gr.Textbox:
    """A set of pictures: the field holds what an upload is called, the button takes a zip."""
    with gr.Row(elem_classes="zip"):
        field = gr.Textbox(
            "",
            label=label,
            info="A zip with one folder a class; empty for the shipped models",
            max_length=200,
            elem_id=f"{frame.entry.slug}-{name}",
        )
        button = gr.UploadButton("Upload a zip", file_types=[".zip"], size="sm", min_width=110)
    frame.on(button.upload, received, button, field, name=f"receive_{name}")
    return field


def received(path: str) -> str:
    """The name under which an uploaded set of pictures is kept. An error is one sentence."""
    with gradio_errors():
        return picture_sets.receive(Path(path))


def asked(values: Mapping[str, object]) -> Settings:
    """Settings of what the fields hold: those that the chosen forget set does not use are left."""
    used = {
        "class": {"what"},
        "cluster": {"what", "cluster"},
        "random": {"count"},
        "picked": {"index_table"},
        "uploaded": {"pictures"},
    }
    unused = set().union(*used.values()) - used.get(str(values.get("forget")), set())
    sets = {name for name in ("retain", "test") if not values.get(name)}
    return {name: value for name, value in values.items() if name not in unused | sets}


def controls(given: Settings) -> Settings:
    """What the fields hold, of the settings of a job."""
    found = dict(given)
    indices: Any = found.pop("indices", None)
    if indices:
        found["index_table"] = "\n".join(map(str, indices))
    return found


def numbers(text: object) -> list[object]:
    """The numbers of a text with commas between them; what is none is told by the job."""
    found: list[object] = []
    for piece in str(text).split(","):
        try:
            found.append(float(piece))
        except ValueError:
            found.append(piece.strip())
    return found


def takes_along(
    frame: Frame, title: str, edit: Controls, *, params: Convert, back: Convert
) -> None:
    """The edited network of a panel: baked and put on the shelf, or as a file of one of `FORMS`."""
    parts.heading(
        title,
        "Put it on your shelf: other panels can use it there, and you can undo the edit bit for "
        "bit. Or save it as files for other tools; each is read back before you get it.",
    )
    taking.bakes(
        frame,
        "Bake and put on the shelf",
        edit,
        taking.in_tensors,
        params=params,
        back=back,
    )
    form = gr.Dropdown(list(FORMS.items()), value="patch", label="File for other tools")
    taking.exports(
        frame, "Write the file", {**edit, "form": form}, read_back, params=params, back=back
    )


def read_back(export: "Exported") -> str:
    """What reading the files of an edit back gave."""
    return "equal bit for bit" if export.is_equal else "not equal"


# ---------------------------------------------------------------------- what is shown


def percent(rate: "Rate | None") -> str:
    """A rate as people read it."""
    return "–" if rate is None else f"{100 * rate.rate:.0f} %"


def rate_cell(rate: "Rate | None", tone: str = "") -> Html:
    """A rate as a bar with its interval below; what is missing is a dash."""
    if rate is None:
        return Html("–")
    return Html(
        f'<span class="share {tone}" style="--share:{rate.rate:.3f}">{100 * rate.rate:.1f} %</span>'
        f"<br><small>{100 * rate.low:.0f} – {100 * rate.high:.0f}</small>"
    )


COLUMNS = {
    "forget_test": "forgotten, unseen",
    "retain_test": "kept, unseen",
    "forget_train": "forgotten, trained on",
    "retain_train": "kept, trained on",
}


def cards_table(cards: Sequence["Card"], label: str) -> str:
    """One row a network: accuracies with intervals, membership, ZRF, weights that changed."""
    head = ["network", *COLUMNS.values(), "membership", "worst attack", "ZRF", "weights changed"]
    rows = [
        [
            Html(f"<b>{escape(card.method)}</b>"),
            *(rate_cell(getattr(card, name)) for name in COLUMNS),
            "–" if card.mia is None else f"{100 * card.mia:.1f} %",
            "–" if card.worst_case is None else f"{100 * card.worst_case.accuracy:.0f} %",
            "–" if card.zrf is None else f"{card.zrf:.2f}",
            "–" if card.changed_share is None else f"{100 * card.changed_share:.2f} %",
        ]
        for card in cards
    ]
    missing = {f"{name}: {why}" for card in cards for name, why in card.missing.items()}
    why = markup.notes(*(f"No {text}." for text in sorted(missing))) if missing else ""
    return markup.table(head, rows, label) + why


def told(
    columns: Sequence[str],
    pictures: Sequence[np.ndarray],
    said: tuple[Sequence[str], Sequence[str]],
    edit: str,
    *,
    is_undone: bool,
) -> str:
    """Pictures in a row, below each what is said of it before the edit, after it, and undone.

    An undone network is the original bit for bit, so it says what that says.
    """
    title = f"It says: original → {edit}{' → undone' * is_undone}"
    lines = [
        f"{before} → {after}{f' → {before}' * is_undone}"
        for before, after in zip(*said, strict=True)
    ]
    return parts.sheet(columns, {title: (pictures, lines)})


def undone_line(before: str, after: str, undone: str, patch_bytes: int, weights: int) -> str:
    """Whether the network came back bit for bit, with the three fingerprints and the size."""
    prints = markup.there_and_back(before, after, undone)
    size = f"{weights:,} weights in a patch of {patch_bytes / 1000:.1f} kB"
    tick = markup.tick(
        before == undone,
        "undone: every bit is back" if before == undone else "undone: bits differ",
        f"{size} · SHA-256 {prints}",
    )
    return f'<div class="ticks">{tick}</div>'
