"""Where a model computes, and in which number format: one policy for every kind of device.

    device, dtype = policy("auto", "auto")      "cuda" and "float16", or "cpu" and "float32"

The accelerator is what `torch.accelerator` finds: CUDA (and ROCm under that name), Apple's MPS,
Intel's XPU. Half precision is used there, and on the CPU only when asked for by name. REWIND_DEVICE
and REWIND_DTYPE say what "auto" means where another choice is wanted. What is free on a device is
asked here too: a model that does not fit is refused before it is read. No torch until asked.
"""

import gc
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.core.errors import BadInput, OutOfBudget

DTYPES = ("float32", "float16", "bfloat16", "float64")
KINDS = ("cuda", "mps", "xpu")
COMPILING_SECONDS = 60.0


def accelerator() -> str:
    """The kind of accelerator that this machine has: "cuda", "mps", "xpu"; empty if it has none."""
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    return device.type if device is not None else ""


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
        dtype = "float16" if is_accelerator(device) else "float32"
    return device, dtype


class NoRoom(OutOfBudget):
    """A model that does not fit into the memory that is free: `missing` more bytes would do."""

    def __init__(self, message: str, advice: str = "", missing: int = 0) -> None:
        super().__init__(message, advice)
        self.missing = missing


def check_room(title: str, needed: int, device: str, dtype: str) -> None:
    """Raises `NoRoom` where a model of so many bytes does not fit on a device now."""
    free = free_bytes(device)
    if free is not None and needed > free:
        raise NoRoom(
            f"{title} needs {needed / 1e9:.1f} GB of memory in {dtype}; "
            f"{free / 1e9:.1f} GB are free.",
            "Pick a smaller model, or load it as float16.",
            needed - free,
        )


def release(device: str) -> None:
    """Give back the memory of what nobody holds any more."""
    import torch

    gc.collect()
    if is_accelerator(device):
        torch.accelerator.empty_cache()


def is_accelerator(device: str) -> bool:
    """Whether a device computes beside the host, which then has to wait for it."""
    return device.partition(":")[0] not in ("cpu", "meta")


def has_bfloat16_units(device: str) -> bool:
    """Whether a device multiplies in bfloat16 by itself. Elsewhere it is emulated, and slower."""
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "xpu"


def pays_to_compile(device: str, seconds: float) -> bool:
    """Whether `torch.compile` wins in a training that has so many seconds to go.

    Compiling takes about a minute, so shorter trainings lose. It wins by fusing what stands between
    the products of bfloat16, so where these are emulated it loses too: on a processor without such
    units, 16 samples a processor second against 19 of eager float32 in channels-last order.
    """
    return seconds > COMPILING_SECONDS and has_bfloat16_units(device)


def synchronize(device: str) -> None:
    """Wait until a device has done all that it was asked for; before reading a clock."""
    import torch

    if is_accelerator(device):
        torch.accelerator.synchronize()


def told() -> str:
    """Where "auto" computes here, for people: "the CPU", "CUDA". No torch is loaded for it."""
    named = os.environ.get("REWIND_DEVICE") or "auto"
    if named != "auto":
        kind = named.partition(":")[0]
    elif "torch" in sys.modules:
        kind = accelerator() or "cpu"
    else:
        kind = _likely()
    return "the CPU" if kind == "cpu" else kind.upper()


def _likely() -> str:
    """The kind of device by the build of torch that is installed, and by the machine."""
    try:
        build = version("torch").partition("+")[2]
    except PackageNotFoundError:
        return "cpu"
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    if build.startswith("xpu"):
        return "xpu"
    has_nvidia = any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
    return "cuda" if has_nvidia and build != "cpu" else "cpu"


def free_bytes(device: str) -> int | None:
    """The memory that is free on a device; None where it does not say."""
    if is_accelerator(device):
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
        free = torch.accelerator.get_memory_info(device)[0]
        # What the allocator holds and nobody uses is free to us.
        reserved = torch.accelerator.memory_reserved(device)
        return free + reserved - torch.accelerator.memory_allocated(device)
    except (RuntimeError, NotImplementedError, AttributeError):
        return _free_on_mps() if device.partition(":")[0] == "mps" else None


def _free_on_mps() -> int:
    """Apple's memory is shared with the host; the system recommends a share of it."""
    import torch

    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
