"""Augment, predict, undo, average: what the same object is good for without any training.

A model that is asked about several views of one picture gives several answers; undone, they are
answers to one question and can be averaged, each where its mask is 1. How far they are apart is a
map of doubt.

The model is the small network shipped here, which completes sparse depth, or any folder in the
layout of `AutoModelForDepthEstimation`, which is asked for one picture alone. Models of that kind
know depth up to scale and shift, mostly as its inverse; both are fitted before an error is told.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from engine.core.errors import ModelMismatch
from engine.core.rng import generator
from engine.core.shapes import Float, Tensor
from engine.networks import _weights
from engine.networks.augundo.augmentation import Augmentation, Ranges
from engine.networks.augundo.network import DepthNetwork

GENTLE = Ranges(flip=0.5, crop_pad=0.5, resize_pad=1.0, rotate=0.5, resize_crop=0.0,
                smallest_zoom=0.8, degrees=10.0)  # fmt: skip
SIDE = 252  # of the picture as a model of transformers is given it; 14 and 12 divide it
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Picture, sparse points and K of one view in; what the model says of every pixel out.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Answer:
    """One view: its augmentation, its input, and its answer undone, with the mask."""

    aug: Augmentation
    image: Float[Tensor, "1 3 i j"]
    undone: Float[Tensor, "1 1 h w"]
    mask: Float[Tensor, "1 1 h w"]


def views(size: tuple[int, int], count: int, seed: int) -> list[Augmentation]:
    """The untouched frame, and as many gentle transforms as make up the count."""
    drawn = [
        Augmentation.sample(size, generator(seed, "view", place), GENTLE)
        for place in range(1, count)
    ]
    return [Augmentation(size), *drawn]


@torch.no_grad()
def asked(
    predict: Predict,
    aug: Augmentation,
    image: Float[Tensor, "1 3 h w"],
    points: Float[Tensor, "1 1 h w"],
    k: Float[Tensor, "1 3 3"],
) -> Answer:
    """The answer to one view, back in the original frame."""
    seen = aug(image)
    said = predict(seen, aug(points, fill="zero"), aug.intrinsics(k))
    return Answer(aug, seen, aug.undo(said), aug.mask())


def averaged(answers: list[Answer]) -> tuple[Float[Tensor, "1 1 h w"], Float[Tensor, "1 1 h w"]]:
    """Mean and standard deviation over the answers that have seen a pixel."""
    undone = torch.cat([one.undone for one in answers])
    mask = torch.cat([one.mask for one in answers])
    count = mask.sum(0, keepdim=True).clamp(min=1)
    mean = (undone * mask).sum(0, keepdim=True) / count
    variance = ((undone - mean) ** 2 * mask).sum(0, keepdim=True) / count
    return mean, variance.sqrt()


def completes(network: DepthNetwork) -> Predict:
    """The small network: metres, from picture and points."""
    return network


def fitted(
    said: Float[Tensor, "1 1 h w"], truth: Float[Tensor, "1 1 h w"]
) -> Float[Tensor, "1 1 h w"]:
    """Metres of an answer that knows inverse depth up to scale and shift, by least squares."""
    known = truth > 0
    x, y = said[known].double(), 1 / truth[known].double()
    columns = torch.stack([x, torch.ones_like(x)], 1)
    scale, shift = torch.linalg.lstsq(columns, y[:, None]).solution.flatten()
    return 1 / (scale * said.double() + shift).clamp(min=1e-3).to(said)


def of_folder(folder: Path) -> Predict:
    """A depth model in the layout of transformers. Raises `ModelMismatch` for another one."""
    _weights.check(folder)
    from transformers import AutoConfig, AutoModelForDepthEstimation

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForDepthEstimation.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        ).eval()
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise ModelMismatch(
            "This folder holds no depth model that transformers can open.",
            "Take one such as Depth Anything V2 Small, saved with save_pretrained.",
        ) from error
    mean, deviation = (torch.tensor(v)[None, :, None, None] for v in _normal(folder))

    def predict(image: Tensor, points: Tensor, k: Tensor) -> Tensor:
        small = F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
        said = model(pixel_values=(small - mean) / deviation).predicted_depth
        said = said.reshape(1, 1, *said.shape[-2:])
        return F.interpolate(said, image.shape[-2:], mode="bilinear")

    return predict


def _normal(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of colours as the model was trained with them."""
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        mean, deviation = (tuple(map(float, found[f"image_{name}"])) for name in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError):
        return MEAN, DEVIATION
    good = len(mean) == len(deviation) == 3 and min(deviation) > 0
    return (mean, deviation) if good else (MEAN, DEVIATION)
