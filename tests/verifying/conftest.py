"""A set of students with random weights, in the place and layout of the shipped ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.models import library
from engine.verifying.revthink import fleet, students
from engine.verifying.revthink.arms import MAIN
from engine.verifying.revthink.fleet import Plan, Shape
from engine.zoo import revthink as zoo


def write_students(folder: Path) -> Path:
    """Base, three students from nothing, three with LoRA, and figures, all random."""
    shape = Shape(width=32, inner=48)
    record = zoo.Record(shape, {name: w[0] for name, w in fleet.fresh(shape, [0]).items()})
    for place, arm in enumerate(MAIN):
        for fraction in (0.5, 1.0):
            state = fleet.fresh(shape, [place + 1])
            name = Plan(arm, fraction, 0).name
            record.students[name] = {key: w[0] for key, w in state.items()}
        lora = fleet.lora_start(shape, [place], 4)
        name = Plan(arm, 0.5, 0, lora=True).name
        record.students[name] = {key: w[0] for key, w in lora.items()}
    rows = [
        {"arm": arm, "fraction": fraction, "seed": seed, "lora": False, "test": 0.1 * seed}
        for arm in MAIN
        for fraction in (0.5, 1.0)
        for seed in range(3)
    ]
    results = {"students": rows, "curves": {}, "training": {}, "live": []}
    # Published in the end by the build's own function, which also writes the checksums.
    record.results = lambda: results
    record.publish(folder)
    zoo.publish_curve(a_curve(), folder)
    return folder


def a_curve() -> dict[str, object]:
    """A sample-efficiency curve as the build writes it, with figures that are easy to tell."""
    rows = [
        {"arm": arm, "fraction": share, "seed": seed, "lora": False}
        | dict.fromkeys(("test", "inverse", "new"), 0.1 * place + 0.2 * share + 0.01 * seed)
        for place, arm in enumerate(MAIN)
        for share in zoo.FRACTIONS
        for seed in range(3)
    ]
    told = {
        "world": "day",
        "test relations": 28,
        "seeds": 3,
        "steps": 5,
        "sequences a step": 24,
        "seconds": 60.0,
        "machine": "none",
    }
    return told | {"weights of a student": 100, "questions in the pool": 56, "students": rows}


@pytest.fixture(scope="session")
def tiny_students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as assets/models/revthink, small and untrained."""
    with torch.random.fork_rng(devices=[]):
        return write_students(tmp_path_factory.mktemp("students") / "revthink")


@pytest.fixture
def shipped(tiny_students: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The random students in place of the shipped ones, for the jobs."""
    students.shelf.cache_clear()
    found = students.shelf(tiny_students)
    monkeypatch.setattr(students, "shelf", lambda folder=tiny_students: found)
    card = library.ModelCard.read(tiny_students / "card.json")
    monkeypatch.setattr(library, "MODELS", {**library.MODELS, "revthink": card})
    monkeypatch.setattr(library, "ASSETS", tiny_students.parent)
    yield tiny_students
    library.CACHE.clear()
