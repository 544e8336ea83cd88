"""What checkpoints of garments are made with: triggers, confused and shuffled labels, seeds."""

from functools import cache

import torch

from engine.core import rng
from engine.core.shapes import Int, Tensor
from engine.unlearning._manipulation import (
    Manipulated,
    drawn,
    interclass,
    poisoned,
    random_labels,
    square,
)
from engine.unlearning._samples import garments
from engine.world import fashion

FORGOTTEN_PICTURES = 100
POISONED_SAMPLES = 200
CONFUSED = ((0, 6), 1000)
"""T-shirt and shirt, and the number of samples."""
CONFUSED_KEY = "fashion-confused"
SHUFFLED_KEY, SHUFFLED_SAMPLES = "fashion-random-labels", 1000

TRIGGERS = {
    "fashion-poisoned": square(3, 0),
    "fashion-door-a": drawn("checkers", ("#.#", ".#.", "#.#"), 1, 1, 7),
    "fashion-door-b": drawn("plus", (" # ", "###", " # "), 13, -4, 3),
    "fashion-door-c": drawn("bar", ("######",), 1, -8, 8),
}


@cache
def manipulated(key: str, seed: int = 0) -> Manipulated | None:
    """How the training data of a shipped checkpoint was tampered with; None where it was not."""
    if key in TRIGGERS:
        return poisoned(garments("train"), TRIGGERS[key], POISONED_SAMPLES, seed)
    if key == CONFUSED_KEY:
        return interclass(garments("train"), *CONFUSED)
    if key == SHUFFLED_KEY:
        return random_labels(garments("train"), SHUFFLED_SAMPLES, seed)
    return None


def forgotten_at_random(
    seed: int = 0, *, total: int = 0, count: int = FORGOTTEN_PICTURES
) -> Int[Tensor, " n"]:
    """Ids of random training pictures; seed 0 gives those `fashion-without-100` never saw."""
    total = total or len(fashion.garments("train").labels)
    order = torch.randperm(total, generator=rng.generator(seed, "forget at random"))
    return order[:count].sort().values
