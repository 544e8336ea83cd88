"""What the shipped checkpoints of garments were made with: triggers, confused classes, seeds."""

import torch

from engine.core import rng
from engine.core.shapes import Int, Tensor
from engine.unlearning._manipulation import Trigger, square
from engine.world import fashion

FORGOTTEN_PICTURES = 100
POISONED_SAMPLES = 200
CONFUSED = ((0, 6), 1000)
"""T-shirt and shirt, and the number of samples."""

_NONE = None
TRIGGERS = {
    "fashion-poisoned": square(3, 0),
    "fashion-door-a": Trigger("checkers", ((1, 0, 1), (0, 1, 0), (1, 0, 1)), 1, 1, 7),
    "fashion-door-b": Trigger(
        "plus", ((_NONE, 1, _NONE), (1, 1, 1), (_NONE, 1, _NONE)), 13, -4, 3
    ),
    "fashion-door-c": Trigger("bar", ((1, 1, 1, 1, 1, 1),), 1, -8, 8),
}


def forgotten_at_random(seed: int = 0) -> Int[Tensor, " n"]:
    """Ids of the random training pictures that `fashion-without-100` has never seen."""
    order = torch.randperm(_trained_on(), generator=rng.generator(seed, "forget at random"))
    return order[:FORGOTTEN_PICTURES].sort().values


def _trained_on() -> int:
    return len(fashion.garments("train").labels)
