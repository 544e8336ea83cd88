"""What the measurements of the family share: networks of several seeds, means, intervals.

`folder` of a measurement keeps trained networks and the figures of its parts, so that a run that
was stopped goes on.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import nn

from engine.core import disk
from engine.core.job import Progress, relay
from engine.core.recipe import ModelRef, Plain
from engine.metrics.intervals import Rate, student
from engine.models.library import MODELS, load
from engine.unlearning._card import Card
from engine.unlearning._case import Case
from engine.unlearning._nets import World, trained

SEEDS = (0, 1, 2)
SECONDS = "processor seconds"
T = TypeVar("T")


def told(values: Sequence[float]) -> dict[str, Plain]:
    """The same as a figure, with the values of the seeds."""
    mean, low, high = student(values)
    return {"mean": mean, "from": low, "to": high, "of seeds": list(values)}


def rates(card: Card) -> dict[str, Plain]:
    """The numbers of a card, without its times."""
    found: dict[str, Plain] = {}
    for name in (
        "forget_train",
        "forget_test",
        "retain_train",
        "retain_test",
        "corrected",
        "kept",
        "attack_success",
    ):
        rate = getattr(card, name)
        if isinstance(rate, Rate):
            found[name] = {"rate": rate.rate, "from": rate.low, "to": rate.high, "of": rate.of}
    for name in ("mia", "zrf", "changed_share"):
        if (value := getattr(card, name)) is not None:
            found[name] = float(value)
    if card.worst_case is not None:
        found["worst case"] = card.worst_case.accuracy
    return found


def network(
    world: World, seed: int, folder: str, done: int, total: int
) -> Generator[Progress, None, nn.Module]:
    """A trained network of a seed; its state is kept in the folder where one is named.

    That of seed 0 is the one that ships, where one does.
    """
    if seed == 0 and world.key in MODELS:
        return load(ModelRef(world.key), dtype="float32").model
    place = Path(folder) if folder else None
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    return (yield from relay(trained(world, seed, place), lambda note: Progress(done, total, note)))


def once(
    folder: str, key: str, make: Callable[[], Generator[Progress, None, dict[str, list[float]]]]
) -> Generator[Progress, None, dict[str, list[float]]]:
    """Figures of a part of a benchmark with its processor seconds; those of parts add up."""

    def timed() -> Generator[Progress, None, dict[str, list[float]]]:
        begun = time.process_time()
        found = yield from make()
        return {**found, SECONDS: [time.process_time() - begun]}

    return (yield from kept(folder, key, timed()))


def kept(
    folder: str, name: str, measure: Generator[Progress, None, dict[str, T]]
) -> Generator[Progress, None, dict[str, T]]:
    """The figures of a part, which lie in the folder from then on where one is named."""
    place = Path(folder, f"{name}.json") if folder else None
    if place is not None and place.is_file():
        found: dict[str, T] = json.loads(place.read_text("utf-8"))
        return found
    found = yield from measure
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        disk.write(place, [json.dumps(found).encode()])
    return found


def with_network(case: Case, network: nn.Module) -> Case:
    """The case on another network of the same kind."""
    return replace(case, bundle=replace(case.bundle, model=network))


def columns(rows: Mapping[str, Sequence[float]]) -> dict[str, Plain]:
    """Several figures over seeds."""
    return {name: told(values) for name, values in rows.items() if values}
