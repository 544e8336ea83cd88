"""Control of an unconditional model: what is known is put in at every noise level.

After each update, of corrector and predictor, the known part is replaced by itself under noise of
that level, a data + s z. For colourisation the colours are turned so that the first channel is the
gray value; it is known, the two others are not.

The release puts the noise of the last update into what it returns, so its last denoising is lost:
`faithful` repeats that for the golden arrays, otherwise the unknown part keeps its mean.
"""

from dataclasses import dataclass, replace

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.diffusion.denoiser import combine
from engine.diffusion.grids import Grid
from engine.diffusion.moves import Step
from engine.diffusion.noise import NoiseSource
from engine.diffusion.schedules import Path

COLOURS = torch.tensor(
    [
        [5.7735014e-01, -8.1649649e-01, 4.7008697e-08],
        [5.7735026e-01, 4.0824834e-01, 7.0710671e-01],
        [5.7735026e-01, 4.0824822e-01, -7.0710683e-01],
    ]
)
"""Columns: gray, and two colours at right angles to it; the digits of the release."""


class Known:
    """A hook of `solve` that keeps what is known.

    `mask` is 1 where `data` is known. With `turn` (columns of an orthonormal basis) both count in
    the turned channels, and `data` is given unturned.
    """

    def __init__(
        self,
        data: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b c h w"],
        turn: Float[Tensor, "c c"] | None,
        path: Path,
        grid: Grid,
        noise: NoiseSource,
        *,
        faithful: bool = False,
    ) -> None:
        if not bool(((mask == 0) | (mask == 1)).all()) or mask.shape != data.shape:
            raise BadInput(
                "The mask must be 0 or 1 and have the shape of the picture.",
                "Paint over the part that shall be drawn anew.",
            )
        self.turn = turn
        self.data, self.mask = self._turned(data), mask
        self.path, self.noise = path, noise
        self.grid = replace(grid, final="none") if faithful else grid

    def __call__(self, step: Step) -> Float[Tensor, "b c h w"]:
        t = float(self.grid.times[step.i])
        drawn = self.noise(self.data, step.i, f"known after {step.role}, {step.nfe}")
        ended = step.role == "step" and step.i == self.grid.steps - 1
        s = 0.0 if ended else float(self.path.s(t))
        known = combine((float(self.path.a(t)), self.data), (s, drawn))
        return self._back(self._turned(step.z) * (1 - self.mask) + known * self.mask)

    def start(self, prior: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The prior, with the known part under the largest noise in its place."""
        t = float(self.grid.times[0])
        known = combine((float(self.path.a(t)), self.data), (float(self.path.s(t)), prior))
        known = known / 1.0
        return self._back(self._turned(prior) * (1 - self.mask) + known * self.mask)

    def released_start(self, prior: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """As the release begins: known pixels without noise, the prior masked before the turn."""
        return self._back(self.data * self.mask + self._turned(prior * (1 - self.mask)))

    def _turned(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x if self.turn is None else torch.einsum("bihw,ij->bjhw", x, self.turn.to(x))

    def _back(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x if self.turn is None else torch.einsum("bihw,ji->bjhw", x, self.turn.to(x))


@dataclass(frozen=True)
class Untouched:
    """A hook that changes nothing."""

    def __call__(self, step: Step) -> Float[Tensor, "b c h w"]:
        return step.z
