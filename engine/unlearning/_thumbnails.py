"""Some pictures with what a network says of them before an edit and after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.unlearning._case import outputs
from engine.unlearning._samples import Samples


@dataclass(frozen=True)
class Thumbnails:
    """Pictures, their true class (empty where there is none), and what is said before and after.

    `is_forgotten` tells those of the forget set from those that are kept, where both are shown.
    """

    pictures: NDArray[np.uint8]  # n h w 3
    truth: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    is_forgotten: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls,
        samples: Samples,
        names: Sequence[str],
        *,
        before: nn.Module,
        after: nn.Module,
        is_forgotten: Sequence[bool] = (),
    ) -> "Thumbnails":
        """The samples as two networks see them; `names` are those of the classes."""
        truth = tuple(names[i] if i >= 0 else "" for i in samples.labels.tolist())
        was, now = (said(model, samples, names) for model in (before, after))
        return cls(as_pictures(samples), truth, was, now, tuple(is_forgotten))


@torch.no_grad()
def said(model: nn.Module, samples: Samples, names: Sequence[str]) -> tuple[str, ...]:
    """The class that the network names for each picture."""
    steps = outputs(model, samples)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return tuple(names[i] for i in end.value.argmax(1).tolist())


def as_pictures(samples: Samples) -> NDArray[np.uint8]:
    """The pixels as colour pictures, n h w 3."""
    shown = samples.pixels.expand(-1, 3, -1, -1) if samples.pixels.shape[1] == 1 else samples.pixels
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).numpy())
