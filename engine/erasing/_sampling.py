"""What the erasing methods share: pictures from an embedding, and what the judge sees in them.

A side-car edit acts on the embedding of the prompt, so pictures are drawn from embeddings here and
not from texts. The same noise and the same batch give the same bits.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion import adapters, grids, solvers
from engine.diffusion.denoiser import Condition, Model
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import Path, from_alphas_cumprod
from engine.diffusion.solvers import Step
from engine.models import diffusion as checkpoints
from engine.models.diffusion import Conditioning, DiffusionBundle
from engine.models.library import load

SOLVER = "dpmpp_2m"


def open_bundle(model: ModelRef | str) -> DiffusionBundle:
    """The text-to-image model of a reference. Raises `BadInput` for other kinds."""
    bundle = load(ModelRef(model) if isinstance(model, str) else model)
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


def start_noise(bundle: DiffusionBundle, seed: int, count: int) -> Float[Tensor, "b c h w"]:
    """Noise for some pictures; each index has its own, whatever the size of the batch."""
    return Noise(seed).start(torch.empty(count, *checkpoints.latent_shape(bundle)))


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
    model = denoiser(bundle, cond, uncond, guidance_scale)
    grid = grids.trailing(model.path, steps)
    return solvers.solve(SOLVER, model, noise.to(bundle.device), grid)


def denoiser(
    bundle: DiffusionBundle, cond: Conditioning, uncond: Conditioning, guidance_scale: float
) -> Model:
    """The network under these embeddings, on its own noise path."""

    def net(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
        told = Conditioning(condition["tokens"], condition.get("pooled"))
        return checkpoints.predict(bundle, x, label, told)

    return Model(
        net,
        path_of(bundle),
        adapters.KINDS[bundle.prediction_type],
        "index",
        guidance=guidance_scale,
        cond=_named(cond),
        uncond=_named(uncond),
        dtype=torch.float32,
        device=bundle.device,
    )


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
    grid = grids.trailing(model.path, steps)
    for step in solvers.solve("ddim", model, noise.to(bundle.device), grid):
        if step.i + 1 in stops:
            yield step.z, float(step.t)
        if step.i + 1 >= max(stops):
            return


def path_of(bundle: DiffusionBundle) -> Path:
    """The noise path the checkpoint was trained on, in its timesteps."""
    return from_alphas_cumprod(checkpoints.alphas_cumprod(bundle).double().numpy())


def decode(bundle: DiffusionBundle, latents: Float[Tensor, "b c lh lw"]) -> UInt8[Array, "b h w 3"]:
    """Pictures of latents, ready to show."""
    return checkpoints.decode_latents(bundle, latents.float())


def verdicts(bundle: DiffusionBundle, pictures: UInt8[Array, "b h w 3"]) -> tuple[str, ...]:
    """What the judge of the embedded world says of each; empty texts for other models."""
    from engine.models.vision import load_judge

    if bundle.vocabulary is None:
        return ("",) * len(pictures)
    try:
        found = load_judge().judge(pictures)
    except AssetMissing:
        return ("",) * len(pictures)
    return tuple(found.text(index) for index in range(len(found)))


def sha256(pictures: UInt8[Array, "b h w 3"]) -> str:
    """The digest of all pixels."""
    return hashlib.sha256(np.ascontiguousarray(pictures).tobytes()).hexdigest()


def unknown_words(bundle: DiffusionBundle, texts: Sequence[str]) -> tuple[str, ...]:
    """Words that a small model never saw in training; it draws something at random for them."""
    found = [word for text in texts for word in checkpoints.unknown_words(bundle, text)]
    return tuple(dict.fromkeys(found))


def _named(conditioning: Conditioning) -> Condition:
    parts = {"tokens": conditioning.tokens, "pooled": conditioning.pooled}
    return {name: part for name, part in parts.items() if part is not None}
