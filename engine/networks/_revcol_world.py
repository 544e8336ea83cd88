"""The shipped RevCol network and its pictures."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from engine.core.errors import AssetMissing, BadInput
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.models import _sources
from engine.models._checks import SAFETENSORS_ONLY
from engine.models.library import ASSETS, MODELS, verify
from engine.networks import _revcol as revcol
from engine.networks import _weights
from engine.world.fashion import CLASSES, Garments, garments

KEY = "revcol-fashion"
PADDING = 2  # to 32 x 32, which five halvings take to 1 x 1


def test_pictures() -> Garments:
    """Garments that no network here was trained on."""
    return garments("test")


def class_names() -> Sequence[str]:
    """Of the outputs, in their order."""
    return CLASSES


def inputs_of(pixels: UInt8[Array, "n h w"]) -> Float[Tensor, "n 3 i j"]:
    """Grey pictures as the network takes them: in [0, 1], padded, three equal channels."""
    x = torch.from_numpy(np.array(pixels)).float()[:, None] / 255
    return torch.nn.functional.pad(x, [PADDING] * 4).expand(-1, 3, -1, -1).contiguous()


@cache
def _shipped() -> revcol.RevCol:
    card = MODELS.get(KEY)
    if card is None:
        raise AssetMissing(
            "The network of garments is not installed here.",
            f"Fetch the repository again, or make it: python -m engine.zoo build {KEY}",
        )
    verify(card, ASSETS / KEY)
    network = revcol.from_state(_weights.read(ASSETS / KEY / "model.safetensors"))
    return network.eval().requires_grad_(False)


def shipped(key: str) -> revcol.RevCol:
    """The shipped network, read-only. Raises `BadInput` for other keys, `AssetMissing`."""
    if key != KEY:
        raise BadInput(f'"{key[:60]}" is no RevCol network of this lab.', f"Take {KEY}.")
    return _shipped()


def from_folder(source: str) -> revcol.RevCol:
    """The network in a user's folder or upload: `model.safetensors` under the released names.

    The released files are pickles, which are not opened. Written once as safetensors beside the
    authors' code they load strictly:

        state = torch.load("revcol_tiny_1k.pth", weights_only=True)["model"]
        safetensors.torch.save_file(state, "model.safetensors")
    """
    folder = _sources.from_user(source)
    if not (folder / "model.safetensors").is_file():
        raise BadInput("This folder holds no model.safetensors.", SAFETENSORS_ONLY)
    _weights.check(folder)
    state = _weights.read(folder / "model.safetensors")
    return revcol.from_state(state).eval().requires_grad_(False)
