"""The shipped segmentation network, and its way over volumes larger than a window."""

from collections.abc import Iterator
from functools import cache

import torch

from engine.core.errors import AssetMissing, BadInput
from engine.core.shapes import Float, Int, Tensor
from engine.models._checks import read_json
from engine.models.library import ASSETS, MODELS, verify
from engine.networks import _unet3d as nets
from engine.networks import _weights
from engine.networks._places import place

KEY = "unet3d-brain"
WINDOW = 48


@cache
def _shipped(device: torch.device) -> nets.RevUNet3d:
    card = MODELS.get(KEY)
    if card is None:
        raise AssetMissing(
            "The segmentation network is not installed here.",
            f"Fetch the repository again, or make it: python -m engine.zoo build {KEY}",
        )
    verify(card, ASSETS / KEY)
    told = read_json(ASSETS / KEY / "config.json")
    config = nets.UNetConfig(**{**told, "widths": tuple(told["widths"])})
    network = nets.RevUNet3d(config)
    network.load_state_dict(_weights.read(ASSETS / KEY / "model.safetensors"))
    return network.to(device).eval().requires_grad_(False)


def shipped(key: str) -> nets.RevUNet3d:
    """The shipped network, read-only. Raises `BadInput` for other keys, `AssetMissing`."""
    if key != KEY:
        raise BadInput(f'"{key[:60]}" is no segmentation network of this lab.', f"Take {KEY}.")
    return _shipped(place())


def windowed(
    network: nets.RevUNet3d,
    x: Float[Tensor, "1 m d h w"],
    *,
    side: int = WINDOW,
    overlap: float = 0.5,
) -> Iterator[tuple[int, int, Float[Tensor, "k d h w"]]]:
    """Sliding windows with Gaussian blending: after each, its number, how many, and the scores so
    far. Windows outside the brain (all zeros) are skipped, as background is certain there."""
    size = tuple(x.shape[2:])
    longest = max(side, network.step)
    corners = nets.windows(size, longest, overlap)
    weight, device = nets.window_weight(longest), next(network.parameters()).device
    scores = torch.zeros(network.config.classes, *size)
    scores[0] = 1e-6
    for number, (d, h, w) in enumerate(corners, start=1):
        cut = (slice(d, d + longest), slice(h, h + longest), slice(w, w + longest))
        part = x[(slice(None), slice(None), *cut)]
        if bool((part != 0).any()):
            with torch.no_grad():
                found = network(part.to(device))[0].softmax(0).cpu()
            held = tuple(slice(0, length) for length in found.shape[1:])
            scores[(slice(None), *cut)] += found * weight[held]
        yield number, len(corners), scores


def segmented(
    network: nets.RevUNet3d,
    x: Float[Tensor, "1 m d h w"],
    *,
    side: int = WINDOW,
    overlap: float = 0.5,
) -> Int[Tensor, "d h w"]:
    """The most probable class of every voxel; what is zero in all modalities stays outside."""
    *_, (_, _, scores) = windowed(network, x, side=side, overlap=overlap)
    return labels_of(scores, x)


def labels_of(
    scores: Float[Tensor, "k d h w"], x: Float[Tensor, "1 m d h w"]
) -> Int[Tensor, "d h w"]:
    """The class of the highest score; outside where there is nothing to see."""
    return torch.where((x[0] != 0).any(0), scores.argmax(0), 0)
