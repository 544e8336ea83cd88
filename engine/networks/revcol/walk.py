"""From the last column's four maps back to the first, coupling by coupling."""

from collections.abc import Iterator

import numpy as np
import torch

from engine.core.precision import at_home, wide
from engine.core.reversible import compare
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.networks._revcol import LEVELS, RevCol
from engine.networks.revcol.results import Alphas, Exit, StepBack
from engine.reversible.sequence import Streams

PATCH = 4  # pixels a side that one place of the lowest map stands for
RIDGE = 1e-3


@torch.no_grad()
def exits(
    network: RevCol, x: Float[Tensor, "1 3 h w"], classes: tuple[str, ...]
) -> tuple[Exit, ...]:
    """What every head says and every decoder draws."""
    seen = network(x)
    x, *drawings = at_home([x, *seen.decoded])
    found = []
    for index, (columns, logits) in enumerate(
        zip(network.heads_after, at_home(seen.logits), strict=True)
    ):
        chances = logits[0].softmax(-1)
        best = int(chances.argmax())
        drawn = drawings[index].sigmoid() if index < len(drawings) else None
        found.append(
            Exit(
                columns,
                classes[best] if best < len(classes) else f"class {best}",
                float(chances[best]),
                tuple(chances.tolist()) if len(chances) <= len(classes) else (),
                None if drawn is None else to_picture(drawn[0]),
                None if drawn is None else float((drawn - x).abs().mean()),
            )
        )
    return tuple(found)


class Readout:
    """A linear picture of the lowest map: ridge regression from its channels at a place to the
    pixels there, one for each column, fitted on pictures of the training set."""

    def __init__(self, maps: list[Float[Tensor, "n c h w"]], x: Float[Tensor, "n 3 i j"]) -> None:
        x, *maps = at_home([x, *maps])
        target = torch.nn.functional.unfold(x.mean(1, keepdim=True), PATCH, stride=PATCH)
        rows = wide(target.transpose(1, 2).reshape(-1, PATCH**2))
        self.weights = [_ridge(wide(_rows(one)), rows) for one in maps]

    def picture(self, column: int, c0: Float[Tensor, "1 c h w"]) -> UInt8[Array, "i j 3"]:
        """The picture that the map of this column holds, as far as a linear map can read it."""
        read = _with_one(wide(_rows(c0))) @ self.weights[column]
        h, w = c0.shape[-2:]
        grey = torch.nn.functional.fold(
            read.T[None].float(), (h * PATCH, w * PATCH), PATCH, stride=PATCH
        )
        return to_picture(grey[0].expand(3, -1, -1))


def _rows(c: Float[Tensor, "n c h w"]) -> Float[Tensor, "m c"]:
    return c.permute(0, 2, 3, 1).reshape(-1, c.shape[1])


def _with_one(rows: Float[Tensor, "m c"]) -> Float[Tensor, "m d"]:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def _ridge(rows: Float[Tensor, "m c"], targets: Float[Tensor, "m k"]) -> Float[Tensor, "d k"]:
    """Least squares with an intercept and a small ridge on scaled columns."""
    given = _with_one(rows)
    gram = given.T @ given / len(given)
    return torch.linalg.solve(
        gram + RIDGE * torch.diag(gram.diagonal()), given.T @ targets / len(given)
    )


@torch.no_grad()
def columns_of(network: RevCol, x: Float[Tensor, "n 3 h w"]) -> list[Streams]:
    """The four maps after every column."""
    stem = network.stem(x)
    trace = network.sequence().trace(network.zeros(stem), (stem,))
    return [streams for k, streams in trace if k % LEVELS == LEVELS - 1]


def walked_back(
    network: RevCol, x: Float[Tensor, "1 3 h w"], readout: Readout
) -> Iterator[tuple[StepBack, Streams, Streams]]:
    """Each coupling undone, from the end: the step, all streams, and what they were.

    The stem's map is context, which every column reads; it is kept, not recovered.
    """
    with torch.no_grad():
        stem = network.stem(x)
    sequence, zeros = network.sequence(), network.zeros(stem)
    there = [zeros, *(streams for _, streams in sequence.trace(zeros, (stem,)))]
    for k, streams in sequence.trace(there[-1], (stem,), backward=True):
        column, level = divmod(k, LEVELS)
        truth = there[k]
        # Before the first column all maps are zero: a picture of them would show the readout alone.
        seen = max(column - (level == 0), 0)
        lowest, before, back, gone = at_home([streams[0], truth[0], streams[level], truth[level]])
        gap = (lowest - before).abs().amax((0, 1)).numpy()
        yield (
            StepBack(
                column + 1,
                level,
                compare([gone], [back]).relative_error,
                readout.picture(seen, lowest),
                readout.picture(seen, before),
                gap.astype(np.float32),
            ),
            streams,
            truth,
        )


def alphas(network: RevCol) -> tuple[Alphas, ...]:
    """The scales by column and level."""
    found = []
    for index, column in enumerate(network.columns):
        scales = at_home([getattr(column, f"alpha{level}") for level in range(LEVELS)])
        sizes = [scale.abs() for scale in scales]
        found.append(
            Alphas(
                index + 1,
                tuple(float(a.min()) for a in sizes),
                tuple(float(a.mean()) for a in sizes),
                tuple(float(a.max()) for a in sizes),
            )
        )
    return tuple(found)


def to_picture(x: Float[Tensor, "3 h w"]) -> UInt8[Array, "h w 3"]:
    """Numbers in [0, 1] as a picture."""
    return (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
