"""What adapters do to a model: the weights that a set of deltas leads to.

Nothing is written into the base: new tensors stand in its place while a picture is drawn.
"""

from collections.abc import Mapping
from dataclasses import replace

from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.merging.reversible_merging.collection import Collection
from engine.models.adapters import LoraLayer, weights_for
from engine.models.diffusion import DiffusionBundle
from engine.models.library import with_tensors

Deltas = Mapping[str, Float[Tensor, "m d"]]
"""W_new - W of each module of the adapters."""


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
