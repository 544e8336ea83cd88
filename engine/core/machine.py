"""The machine that a figure was measured on, in words."""

import os
import platform


def machine(device: str = "cpu") -> str:
    """The name of a GPU, or processor, cores and threads of a computation on the CPU."""
    import torch  # not with the file: pages and cards, which never compute, know of this module

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    on = "CPU" if device == "cpu" else device
    return f"{platform.machine()} {on}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
