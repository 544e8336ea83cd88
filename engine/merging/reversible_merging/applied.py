"""What adapters do to a model: the weights that a set of deltas leads to, and pictures from them.

Nothing is written into the base: new tensors stand in its place while a picture is drawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from engine.core.errors import BadInput, ModelMismatch
from engine.core.recipe import ModelRef
from engine.core.shapes import Float, Tensor
from engine.diffusion import adapters as parametrisations
from engine.diffusion import grids, solvers
from engine.diffusion.denoiser import Model
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import from_alphas_cumprod
from engine.diffusion.solvers import Step
from engine.merging.reversible_merging.collection import Collection
from engine.models import diffusion as checkpoints
from engine.models.adapters import LoraLayer, weights_for
from engine.models.diffusion import Conditioning, DiffusionBundle, empty_prompt, encode_prompt
from engine.models.library import load, with_tensors

SOLVER = "dpmpp_2m"
Deltas = Mapping[str, Float[Tensor, "m d"]]


def open_bundle(model: ModelRef | str) -> DiffusionBundle:
    """The text-to-image model of a reference. Raises `BadInput` for other kinds."""
    bundle = load(ModelRef(model) if isinstance(model, str) else model)
    if not isinstance(bundle, DiffusionBundle):
        raise BadInput(f"{bundle.card.title} is no text-to-image model.", "Choose another one.")
    return bundle


def names_in(state: Mapping[str, Tensor], collection: Collection) -> dict[str, str]:
    """The weight of each module of the adapters. Raises `ModelMismatch` when one does not fit."""
    names = weights_for(state, collection.modules)
    for module, name in names.items():
        layer, weight = collection.layer(module), state[name]
        shape = (layer.out_features, layer.in_features)
        held = (weight.shape[0], weight[0].numel())
        if (held[::-1] if layer.is_turned else held) != shape:
            raise ModelMismatch(
                f"{layer.name[:80]} of the adapters is {shape[0]} x {shape[1]}, but the model's "
                f"is {held[0]} x {held[1]}.",
                "Choose the model that the adapters were trained on.",
            )
    return names


def baked(
    state: Mapping[str, Tensor],
    collection: Collection,
    names: Mapping[str, str],
    deltas: Deltas,
    strength: float = 1.0,
) -> dict[str, Tensor]:
    """New weights W + strength * delta, rounded once to the number format of W."""
    return {
        names[module]: added(state[names[module]], delta * strength, collection.layer(module))
        for module, delta in deltas.items()
    }


def added(weight: Tensor, delta: Float[Tensor, "m d"], layer: LoraLayer) -> Tensor:
    """One weight with its delta, in float32 or better on the way."""
    delta = shaped(delta, weight, layer)
    return (weight.detach().to(delta.dtype) + delta).to(weight.dtype)


def shaped(delta: Float[Tensor, "m d"], weight: Tensor, layer: LoraLayer) -> Tensor:
    """The delta as the model keeps the weight: turned, or folded into a kernel."""
    delta = delta.mT if layer.is_turned else delta
    return delta.reshape(weight.shape).to(weight.device)


def with_weights(bundle: DiffusionBundle, tensors: Mapping[str, Tensor]) -> DiffusionBundle:
    """The model with some weights replaced; all others are shared."""
    return replace(bundle, model=with_tensors(bundle.model, tensors)) if tensors else bundle


def start_noise(bundle: DiffusionBundle, seed: int, count: int) -> Float[Tensor, "b c h w"]:
    """Noise for some pictures; each index has its own, whatever the size of the batch."""
    return Noise(seed).start(torch.empty(count, *checkpoints.latent_shape(bundle)))


def walk(
    bundle: DiffusionBundle,
    prompts: Sequence[str],
    noise: Float[Tensor, "b c h w"],
    *,
    steps: int,
    guidance_scale: float,
) -> Iterator[Step]:
    """The steps from noise to latents, one row a prompt."""

    def net(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
        told = Conditioning(condition["tokens"], condition.get("pooled"))
        return checkpoints.predict(bundle, x, label, told)

    path = from_alphas_cumprod(checkpoints.alphas_cumprod(bundle).double().numpy())
    model = Model(
        net,
        path,
        parametrisations.KINDS[bundle.prediction_type],
        "index",
        guidance=guidance_scale,
        cond=_named(encode_prompt(bundle, prompts)),
        uncond=_named(empty_prompt(bundle)),
        dtype=torch.float32,
        device=bundle.device,
    )
    return solvers.solve(SOLVER, model, noise.to(bundle.device), grids.trailing(path, steps))


def _named(conditioning: Conditioning) -> dict[str, Tensor]:
    parts = {"tokens": conditioning.tokens, "pooled": conditioning.pooled}
    return {name: part for name, part in parts.items() if part is not None}
