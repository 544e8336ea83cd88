"""The networks of the small training: one for each of three policies, in one file."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from engine.core.errors import AssetMissing, BadInput
from engine.core.shapes import Tensor
from engine.models.library import ASSETS, MODELS, verify
from engine.networks import _weights
from engine.networks.augundo.network import DepthNetwork

KEY = "depth-rooms"
ARMS = ("none", "naive", "undo")


@cache
def _state() -> Mapping[str, Tensor]:
    card = MODELS.get(KEY)
    if card is None:
        raise AssetMissing(
            "The network for depth is not installed here.",
            f"Fetch the repository again, or make it: python -m engine.zoo build {KEY}",
        )
    verify(card, ASSETS / KEY)
    return _weights.read(ASSETS / KEY / "model.safetensors")


@cache
def network(arm: str = "undo") -> DepthNetwork:
    """The read-only network of one arm. Raises `AssetMissing`."""
    return of_state(
        {
            name.removeprefix(f"{arm}."): tensor
            for name, tensor in _state().items()
            if name.startswith(f"{arm}.")
        }
    )


def of_state(state: Mapping[str, Tensor]) -> DepthNetwork:
    """A network with these weights. Raises `BadInput` for those of another one."""
    made = DepthNetwork()
    try:
        made.load_state_dict(dict(state))
    except RuntimeError as error:
        raise BadInput(
            "These are not the weights of the small depth network.",
            "Take a folder of a depth model in the layout of transformers.",
        ) from error
    return made.eval().requires_grad_(False)


def file_of(networks: Mapping[str, DepthNetwork], path: Path) -> None:
    """Writes the networks by arm, in half precision."""
    from safetensors.torch import save_file

    save_file(
        {
            f"{arm}.{name}": tensor.half().contiguous()
            for arm, one in networks.items()
            for name, tensor in one.state_dict().items()
        },
        path,
    )
