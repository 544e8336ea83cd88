"""Image classifiers in transformers layout: `AutoModelForImageClassification`, and timm.

    bundle = load(ModelRef("fashion"))
    bundle.model(bundle.inputs(pixels)).logits          pixels b c h w in [0, 1]
    bundle.pixels(picture)                              any picture as the network's own size

A model of timm is told by its config and opened through the wrapper of transformers; timm itself is
an optional package. Weights are read from safetensors, never from other formats, and no code of a
checkpoint is run.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from engine.core.errors import AssetMissing, ModelMismatch
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.models._checks import read_json
from engine.models.language import _check_memory, _headers
from engine.models.library import Bundle, ModelCard, ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_SIDE = 1024


@dataclass(frozen=True)
class ClassifierBundle(Bundle):
    """A classifier, the names of its classes, and what it takes: size, channels, mean and std.

    `prefix` stands before the names of its tensors here and not in its files, as a model of timm
    lies in a wrapper.
    """

    model: "PreTrainedModel"
    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prefix: str = ""

    def inputs(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """(x - mean) / std, differentiable."""
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def pixels(self, picture: Image.Image) -> UInt8[Array, "c h w"]:
        """The picture in the network's channels and size: scaled whole, without cropping."""
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = Image.alpha_composite(
                Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
            )
        image = picture.convert("L" if self.channels == 1 else "RGB")
        if image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        array = np.array(image)
        return array[None] if self.channels == 1 else array.transpose(2, 0, 1).copy()


def is_timm(config: dict[str, Any]) -> bool:
    """Whether it is the config that timm writes."""
    return "pretrained_cfg" in config and "architecture" in config


def read(card: ModelCard, folder: Path, ref: ModelRef, device: str, dtype: str) -> ClassifierBundle:
    """Load a folder in transformers layout. Called by `library.load`, which caches the bundle."""
    from transformers import logging as their_logging

    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise ModelMismatch(
            f"{card.title} needs code of its own to run, which is never executed here.",
            "Pick a model that the transformers library knows.",
        )
    if is_timm(config):
        _check_timm(card.title)
    _check_memory(card.title, _headers(folder), device, dtype)
    before = their_logging.get_verbosity()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        model = _model(folder, card.title, getattr(torch, dtype), config)
    finally:
        their_logging.set_verbosity(before)
    inputs = _Inputs.of(folder, config, model)
    return ClassifierBundle(
        ref=ref,
        card=card,
        folder=folder,
        model=model.to(device).eval().requires_grad_(False),
        device=device,
        dtype=dtype,
        classes=tuple(str(name) for _, name in sorted(model.config.id2label.items())),
        size=inputs.size,
        channels=inputs.channels,
        mean=inputs.mean,
        std=inputs.std,
        prefix=f"{model.base_model_prefix}." if is_timm(config) else "",
    )


def _check_timm(title: str) -> None:
    """Raises `AssetMissing` where timm is not here, or does not start."""
    if find_spec("timm") is None:
        raise AssetMissing(
            f"{title} is a timm model, and timm is not installed on this server.",
            "Install it (pip install timm), or pick a model in transformers layout.",
        )
    try:
        import_module("timm")
    except (ImportError, RuntimeError, OSError) as error:
        raise AssetMissing(
            f"{title} is a timm model, and timm is installed here but does not start "
            f"({type(error).__name__}).",
            "Install the torchvision that was built for the torch of this server.",
        ) from error


def _model(
    folder: Path, title: str, dtype: torch.dtype, stated: dict[str, Any]
) -> "PreTrainedModel":
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if is_timm(stated) and config.model_args:
            # timm writes the number of classes twice, which the wrapper of transformers refuses.
            config.model_args.pop("num_classes", None)
        model, loaded = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise ModelMismatch(
            f"{title} does not load as an image classifier ({type(error).__name__}).",
            "Pick a model for image classification in transformers layout.",
        ) from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ModelMismatch(
            f"The weights of {title} lack {missing[0][:80]} ({len(missing)} missing).",
            "Take weights and config from the same export.",
        )
    return model


@dataclass(frozen=True)
class _Inputs:
    """What the image processor of a checkpoint says."""

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, folder: Path, config: dict[str, Any], model: "PreTrainedModel") -> "_Inputs":
        processor = _processor(folder)
        if is_timm(config):
            processor = _of_timm(config["pretrained_cfg"])
        channels = _count(config.get("num_channels"), processor.get("channels"), 3)
        size = _size(processor) or _size({"size": config.get("image_size")}) or (224, 224)
        mean, std = processor.get("image_mean"), processor.get("image_std")
        if processor.get("do_normalize", True) is False or mean is None or std is None:
            mean, std = [0.0], [1.0]
        try:
            pair = tuple(tuple(map(float, _spread(values, channels))) for values in (mean, std))
            fits = all(len(values) == channels for values in pair) and min(pair[1]) > 0
        except (TypeError, ValueError):
            fits = False
        if not fits or channels not in (1, 3) or not all(1 <= s <= LARGEST_SIDE for s in size):
            raise ModelMismatch(
                "The preprocessor_config.json of this model cannot be used: it takes pictures of "
                f"{channels} channels and {size[0]} x {size[1]} pixels.",
                f"Grey or RGB pictures of up to {LARGEST_SIDE} pixels a side can be given.",
            )
        return cls(size, channels, *pair)


def _processor(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            inner = config.get("image_processor", config)
            return inner if isinstance(inner, dict) else {}
    return {}


def _of_timm(settings: Any) -> dict[str, Any]:
    pretrained = json.loads(json.dumps(settings)) if isinstance(settings, dict) else {}
    size = pretrained.get("input_size", [3, 224, 224])
    return {
        "channels": size[0],
        "size": {"height": size[1], "width": size[2]},
        "image_mean": pretrained.get("mean"),
        "image_std": pretrained.get("std"),
    }


def _count(*candidates: object) -> int:
    return next(candidate for candidate in candidates if type(candidate) is int)


def _size(processor: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width, of the crop where there is one."""
    size = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = size or processor.get("size")
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [size.get("height", edge), size.get("width", edge)]
    if type(size) is int:
        size = [size, size]
    if isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int for s in size):
        return size[0], size[1]
    return None


def _spread(values: Any, channels: int) -> list[float]:
    listed = list(values) if isinstance(values, list | tuple) else [values]
    return listed * channels if len(listed) == 1 else listed
