"""A text-to-image checkpoint as the sampler interface wants it: one text, one path, one network."""

import inspect
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.core import budgets
from engine.core.errors import AssetMissing, BadInput, OutOfBudget, SamplerError
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion import adapters, grids, solvers
from engine.diffusion.denoiser import Condition, Model
from engine.diffusion.grids import Grid
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import Path, from_alphas_cumprod
from engine.diffusion.solvers import Step
from engine.models import diffusion as checkpoints
from engine.models.diffusion import Conditioning, DiffusionBundle
from engine.models.library import load
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
    """What stays the same for all solvers: the checkpoint, the texts, the guidance."""

    bundle: DiffusionBundle
    path: Path
    cond: Condition
    uncond: Condition | None
    guidance: float
    shape: tuple[int, int, int]

    @classmethod
    def open(
        cls,
        model: ModelRef | str,
        prompt: str,
        negative: str,
        guidance: float,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> "Scene":
        """Load the checkpoint and encode the texts. Raises `ModelMismatch` for other kinds."""
        bundle = load(ModelRef(model) if isinstance(model, str) else model)
        if not isinstance(bundle, DiffusionBundle):
            raise BadInput(f"{bundle.card.title} is no text-to-image model.", "Choose another one.")
        path = from_alphas_cumprod(checkpoints.alphas_cumprod(bundle).double().numpy())
        _check_area(bundle, height, width)
        shape = checkpoints.latent_shape(bundle, height, width)
        return cls(bundle, path, {}, None, 1.0, shape).told(prompt, negative, guidance)

    def told(self, prompt: str, negative: str, guidance: float) -> "Scene":
        """The same scene under another prompt. Without guidance the negative text is not used."""
        return self.told_each([prompt], negative, guidance)

    def told_each(self, prompts: Sequence[str], negative: str, guidance: float) -> "Scene":
        """The scene of a batch, with a prompt for each sample."""
        cond, uncond = _named(checkpoints.encode_prompt(self.bundle, prompts)), None
        if guidance != 1 and negative.strip():
            uncond = _named(checkpoints.encode_prompt(self.bundle, [negative]))
        elif guidance != 1:
            uncond = _named(checkpoints.empty_prompt(self.bundle))
        return replace(self, cond=cond, uncond=uncond, guidance=guidance)

    def model(self) -> Model:
        """The network with a counter at zero."""

        def net(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
            told = Conditioning(condition["tokens"], condition.get("pooled"))
            return checkpoints.predict(self.bundle, x, label, told)

        return Model(
            net,
            self.path,
            adapters.KINDS[self.bundle.prediction_type],
            "index",
            guidance=self.guidance,
            cond=self.cond,
            uncond=self.uncond,
            dtype=torch.float32,
            device=self.bundle.device,
        )

    def noise(self, seed: int, count: int = 1) -> Float[Tensor, "b c h w"]:
        """The start of every solver, for a number of samples."""
        return Noise(seed).start(torch.empty(count, *self.shape, device=self.bundle.device))

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
            solver, model, z, grid_of(self.path, grid, steps), Noise(seed), hook=None, **options
        )

    def decode(self, z: Float[Tensor, "1 c h w"]) -> Picture:
        return checkpoints.decode_latents(self.bundle, z.float())[0]

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


def verdicts(bundle: DiffusionBundle, pictures: UInt8[Array, "n h w 3"]) -> list[str]:
    """What the judge of the embedded world says of each picture; empty for other models."""
    from engine.models.vision import load_judge

    if bundle.vocabulary is None:
        return [""] * len(pictures)
    try:
        verdict = load_judge().judge(pictures)
    except AssetMissing:
        return [""] * len(pictures)
    return [verdict.text(index) for index in range(len(pictures))]


def small(picture: Picture, side: int = 128) -> Picture:
    """A picture at most `side` pixels high and wide, by leaving out rows and columns."""
    stride = math.ceil(max(picture.shape[:2]) / side)
    return np.ascontiguousarray(picture[::stride, ::stride])


def distance(z: Tensor, truth: Tensor) -> float:
    """Root mean square difference relative to that of `truth`."""
    z, truth = z.cpu().double(), truth.cpu().double()
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


def _named(conditioning: Conditioning) -> Condition:
    parts = {"tokens": conditioning.tokens, "pooled": conditioning.pooled}
    return {name: part for name, part in parts.items() if part is not None}
