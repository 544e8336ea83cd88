"""Weights of visitors' folders: headers, sizes and free memory are looked at before reading."""

from pathlib import Path

import torch

from engine.core.errors import OutOfBudget
from engine.core.shapes import Tensor
from engine.models._checks import check_folder, weight_files
from engine.models.devices import free_bytes


def check(folder: Path) -> None:
    """Raises `AssetMissing`, `BadInput` or `OutOfBudget` for what cannot be read as float32."""
    check_folder(folder)
    headers = weight_files(folder, "model")
    numbers = sum(
        torch.Size(info.shape).numel() for tensors in headers.values() for info in tensors.values()
    )
    needed, free = 4 * numbers, free_bytes("cpu")
    if free is not None and needed > free:
        raise OutOfBudget(
            f"The model needs {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free.",
            "Pick a smaller model.",
        )


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a checked file, as float32."""
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(file).items()}


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file of the folder does, so that a cache does not serve the old one."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)
