"""A perturbation on its way between panels: as a picture whose middle grey is nothing."""

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.models.classifier import ClassifierBundle

GREY, REACH = 128, 127


def as_picture(delta: Float[Tensor, "1 c h w"]) -> UInt8[Array, "h w 3"]:
    """128 + 127 delta, so that 0 stays exactly 0; values beyond -1 and 1 are cut off."""
    scaled = (GREY + REACH * delta[0].clamp(-1, 1)).round().byte()
    return np.ascontiguousarray(scaled.expand(3, -1, -1).permute(1, 2, 0).numpy())


def as_trigger(value: object) -> Float[Tensor, "1 c h w"] | None:
    """The perturbation of such a picture; None of an empty text. Raises `BadInput`."""
    if value is None or (isinstance(value, str) and not value):
        return None
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        raise BadInput("trigger is a picture of a perturbation.", "Take the one SmoothInv found.")
    return (torch.from_numpy(value.astype(np.float32)).permute(2, 0, 1)[None] - GREY) / REACH


def class_of(bundle: ClassifierBundle, name: str) -> int:
    """The number of a class. Raises `BadInput`."""
    for number, known in enumerate(bundle.classes):
        if known.lower() == name.lower():
            return number
    listed = ", ".join(bundle.classes[:12])
    raise BadInput(f'There is no class "{name[:40]}".', f"Choose {listed}.")
