"""The eight tasks: a small vision transformer, its pictures, and how many of them it gets right.

All tasks answer with the same ten outputs through the same head, so that an adapter is all that
tells two of them apart, and nobody can score with the wrong head.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from engine.core.errors import AssetMissing, BadInput
from engine.core.shapes import Array, Bool, Float, Int, Tensor, UInt8
from engine.models.library import ASSETS, MODELS, verify

KEY = "eight-tasks"
SIDE = 28


@dataclass(frozen=True, eq=False)
class Tasks:
    """Base model, and for each task its pictures (t n 28 28) and right outputs (t n)."""

    base: nn.Module
    state: Mapping[str, Tensor]
    names: tuple[str, ...]
    questions: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]
    pictures: UInt8[Array, "t n h w"]
    answers: Int[Array, "t n"]

    def index(self, adapter: str) -> int:
        """The task of an adapter, by its name. Raises `BadInput` for others."""
        if adapter not in self.names:
            raise BadInput(
                f"Nobody knows the task of {adapter[:60]}, so its answers cannot be counted.",
                "Count with the shipped task adapters; weigh your own ones instead.",
            )
        return self.names.index(adapter)

    def outputs(self, weights: Mapping[str, Tensor], task: int, count: int) -> Float[Tensor, "n c"]:
        """Probabilities of the first pictures of a task under the base with these weights."""
        x = to_tensor(self.pictures[task, :count])
        with torch.inference_mode():
            found = torch.func.functional_call(self.base, dict(weights), (x,))
        return found.logits.softmax(-1)

    def right(self, weights: Mapping[str, Tensor], task: int, count: int) -> Bool[Array, " n"]:
        """Which of the first pictures of a task are answered rightly."""
        best = self.outputs(weights, task, count).argmax(-1).numpy()
        return best == self.answers[task, :count]

    def answer_name(self, task: int, output: int) -> str:
        """An output in the words of a task; those beyond its classes belong to other tasks."""
        classes = self.classes[self.names[task]]
        return classes[output] if output < len(classes) else f"output {output}"


def to_tensor(pixels: UInt8[Array, "n h w"]) -> Float[Tensor, "n 1 h w"]:
    """Pictures as the network takes them, in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float()[:, None] / 127.5 - 1


def load_tasks() -> Tasks:
    """The shipped tasks. Raises `AssetMissing` when they are not installed or altered."""
    card = MODELS.get(KEY)
    if card is None:
        raise AssetMissing(
            "The task adapters are not installed here.",
            f"Fetch the repository again, or make them: python -m engine.zoo build {KEY}",
        )
    verify(card, ASSETS / KEY)
    return read_tasks(ASSETS / KEY)


@cache
def read_tasks(folder: Path) -> Tasks:
    """The tasks in a folder: base/, pictures.png, tasks.json."""
    from transformers import ViTForImageClassification

    entries = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    base = ViTForImageClassification.from_pretrained(
        folder / "base", local_files_only=True, dtype=torch.float32
    )
    base = base.eval().requires_grad_(False)
    answers = np.array([entry["answers"] for entry in entries.values()], np.int64)
    with Image.open(folder / "pictures.png") as image:
        sheet = np.asarray(image.convert("L"))
    return Tasks(
        base,
        dict(base.state_dict()),
        tuple(entries),
        {name: entry["question"] for name, entry in entries.items()},
        {name: tuple(entry["classes"]) for name, entry in entries.items()},
        _cut(sheet).reshape(*answers.shape, SIDE, SIDE),
        answers,
    )


def _cut(sheet: UInt8[Array, "h w"]) -> UInt8[Array, "n s s"]:
    """The pictures of a contact sheet, row by row."""
    rows, columns = (side // SIDE for side in sheet.shape)
    return sheet.reshape(rows, SIDE, columns, SIDE).transpose(0, 2, 1, 3).reshape(-1, SIDE, SIDE)


def grey(pixels: Sequence[UInt8[Array, "h w"]] | UInt8[Array, "n h w"]) -> UInt8[Array, "n h w 3"]:
    """Grey pictures with three channels, as pages show them."""
    return np.repeat(np.asarray(pixels)[..., None], 3, -1)
