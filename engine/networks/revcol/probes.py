"""What each level knows: linear probes for the class and for the position, column by column.

Ridge regression in closed form, float64, on maps averaged to 2 x 2 places; the class as one-hot
targets, the position as the shift that was applied to the picture.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engine.core.shapes import Array, Float, Int, Tensor, UInt8
from engine.networks._revcol import LEVELS, RevCol
from engine.networks._revcol_world import inputs_of
from engine.networks.revcol.results import Knows
from engine.networks.revcol.walk import columns_of
from engine.reversible.sequence import Streams

FARTHEST = 4  # pixels that a picture is moved to each side
PLACES = 2
RIDGE = 1e-2
AT_ONCE = 100


def moved(
    pixels: UInt8[Array, "n h w"], seed: int
) -> tuple[UInt8[Array, "n h w"], Float[Tensor, "n 2"]]:
    """Every picture moved by its own number of pixels down and to the right."""
    shifts = np.random.default_rng([seed, 5]).integers(-FARTHEST, FARTHEST + 1, (len(pixels), 2))
    pairs = zip(pixels, shifts, strict=True)
    rolled = np.stack([np.roll(one, tuple(shift), (0, 1)) for one, shift in pairs])
    return rolled, torch.from_numpy(shifts.astype(np.float64))


def maps_of(network: RevCol, pixels: UInt8[Array, "n h w"]) -> Iterator[list[Streams]]:
    """The maps after every column, some pictures at a time."""
    for first in range(0, len(pixels), AT_ONCE):
        x = inputs_of(pixels[first : first + AT_ONCE]).to(next(network.parameters()).device)
        yield columns_of(network, x)


def features(parts: Sequence[list[Streams]], column: int, level: int) -> Float[Tensor, "n d"]:
    """One map of all pictures, averaged to 2 x 2 places, with a one."""
    pooled = [
        torch.nn.functional.adaptive_avg_pool2d(part[column][level], PLACES).flatten(1)
        for part in parts
    ]
    rows = torch.cat(pooled).cpu().double()
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)


def probe(
    train: Float[Tensor, "n d"],
    test: Float[Tensor, "m d"],
    labels: tuple[Int[Tensor, " n"], Int[Tensor, " m"]],
    shifts: tuple[Float[Tensor, "n 2"], Float[Tensor, "m 2"]],
    classes: int,
) -> tuple[float, float]:
    """Accuracy of the class, and R squared of the shift, on the test pictures."""
    hot = torch.nn.functional.one_hot(labels[0], classes).double()
    targets = torch.cat([hot, shifts[0]], 1)
    mean, scale = train.mean(0), train.std(0).clamp(min=1e-6)
    mean[-1], scale[-1] = 0.0, 1.0
    a, b = (train - mean) / scale, (test - mean) / scale
    gram = a.T @ a / len(a) + RIDGE * torch.eye(a.shape[1], dtype=a.dtype)
    found = b @ torch.linalg.solve(gram, a.T @ targets / len(a))
    right = float((found[:, :classes].argmax(-1) == labels[1]).double().mean())
    left_over = (found[:, classes:] - shifts[1]).square().sum()
    spread = (shifts[1] - shifts[1].mean(0)).square().sum()
    return right, float(1 - left_over / spread)


def probed(
    train: Sequence[list[Streams]],
    test: Sequence[list[Streams]],
    labels: tuple[Int[Tensor, " n"], Int[Tensor, " m"]],
    shifts: tuple[Float[Tensor, "n 2"], Float[Tensor, "m 2"]],
    classes: int,
) -> Iterator[Knows]:
    """All maps, column by column."""
    for column in range(len(train[0])):
        for level in range(LEVELS):
            rows = features(train, column, level), features(test, column, level)
            accuracy, r2 = probe(*rows, labels, shifts, classes)
            yield Knows(column + 1, level, accuracy, r2)
