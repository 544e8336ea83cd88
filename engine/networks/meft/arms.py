"""The ways to fine-tune that MEFT is compared with, on one backbone and one head."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.rng import generator
from engine.networks._backbones import Backbone, Classifier, Vanilla
from engine.networks._meft import MeftConfig, MeftEncoder
from engine.reversible import Mode

Kind = Literal["full", "head", "lora", "meft"]
LORA_TARGETS = ("query", "value", "q_proj", "v_proj")


@dataclass(frozen=True)
class Arm:
    """What is trained, and what is kept for the backward pass."""

    title: str
    kind: Kind
    mode: Mode = "plain"
    anchored: bool = True


ARMS: Mapping[str, Arm] = {
    "full": Arm("full fine-tuning", "full"),
    "full-checkpoint": Arm("full, checkpointed", "full", "checkpoint"),
    "head": Arm("head alone", "head"),
    "lora": Arm("LoRA", "lora"),
    "lora-checkpoint": Arm("LoRA, checkpointed", "lora", "checkpoint"),
    "meft-plain": Arm("MEFT, plain autograd", "meft"),
    "meft": Arm("MEFT, reversible", "meft", "reversible"),
    "meft-pure": Arm("MEFT, reversible, no anchors", "meft", "reversible", anchored=False),
}


def arm_named(name: str) -> Arm:
    """The arm of a name. Raises `BadInput` that lists them."""
    if name not in ARMS:
        raise BadInput(
            f'There is no way to fine-tune called "{str(name)[:40]}".', f"Choose {', '.join(ARMS)}."
        )
    return ARMS[name]


def classifier(
    backbone: Backbone, arm: Arm, classes: int | None, config: MeftConfig, seed: int
) -> Classifier:
    """The backbone made ready for an arm; it is changed, so give a fork.

    New weights come from the seed; torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "new weights").initial_seed())
        backbone.requires_grad_(False)
        made = Classifier(backbone, _body(backbone, arm, config), classes).to(backbone.device)
    if arm.kind == "full":
        _own(backbone)
    return made


def _body(backbone: Backbone, arm: Arm, config: MeftConfig) -> nn.Module:
    if arm.kind == "meft":
        if not arm.anchored:
            config = replace(config, anchor_every=None)
        return MeftEncoder(backbone.layers, backbone.width, config, mode=arm.mode)
    if arm.kind == "lora":
        _inject_lora(backbone.body, config.rank)
    return Vanilla(backbone.layers, checkpointed=arm.mode == "checkpoint")


def _inject_lora(body: nn.Module, rank: int) -> None:
    """PEFT's LoRA on queries and values; at equal rank about as many weights as MEFT's adapters."""
    # PEFT still asks transformers for names that it calls outdated.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(LORA_TARGETS)), body
        )


def _own(module: nn.Module) -> None:
    """Weights of its own, to be trained: a fork shares them with everyone."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)


def trained_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
