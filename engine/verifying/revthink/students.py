"""The students that ship with the lab, and the figures of all that were trained beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from engine.core.errors import AssetMissing, ModelMismatch
from engine.core.shapes import Tensor
from engine.metrics.intervals import student
from engine.models.language import LanguageBundle
from engine.models.library import ASSETS
from engine.models.tensor_file import TensorFile
from engine.verifying.revthink import fleet as fl
from engine.verifying.revthink.arms import ARMS
from engine.verifying.revthink.exams import STANDINGS
from engine.verifying.revthink.fleet import Plan, Shape
from engine.verifying.revthink.results import Efficiency, Point

KEY = "revthink"
FOLDER = ASSETS / KEY


@dataclass(frozen=True)
class Shelf:
    """Shipped students by plan, the base, and the figures of the whole training.

    `efficiency` is None where the sample-efficiency curve was not measured.
    """

    shape: Shape
    base: Mapping[str, Tensor]
    students: Mapping[Plan, Mapping[str, Tensor]]
    figures: tuple[Mapping[str, object], ...]
    training: Mapping[str, Mapping[str, float | int]]
    efficiency: Efficiency | None = None

    def weights(self, plans: Sequence[Plan]) -> fl.State:
        """The weights of these students side by side."""
        absent = [plan.name for plan in plans if plan not in self.students]
        if absent:
            raise AssetMissing(f"The student {absent[0]} is not shipped.", "Train it live.")
        merged = [self._merged(plan) for plan in plans]
        return {name: torch.stack([state[name] for state in merged]) for name in merged[0]}

    def _merged(self, plan: Plan) -> Mapping[str, Tensor]:
        state = self.students[plan]
        if not plan.lora:
            return state
        lora = {name: tensor[None] for name, tensor in state.items()}
        return {name: w[0] for name, w in fl.with_lora(self.base, lora, fl.LORA_SCALE).items()}

    def curve(self, parts: Sequence[str] = ("test", *STANDINGS)) -> tuple[Point, ...]:
        """Mean and interval over the seeds, for every method, share and part of the test."""
        return points_of(self.figures, parts)


def points_of(figures: Sequence[Mapping[str, object]], parts: Sequence[str]) -> tuple[Point, ...]:
    """Mean and interval over the seeds of written figures, a row a student."""
    groups: dict[tuple[str, float, bool], list[Mapping[str, object]]] = {}
    for row in figures:
        key = str(row["arm"]), float(str(row["fraction"])), bool(row["lora"])
        groups.setdefault(key, []).append(row)
    points = []
    for (arm, fraction, lora), rows in sorted(groups.items()):
        for part in parts:
            values = [float(str(row[part])) for row in rows if part in row]
            if values:
                title = ARMS[arm].title + (" (LoRA)" if lora else "")
                interval = student(values)
                points.append(Point(arm, title, fraction, part, *interval, len(values), lora))
    return tuple(points)


def read_efficiency(folder: Path) -> Efficiency | None:
    """The curve in a folder's efficiency.json, or None where there is none."""
    path = folder / "efficiency.json"
    if not path.is_file():
        return None
    efficiency = json.loads(path.read_text("utf-8"))
    return Efficiency(
        points_of(efficiency["students"], ("asked", "test", *STANDINGS)),
        efficiency["world"],
        efficiency["seeds"],
        efficiency["questions in the pool"],
        efficiency["test relations"],
        efficiency["weights of a student"],
        efficiency["steps"],
        efficiency["steps"] * efficiency["sequences a step"],
        efficiency["seconds"],
        efficiency["machine"],
    )


@cache
def shelf(folder: Path = FOLDER) -> Shelf:
    """What lies in assets/models/revthink. Raises `AssetMissing` where it does not."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        results = json.loads((folder / "results.json").read_text("utf-8"))
        base, tensors = (
            TensorFile(name, (folder / name).read_bytes()).read()
            for name in ("model.safetensors", "students.safetensors")
        )
    except (OSError, ValueError) as error:
        raise AssetMissing(
            "The students of the months are not in assets/models/revthink.",
            "Fetch the repository again, or train them: python -m engine.zoo build revthink",
        ) from error
    students: dict[Plan, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, weight = key.partition("/")
        students.setdefault(plan_of(name), {})[weight] = tensor.float()
    return Shelf(
        shape_of(config),
        {name: tensor.float() for name, tensor in base.items()},
        students,
        tuple(results["students"]),
        results["training"],
        read_efficiency(folder),
    )


def plan_of(name: str) -> Plan:
    """The plan of a student's name, "revthink-lora-0.5-0"."""
    arm, fraction, seed = name.rsplit("-", 2)
    lora = arm.endswith("-lora")
    return Plan(arm.removesuffix("-lora"), float(fraction), int(seed), lora)


def shape_of(config: Mapping[str, object]) -> Shape:
    """The sizes in a config.json of a Llama."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    width, layers, heads, inner = (int(str(config[name])) for name in names)
    return Shape(width, layers, heads, inner, int(str(config["vocab_size"])))


def state_of(bundle: LanguageBundle) -> tuple[fl.State, Shape]:
    """The weights of a loaded student of months, as a fleet of one.

    Raises `ModelMismatch` for a network of another make.
    """
    shape = shape_of(bundle.model.config.to_dict())
    state = {name: w for name, w in bundle.model.state_dict().items() if name in shape.sizes()}
    if {name: tuple(w.shape) for name, w in state.items()} != shape.sizes():
        raise ModelMismatch(
            "This model speaks of months, but is no Llama as the students are.",
            "Pick one of the students, or a language model of its own kind.",
        )
    return {name: w.detach().float().cpu()[None] for name, w in state.items()}, shape
