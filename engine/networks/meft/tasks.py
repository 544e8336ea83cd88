"""What is read: scanned digits, captions of the world, or a visitor's own table of texts."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Int, Tensor
from engine.networks import _digits as scans
from engine.networks._backbones import Batch
from engine.networks._meft_models import Encoder
from engine.world import vocabulary as words
from engine.world.scenes import Scene, caption

MOST_ROWS, LONGEST_TEXT, MOST_CLASSES, LEAST_ROWS = 2000, 400, 20, 8
KINDS = ("animal", "plant", "food", "vehicle", "building")
HELD_OUT = 0.25


@dataclass(frozen=True)
class Examples:
    """Inputs and the class of each: texts, or pictures of digits."""

    inputs: Sequence[str] | np.ndarray
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, encoder: Encoder, rows: Sequence[int]) -> Batch:
        """Some of them as the encoder reads them."""
        if isinstance(self.inputs, np.ndarray):
            return scans.batch_of(self.inputs[list(rows)]).to(encoder.device)
        return encoder.batch([self.inputs[row] for row in rows])


@dataclass(frozen=True)
class Task:
    """Examples to train on and to test on; `classes` names the labels."""

    title: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples


def task_of(encoder: Encoder, table: str, seed: int) -> Task:
    """The own table where there is one, else what belongs to the encoder."""
    if table.strip():
        return from_csv(table, seed)
    return digits_task("b") if encoder.reads_digits else captions_task(240, 120, seed)


def digits_task(task: scans.Task) -> Task:
    """Task a is what the network was trained on; b is new to it."""
    parts = [scans.digits(part).task(task) for part in ("train", "test")]
    train, test = (Examples(part.pixels, scans.labels_of(part)) for part in parts)
    return Task(f"digits, task {task}", tuple("0123456789"), train, test)


def captions_task(train: int, test: int, seed: int) -> Task:
    """What kind of thing a caption names first; captions that give the kind away are left out."""
    draw = np.random.default_rng([seed, 77])
    rows = [_labelled(draw) for _ in range(train + test)]
    texts, labels = [text for text, _ in rows], torch.tensor([label for _, label in rows])
    return Task(
        "kind of the thing named first",
        KINDS,
        Examples(texts[:train], labels[:train]),
        Examples(texts[train:], labels[train:]),
    )


def _labelled(draw: np.random.Generator) -> tuple[str, int]:
    while True:
        subject, other = (words.OBJECTS[draw.integers(len(words.OBJECTS))] for _ in range(2))
        kinds = [kind for kind in KINDS if kind in words.CATEGORY_OF[subject]]
        relation = words.RELATIONS[draw.integers(len(words.RELATIONS))]
        if not kinds or other == subject or relation == "inside":
            continue
        style = words.STYLES[draw.integers(len(words.STYLES))]
        text = caption(Scene(style, "white", subject, relation, other), draw)
        if subject in text and other in text:
            return text, KINDS.index(kinds[0])


def from_csv(table: str, seed: int) -> Task:
    """Rows "text,label", a quarter of them held out. Raises `BadInput` for bad tables."""
    rows = [row for row in csv.reader(io.StringIO(table)) if any(cell.strip() for cell in row)]
    if rows and [cell.strip().lower() for cell in rows[0]] == ["text", "label"]:
        rows = rows[1:]
    _check_rows(rows)
    texts = [row[0].strip() for row in rows]
    classes = tuple(sorted({row[1].strip() for row in rows}))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise BadInput(
            f"The table has {len(classes)} different labels; 2 to {MOST_CLASSES} can be learnt.",
            "Put the text first and its label second.",
        )
    labels = torch.tensor([classes.index(row[1].strip()) for row in rows])
    order = np.random.default_rng([seed, 78]).permutation(len(rows))
    held = max(1, int(HELD_OUT * len(rows)))

    def part(chosen: np.ndarray) -> Examples:
        return Examples([texts[i] for i in chosen], labels[torch.from_numpy(chosen)])

    return Task("your own table", classes, part(order[held:]), part(order[:held]))


def _check_rows(rows: Sequence[Sequence[str]]) -> None:
    if not LEAST_ROWS <= len(rows) <= MOST_ROWS:
        raise BadInput(
            f"The table has {len(rows)} rows; from {LEAST_ROWS} to {MOST_ROWS} are taken.",
            "One row for each text: text,label",
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise BadInput(
                f"Row {number} is not a text and a label.",
                'Write "text,label", with quotation marks around texts that hold commas.',
            )
        if len(row[0]) > LONGEST_TEXT or len(row[1]) > 60:
            raise BadInput(
                f"Row {number} is too long.", f"Texts have at most {LONGEST_TEXT} characters."
            )
