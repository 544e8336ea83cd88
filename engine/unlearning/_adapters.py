"""LoRA adapters on language models, by PEFT: put on and merged."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.core import rng
from engine.core.errors import ModelMismatch
from engine.models.library import fork
from engine.models.peft_files import quietly

if TYPE_CHECKING:
    from peft import PeftModel


def with_adapter(model: nn.Module, rank: int, seed: int) -> "PeftModel":
    """A fork over the same weights with a fresh adapter beside every linear layer but the head.

    PEFT draws from torch's global generator, which is put back. Raises `ModelMismatch`.
    """
    with quietly():
        from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    try:
        with torch.random.fork_rng(devices=[]), quietly():
            torch.manual_seed(rng.generator(seed, "adapter").initial_seed())
            return get_peft_model(fork(model), config)
    except ValueError as error:
        raise ModelMismatch(
            "This model has no linear layers that an adapter fits on.",
            "Pick a Llama, Qwen, Mistral, Gemma or GPT-NeoX model.",
        ) from error


def merged(model: "PeftModel") -> nn.Module:
    """The network with the adapter in its weights; the adapter is gone from `model` afterwards.

    Merged safely, PEFT puts new tensors in place of the old ones and writes into none, so the base
    that shares them stays as it is.
    """
    network: nn.Module = model.merge_and_unload(safe_merge=True)
    return network.eval().requires_grad_(False)
