"""A text-to-image checkpoint as the sampler interface wants it: one text, one path, one network."""

import inspect
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.core import budgets
from engine.core.errors import OutOfBudget, SamplerError
from engine.core.precision import at_home
from engine.core.recipe import ModelRef
from engine.core.shapes import Float, Tensor
from engine.diffusion import adapters, grids, solvers
from engine.diffusion.denoiser import Model
from engine.diffusion.grids import Grid
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import Step
from engine.models import diffusion as checkpoints
from engine.models import drawing
from engine.models.diffusion import Conditioning, DiffusionBundle, empty_prompt, encode_prompt
from engine.sampling.nfe_lab.results import Picture

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

GRIDS = ("trailing", "leading", "linspace", "lambda", "karras")
"""How the timesteps are spaced; all end without noise."""

SPACINGS: dict[str, dict[str, object]] = {
    "trailing": {"timestep_spacing": "trailing"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 0},
    "linspace": {"timestep_spacing": "linspace"},
    "lambda": {"use_lu_lambdas": True},
    "karras": {"use_karras_sigmas": True},
}
"""The same spacings as settings of diffusers' schedulers."""

LONGEST_TEXT, MOST_GUIDANCE = 1000, 30

# Settings of a checkpoint's scheduler that would make it end elsewhere than ours.
ENDING: dict[str, object] = {"set_alpha_to_one": True, "clip_sample": False, "thresholding": False}


@dataclass(frozen=True)
class Scene:
    """What stays the same for all solvers: checkpoint, embeddings, guidance, size of the latents.

    `shape` is c h w; `uncond` is None where guidance is 1.
    """

    bundle: DiffusionBundle
    cond: Conditioning
    uncond: Conditioning | None
    guidance: float
    shape: tuple[int, int, int]

    @classmethod
    def open(
        cls,
        model: ModelRef | str,
        prompts: str | Sequence[str],
        negative: str = "",
        guidance: float = 1.0,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> "Scene":
        """Load the checkpoint and encode the prompts, one a sample; sizes in pixels.

        Raises `BadInput` for other kinds of models and sizes that the model has no latents for,
        `OutOfBudget` for pictures far larger than the model's own.
        """
        bundle = drawing.open_bundle(model)
        _check_area(bundle, height, width)
        shape = checkpoints.latent_shape(bundle, height, width)
        return cls(bundle, *_encoded(bundle, prompts, negative, guidance), guidance, shape)

    def with_prompts(self, prompts: str | Sequence[str], negative: str, guidance: float) -> "Scene":
        """The same under other prompts. Without guidance the negative text is not used."""
        cond, uncond = _encoded(self.bundle, prompts, negative, guidance)
        return replace(self, cond=cond, uncond=uncond, guidance=guidance)

    @property
    def path(self) -> Path:
        """The noise path that the checkpoint was trained on."""
        return drawing.path_of(self.bundle)

    def model(self) -> Model:
        """The network with its counter of calls at zero."""
        return drawing.denoiser(self.bundle, self.cond, self.uncond, self.guidance)

    def noise(self, seed: int, count: int = 1) -> Float[Tensor, "b c h w"]:
        """The start of every solver, for a number of samples."""
        return drawing.start_noise(self.bundle, seed, count, self.shape)

    def walk(
        self,
        solver: str,
        model: Model,
        z: Float[Tensor, "b c h w"],
        nfe: int,
        *,
        seed: int,
        grid: str = "trailing",
        eta: float = 0.0,
    ) -> Iterator[Step]:
        """The steps of a solver of ours or of `diffusers:<Class>` within `nfe` evaluations."""
        theirs = solver.removeprefix("diffusers:")
        if theirs != solver:
            scheduler = self._scheduler(theirs, grid)
            adapters.set_nfe(scheduler, nfe)
            return adapters.solve_diffusers(scheduler, model, z, seed=seed, same_start=True)
        entry = solvers.find(solver)
        steps = entry.steps_for(nfe, to_zero=True)
        options = {"eta": eta} if entry.name == "ddim" else {}
        return solvers.solve(
            solver, model, z, grid_of(model.path, grid, steps), Noise(seed), hook=None, **options
        )

    def decode(self, z: Float[Tensor, "1 c h w"]) -> Picture:
        """The picture of one sample's latents."""
        return drawing.decode(self.bundle, z)[0]

    def _scheduler(self, name: str, grid: str) -> "SchedulerMixin":
        config = {**self.bundle.scheduler, "prediction_type": self.bundle.prediction_type}
        scheduler = adapters.scheduler_like(config, name)
        accepted = inspect.signature(type(scheduler).__init__).parameters
        refused = [setting for setting in SPACINGS[grid] if setting not in accepted]
        if refused and refused != ["steps_offset"]:
            raise SamplerError(
                f"{name} of diffusers has no {grid} spacing of its timesteps.",
                "Choose trailing, which all have.",
            )
        overrides = {**SPACINGS[grid], **ENDING}
        known = {setting: value for setting, value in overrides.items() if setting in accepted}
        return adapters.scheduler_like({**config, **known}, name)


def _check_area(bundle: DiffusionBundle, height: int | None, width: int | None) -> None:
    """Raises `OutOfBudget` for a picture far larger than the network's own."""
    tall, wide, _ = checkpoints.own_size(bundle)
    if (height or tall) * (width or wide) > budgets.DRAWN_AREA * tall * wide:
        raise OutOfBudget(
            f"{height or tall} x {width or wide} pixels are more than {budgets.DRAWN_AREA} times "
            f"the area of this model's own pictures, {tall} x {wide}.",
            "Take a smaller height or width.",
        )


def _encoded(
    bundle: DiffusionBundle, prompts: str | Sequence[str], negative: str, guidance: float
) -> tuple[Conditioning, Conditioning | None]:
    cond = encode_prompt(bundle, [prompts] if isinstance(prompts, str) else prompts)
    if guidance == 1:
        return cond, None
    uncond = encode_prompt(bundle, [negative]) if negative.strip() else empty_prompt(bundle)
    return cond, uncond


def grid_of(path: Path, name: str, steps: int) -> Grid:
    """A grid that ends without noise, by its name in `GRIDS`."""
    match name:
        case "trailing":
            return grids.trailing(path, steps)
        case "leading":
            return grids.leading(path, steps)
        case "linspace":
            return grids.uniform_t(path, steps, to_zero=True)
        case "lambda":
            return grids.uniform_lam(path, steps, to_zero=True)
        case _:
            return grids.karras(path, steps, to_zero=True)


def small(picture: Picture, side: int = 128) -> Picture:
    """A picture at most `side` pixels high and wide, by leaving out rows and columns."""
    stride = math.ceil(max(picture.shape[:2]) / side)
    return np.ascontiguousarray(picture[::stride, ::stride])


def distance(z: Tensor, truth: Tensor) -> float:
    """Root mean square difference relative to that of `truth`."""
    z, truth = (tensor.double() for tensor in at_home([z, truth]))
    return float((z - truth).square().mean().sqrt() / truth.square().mean().sqrt())


class Clock:
    """Seconds spent in the steps of a walk, and not in what is done between them."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps, self.seconds = steps, 0.0

    def __iter__(self) -> Iterator[Step]:
        while True:
            begun = time.perf_counter()
            step = next(self._steps, None)
            self.seconds += time.perf_counter() - begun
            if step is None:
                return
            yield step
