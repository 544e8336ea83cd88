"""Drawing with a text-to-image model: from prompts and a seed to pictures, for every method.

    bundle = open_bundle("world")                              or a `ModelRef`
    view = View.of(["a cat", "a dog"], steps=10, guidance_scale=4.0)
    pictures = view.draw(bundle, seed=7)                       uint8, b h w 3

    for done, pictures in view.preview(bundle, view.walk(bundle, seed=7)): ...    as they emerge
    seen = verdicts(bundle, pictures)                          what the judge sees in each

A method that edits the embedding of a prompt, or is told another text on the other side of
guidance, hands `walk` the embeddings themselves. Noise depends on the seed and on the number of the
picture alone, so the same noise in the same batch gives the same bits, whatever else is drawn.

States are latents z = a x0 + s eps on the noise path of the checkpoint; guidance is

    uncond + guidance_scale (cond - uncond)        (Ho and Salimans 2022, eq. 6 with w = scale - 1)
"""

import hashlib
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
import torch

from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import ModelRef
from engine.core.settings import Items, Range, Text, checked
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion import adapters, grids, solvers
from engine.diffusion.denoiser import Condition, Model
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import Path, from_alphas_cumprod
from engine.diffusion.solvers import Step
from engine.models import diffusion as checkpoints
from engine.models.diffusion import Conditioning, DiffusionBundle, empty_prompt, encode_prompt
from engine.models.library import load

SOLVER = "dpmpp_2m"  # of diffusers' DPMSolverMultistepScheduler, the usual one for few steps
MOST_PROMPTS, MOST_STEPS, MOST_GUIDANCE, PROMPT_CHARACTERS = 12, 100, 30.0, 1000
Pictures: TypeAlias = UInt8[Array, "b h w 3"]
Prompt = Annotated[str, Text(PROMPT_CHARACTERS)]
_LISTED = Items(MOST_PROMPTS, fewest=1, separator=";", blanks=False, advice='Try "a cat".')
Prompts = Annotated[Sequence[Prompt], _LISTED]
SamplerSteps = Annotated[int, Range(1, MOST_STEPS, "10 give a good picture.")]
GuidanceScale = Annotated[float, Range(0, MOST_GUIDANCE, "1 is none, 4 is a good value.")]

PREVIEW_EVERY = 3  # steps; decoding takes about as long as one of them on the embedded model

# ---------------------------------------------------------------------- the model


def open_bundle(model: ModelRef | str) -> DiffusionBundle:
    """The text-to-image model of a reference or key. Raises `BadInput` for other kinds."""
    bundle = load(model)
    if not isinstance(bundle, DiffusionBundle):
        raise BadInput(f"{bundle.card.title} is no text-to-image model.", "Choose another one.")
    return bundle


def in_float32(bundle: DiffusionBundle) -> DiffusionBundle:
    """The same model in full precision, to train on: small steps vanish in half precision."""
    if bundle.dtype in ("float32", "float64"):
        return bundle
    wide = load(bundle.ref, bundle.device, "float32")
    assert isinstance(wide, DiffusionBundle)
    return wide


def path_of(bundle: DiffusionBundle) -> Path:
    """The noise path the checkpoint was trained on, in its timesteps."""
    return from_alphas_cumprod(checkpoints.alphas_cumprod(bundle).double().numpy())


def denoiser(
    bundle: DiffusionBundle,
    cond: Conditioning,
    uncond: Conditioning | None,
    guidance_scale: float,
) -> Model:
    """The network under these embeddings, on its own noise path, its counter of calls at zero.

    A single row of an embedding serves all samples. `uncond` may be None where `guidance_scale` is
    1; otherwise `SamplerError`.
    """

    def net(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
        rows = Conditioning(condition["tokens"], condition.get("pooled"))
        return checkpoints.predict(bundle, x, label, rows)

    return Model(
        net,
        path_of(bundle),
        adapters.KINDS[bundle.prediction_type],
        "index",
        guidance=guidance_scale,
        cond=_by_name(cond),
        uncond=None if uncond is None else _by_name(uncond),
        dtype=torch.float32,
        device=bundle.device,
    )


def _by_name(conditioning: Conditioning) -> Condition:
    parts = {"tokens": conditioning.tokens, "pooled": conditioning.pooled}
    return {name: part for name, part in parts.items() if part is not None}


# ---------------------------------------------------------------------- latents


def start_noise(
    bundle: DiffusionBundle, seed: int, count: int = 1, shape: tuple[int, int, int] | None = None
) -> Float[Tensor, "b c h w"]:
    """Standard normal latents that `count` pictures begin from, on the device of the model.

    Each index has noise of its own, whatever the size of the batch. `shape` is c h w, by default
    that of the model's own pictures.
    """
    shape = shape or checkpoints.latent_shape(bundle)
    return Noise(seed).start(torch.empty(count, *shape, device=bundle.device))


def walk(
    bundle: DiffusionBundle,
    cond: Conditioning,
    uncond: Conditioning,
    noise: Float[Tensor, "b c h w"],
    *,
    steps: int,
    guidance_scale: float,
) -> Iterator[Step]:
    """The steps from noise to latents under these embeddings, one row a picture."""
    return _solve(SOLVER, denoiser(bundle, cond, uncond, guidance_scale), noise, steps)


def visit(
    bundle: DiffusionBundle,
    cond: Conditioning,
    uncond: Conditioning,
    noise: Float[Tensor, "b c h w"],
    *,
    steps: int,
    guidance_scale: float,
    stops: Collection[int],
) -> Iterator[tuple[Float[Tensor, "b c h w"], float]]:
    """States on a DDIM walk of `steps` steps, after each of these numbers of them, with their time.

    The network is asked for a step only when the next state is, so what is learned at one stop is
    in force on the way to the next.
    """
    model = denoiser(bundle, cond, uncond, guidance_scale)
    for step in _solve("ddim", model, noise, steps):
        if step.i + 1 in stops:
            yield step.z, float(step.t)
        if step.i + 1 >= max(stops):
            return


def _solve(
    solver: str, model: Model, noise: Float[Tensor, "b c h w"], steps: int
) -> Iterator[Step]:
    return solvers.solve(
        solver, model, noise.to(device=model.device), grids.trailing(model.path, steps)
    )


# ---------------------------------------------------------------------- pictures


def decode(bundle: DiffusionBundle, latents: Float[Tensor, "b c lh lw"]) -> Pictures:
    """Pictures of latents, ready to show."""
    return checkpoints.decode_latents(bundle, latents.float())


def verdicts(bundle: DiffusionBundle, pictures: Pictures) -> tuple[str, ...]:
    """What the judge of the embedded world says of each; empty texts for other models."""
    from engine.models.vision import load_judge

    if bundle.vocabulary is None:
        return ("",) * len(pictures)
    try:
        judged = load_judge().judge(pictures)
    except AssetMissing:
        return ("",) * len(pictures)
    return tuple(judged.text(index) for index in range(len(judged)))


def sha256(pictures: Pictures) -> str:
    """The digest of all pixels."""
    return hashlib.sha256(np.ascontiguousarray(pictures).tobytes()).hexdigest()


def unknown_words_note(bundle: DiffusionBundle, texts: Sequence[str]) -> tuple[str, ...]:
    """A sentence about words that a small model never saw in training; none where it knows all."""
    unknown = [word for text in texts for word in checkpoints.unknown_words(bundle, text)]
    if not unknown:
        return ()
    words = ", ".join(dict.fromkeys(unknown))
    return (f"This model never saw the words: {words}. It draws something for them.",)


# ---------------------------------------------------------------------- what a visitor asks for


@dataclass(frozen=True)
class View:
    """What is drawn: one picture of each prompt, in so many sampler steps, under this guidance."""

    prompts: Annotated[tuple[Prompt, ...], _LISTED]
    steps: SamplerSteps
    guidance_scale: GuidanceScale

    @classmethod
    def of(cls, prompts: Sequence[str], steps: int, guidance_scale: float) -> "View":
        """Checked; in one text the prompts stand between semicolons.

        Raises `BadInput` for what cannot be drawn.
        """
        settings = {"prompts": prompts, "steps": steps, "guidance_scale": guidance_scale}
        return cls(**checked(cls, settings))  # type: ignore[arg-type]

    def cache_key(self, bundle: DiffusionBundle, seed: int) -> tuple[Hashable, ...]:
        """What the pixels depend on."""
        return *bundle.cache_key, self, seed

    def noise(self, bundle: DiffusionBundle, seed: int) -> Float[Tensor, "b c h w"]:
        """Latents that the pictures begin from, one row a prompt."""
        return start_noise(bundle, seed, len(self.prompts))

    def walk(self, bundle: DiffusionBundle, seed: int) -> Iterator[Step]:
        """The steps of all prompts on one model; equal seed, equal noise."""
        return self.walk_with(
            bundle,
            encode_prompt(bundle, self.prompts),
            empty_prompt(bundle),
            self.noise(bundle, seed),
        )

    def walk_with(
        self,
        bundle: DiffusionBundle,
        cond: Conditioning,
        uncond: Conditioning,
        noise: Float[Tensor, "b c h w"],
    ) -> Iterator[Step]:
        """The steps under other embeddings than those of the prompts."""
        return walk(
            bundle, cond, uncond, noise, steps=self.steps, guidance_scale=self.guidance_scale
        )

    def preview(
        self, bundle: DiffusionBundle, walk: Iterator[Step]
    ) -> Iterator[tuple[int, Pictures]]:
        """How many steps are done, and the pictures as they were last looked at.

        Every third step shows the clean estimate, the last one what is drawn in the end.
        """
        for step in walk:
            if step.i + 1 == self.steps:
                pictures = decode(bundle, step.z)
            elif step.i % PREVIEW_EVERY == 0:
                pictures = decode(bundle, step.x0)
            yield step.i + 1, pictures

    def draw(self, bundle: DiffusionBundle, seed: int) -> Pictures:
        """The pictures of all prompts at once."""
        *_, last = self.walk(bundle, seed)
        return decode(bundle, last.z)
