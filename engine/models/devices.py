"""Where a model computes, and in which number format: one policy for every kind of device.

    device, dtype = policy("auto", "auto")      "cuda" and "float16", or "cpu" and "float32"

The accelerator is what `torch.accelerator` finds: CUDA (and ROCm under that name), Apple's MPS,
Intel's XPU. Half precision is used there, and on the CPU only when asked for by name. REWIND_DEVICE
and REWIND_DTYPE say what "auto" means where another choice is wanted. No torch until asked.
"""

import os
import re
from pathlib import Path

from engine.core.errors import BadInput, OutOfBudget

DTYPES = ("float32", "float16", "bfloat16", "float64")
KINDS = ("cuda", "mps", "xpu")


def accelerator() -> str:
    """The kind of accelerator that this machine has: "cuda", "mps", "xpu"; empty if it has none."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found is not None else ""


def policy(device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """Device and number format to use.

    Raises `BadInput` for a device or format that there is not, `OutOfBudget` for one that this
    machine has not.
    """
    if device == "auto":
        device = os.environ.get("REWIND_DEVICE") or "auto"
    if dtype == "auto":
        dtype = os.environ.get("REWIND_DTYPE") or "auto"
    here = accelerator()
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", here, *KINDS) or not kind or (index and not index.isdecimal()):
        raise BadInput(
            f"There is no device {device[:40]}.", f"Use auto, cpu or {', '.join(KINDS)}."
        )
    if dtype not in ("auto", *DTYPES):
        raise BadInput(f"There is no number format {dtype[:40]}.", f"Use {', '.join(DTYPES)}.")
    if kind not in ("auto", "cpu", here):
        raise OutOfBudget(f"This machine has no {kind.upper()} device.", "Use auto or cpu.")
    if kind == "auto":
        device = here or "cpu"
    if dtype == "auto":
        dtype = "float32" if device.partition(":")[0] == "cpu" else "float16"
    return device, dtype


def free_bytes(device: str) -> int | None:
    """The memory that is free on a device; None where it does not say."""
    if device.partition(":")[0] != "cpu":
        return _free_on_accelerator(device)
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(available[1]) * 1024 if available else None


def _free_on_accelerator(device: str) -> int | None:
    import torch

    try:
        return torch.accelerator.get_memory_info(device)[0]
    except (RuntimeError, NotImplementedError):  # not every kind of device counts its memory
        return None
