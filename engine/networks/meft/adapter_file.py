"""Adapters as two files that go together: safetensors, and a configuration in JSON.

    meft_adapter.safetensors    "units.3.ffn_adapter.dense1.weight", ..., "head.weight"
    config.json                 variant, scales, rank, layers, classes, the base model's name

The folder of both, or a zip of it, is read back by `read`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.core.errors import BadInput, ModelMismatch
from engine.core.named_file import TextFile
from engine.core.shapes import Tensor
from engine.models._checks import read_header, read_json
from engine.models.tensor_file import TensorFile
from engine.networks import _weights
from engine.networks._backbones import Classifier
from engine.networks._meft import MeftConfig, MeftEncoder
from engine.networks._meft_models import Encoder
from engine.networks.meft.arms import ARMS, classifier

WEIGHTS, CONFIG = "meft_adapter.safetensors", "config.json"
METHOD = "meft"
MOST_CLASSES, LARGEST_RANK = 1000, 512


@dataclass(frozen=True)
class Adapters:
    """What the two files hold."""

    base: str
    config: MeftConfig
    classes: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def write(
    network: Classifier, base: str, config: MeftConfig, classes: tuple[str, ...]
) -> tuple[TensorFile, TextFile]:
    """The files of a trained network's adapters and head."""
    tensors = dict(_body(network).adapters())
    assert network.head is not None
    tensors |= {f"head.{name}": value for name, value in network.head.state_dict().items()}
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    lam, beta = config.scales
    told = {
        "method": METHOD,
        "base_model": base,
        "classes": list(classes),
        **asdict(config),
        "lam": lam,
        "beta": beta,
    }
    text = json.dumps(told, indent=2, sort_keys=True) + "\n"
    return TensorFile.of(WEIGHTS, tensors, {"format": "pt"}), TextFile.of(CONFIG, text)


def read(folder: Path) -> Adapters:
    """The adapters in a folder. Raises `BadInput` for files that are no adapters of MEFT."""
    told = read_json(folder / CONFIG)
    if told.get("method") != METHOD or not (folder / WEIGHTS).is_file():
        raise BadInput(
            "This folder holds no adapters of MEFT.",
            f"It needs {WEIGHTS} and {CONFIG}, as the panel exports them.",
        )
    read_header(folder / WEIGHTS)
    return of(told, _weights.read(folder / WEIGHTS))


def of(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Adapters:
    """The adapters of a configuration and its tensors. Raises `BadInput` for wrong values."""
    try:
        classes = tuple(str(name)[:60] for name in told["classes"])
        config = MeftConfig(
            told["variant"],
            float(told["lam"]),
            float(told["beta"]),
            int(told["rank"]),
            told["reversible_layers"],
            told["anchor_every"],
            bool(told["norm_in_adapter"]),
        )
        sound = 2 <= len(classes) <= MOST_CLASSES and config.rank <= LARGEST_RANK
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput("The configuration of these adapters is not readable.") from error
    if not sound:
        raise BadInput("These adapters are larger than any made here.", "Check config.json.")
    return Adapters(str(told.get("base_model", "")), config, classes, tensors)


def restored(encoder: Encoder, adapters: Adapters) -> Classifier:
    """A fresh copy of the model with these adapters in it. Raises `ModelMismatch`."""
    network = classifier(
        encoder.fork().backbone, ARMS["meft"], len(adapters.classes), adapters.config, 0
    )
    assert network.head is not None
    named = dict(_body(network).named_parameters())
    wanted: dict[str, Tensor] = {n: p for n, p in named.items() if p.requires_grad}
    wanted |= {f"head.{name}": p for name, p in network.head.named_parameters()}
    shapes = {name: tuple(p.shape) for name, p in wanted.items()}
    if shapes != {name: tuple(t.shape) for name, t in adapters.tensors.items()}:
        raise ModelMismatch(
            f"The adapters were made for {adapters.base[:60] or 'another model'}, not for "
            f"{encoder.name[:60]}.",
            "Pick the model that they were trained on.",
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(adapters.tensors[name])
    return network.eval()


def _body(network: Classifier) -> MeftEncoder:
    assert isinstance(network.body, MeftEncoder)
    return network.body
