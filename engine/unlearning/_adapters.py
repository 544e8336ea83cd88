"""LoRA adapters on language models, by PEFT: put on, merged, and written as PEFT writes them."""

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.core import rng
from engine.core.errors import ModelMismatch
from engine.models.library import fork

if TYPE_CHECKING:
    from peft import PeftModel


def with_adapter(model: nn.Module, rank: int, seed: int) -> "PeftModel":
    """A fork over the same weights with a fresh adapter beside every linear layer but the head.

    PEFT draws from torch's global generator, which is put back. Raises `ModelMismatch`.
    """
    with _quietly():
        from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    try:
        with torch.random.fork_rng(devices=[]), _quietly():
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


def written(model: "PeftModel") -> tuple[bytes, str]:
    """adapter_model.safetensors and adapter_config.json."""
    with tempfile.TemporaryDirectory() as folder, _quietly():
        # Asked about embeddings, PEFT would look the base up on the Hub.
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        data = Path(folder, "adapter_model.safetensors").read_bytes()
        return data, Path(folder, "adapter_config.json").read_text("utf-8")


def _quietly() -> warnings.catch_warnings:
    """PEFT still asks transformers for names that it calls outdated."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)
