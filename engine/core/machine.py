"""The machine that a figure was measured on, in words."""

import os
import platform


def machine(device: str = "cpu") -> str:
    """The name of a GPU, or processor, cores and threads of a computation on the CPU."""
    import torch  # not with the file: pages and cards, which never compute, know of this module

    kind = torch.device(device).type
    named = getattr(torch.get_device_module(kind), "get_device_name", None)
    if named is not None and kind != "cpu":
        return str(named(device))
    on = "CPU" if kind == "cpu" else kind.upper()
    return f"{platform.machine()} {on}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
