"""Small LoRA files in the layouts that people bring, for tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

LINEAR = {"layers.0.to_q": (12, 10), "layers.0.to_v": (8, 10), "layers.1.to_q": (12, 14)}


def factors(
    shapes: Mapping[str, Sequence[int]] = LINEAR, rank: int = 3, seed: int = 0
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random lora_B (m, r) and lora_A (r, d) of each module."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(m, rank, generator=draw), torch.randn(rank, d, generator=draw))
        for name, (m, d) in shapes.items()
    }


def peft_folder(
    folder: Path,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    extra: Mapping[str, torch.Tensor] | None = None,
    **config: object,
) -> Path:
    """A PEFT folder; `config` adds to or replaces entries of adapter_config.json."""
    pairs = factors() if pairs is None else pairs
    rank = next(iter(pairs.values()))[1].shape[0]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (up, down) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.contiguous()
    save_file({**tensors, **(extra or {})}, folder / "adapter_model.safetensors")
    entries = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(pairs),
        "base_model_name_or_path": "tests/base",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(entries))
    return folder


def kohya_file(
    path: Path,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    alpha: float | None = None,
) -> Path:
    """A file with the keys of Kohya's scripts; no alpha means a scale of 1."""
    tensors = {}
    for name, (up, down) in (factors() if pairs is None else pairs).items():
        stem = "lora_unet_" + name.replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = up.contiguous()
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(float(alpha))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
