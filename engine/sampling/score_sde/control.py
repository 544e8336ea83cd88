"""Control of an unconditional model: what is known is put in at every noise level.

After each update, of corrector and predictor, the known part is replaced by itself under noise of
that level, a data + s z. For colourisation the colours are turned so that the first channel is the
gray value; it is known, the two others are not.

The release puts the noise of the last update into what it returns, so its last denoising is lost:
`faithful` repeats that for the golden arrays, otherwise the unknown part keeps its mean.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.diffusion.denoiser import Model, combine
from engine.diffusion.grids import Grid
from engine.diffusion.moves import Step
from engine.diffusion.noise import NoiseSource
from engine.diffusion.schedules import Level, Path

Classifier = Callable[[Float[Tensor, "b c h w"], Float[Tensor, " b"]], Float[Tensor, "b k"]]

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
        s = float(self.path.s(t)) / self.path.prior_std
        known = combine((float(self.path.a(t)), self.data), (s, prior))
        return self._back(self._turned(prior) * (1 - self.mask) + known * self.mask)

    def gap(self, x: Float[Tensor, "b c h w"]) -> float:
        """Mean distance of the known part of clean pictures to what is known."""
        away = (self._turned(x) - self.data).abs() * self.mask
        return float(away.sum() / self.mask.sum())

    def released_start(self, prior: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """As the release begins: known pixels without noise, the prior masked before the turn."""
        return self._back(self.data * self.mask + self._turned(prior * (1 - self.mask)))

    def _turned(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x if self.turn is None else torch.einsum("bihw,ij->bjhw", x, self.turn.to(x))

    def _back(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x if self.turn is None else torch.einsum("bihw,ji->bjhw", x, self.turn.to(x))


class Guide:
    """w grad log c(y | x, t) of a classifier of noisy pictures, for a network on any process.

    The classifier was trained on pictures in [0, 1] with added noise, so a state is rescaled to
    one: (x / a - low) / (1 - low) at noise s / a / (1 - low). `calls` and `seconds` are counted
    apart from the evaluations of the network.
    """

    def __init__(
        self, classifier: Classifier, label: int, weight: float, path: Path, low: float
    ) -> None:
        self.classifier, self.label, self.weight = classifier, label, weight
        self.path, self.low = path, low
        self.calls, self.seconds = 0, 0.0

    def pull(self, x: Float[Tensor, "b c h w"], t: Level) -> Float[Tensor, "b c h w"]:
        """The weighted gradient at states x of time t."""
        begun = time.monotonic()
        a, s = float(np.ravel(self.path.a(t))[0]), float(np.ravel(self.path.s(t))[0])
        width = 1 - self.low
        with torch.enable_grad():
            x = x.detach().float().cpu().requires_grad_()
            sigma = torch.full((len(x),), min(max(s / a / width, 0.01), 50.0), device=x.device)
            logits = self.classifier((x / a - self.low) / width, sigma)
            log_probability = torch.log_softmax(logits, dim=1)[:, self.label].sum()
            (pull,) = torch.autograd.grad(log_probability, x)
        self.calls += 1
        self.seconds += time.monotonic() - begun
        return self.weight * pull


def guided(model: Model, guide: Guide) -> Model:
    """The same model with the guide's pull added to its score, so that any solver can use it."""
    path, kind = model.path, model.kind

    def net(
        x: Float[Tensor, "b c h w"], label: Float[Tensor, " b"], **condition: Tensor
    ) -> Float[Tensor, "b c h w"]:
        value = model.net(x, label, **condition)
        t = _time(path, kind, float(label[0]))
        pull = guide.pull(x, t).to(value)
        return value + pull if kind == "score" else value - float(path.s(t)) * pull

    return Model(net, path, kind, model.time, dtype=model.dtype, device=model.device)


def _time(path: Path, kind: str, label: float) -> float:
    """The time behind a label: the noise level of VE, 999 t of the others."""
    return float(path.t_of_lam(-np.log(label))) if kind == "score" else label / 999
