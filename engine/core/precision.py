"""Numbers in float64 on any device: where the device has them, and on the CPU where it has not.

Apple's MPS has no float64. What needs it (the closed forms, exact states, comparisons) then runs on
the CPU, and the result is rounded once on its way back.
"""

from functools import cache

import torch

from engine.core.shapes import Num, Tensor


def wide(tensor: Num[Tensor, "*d"]) -> Num[Tensor, "*d"]:
    """The tensor in float64; on the CPU where its device has none."""
    return tensor.double() if has_float64(tensor.device.type) else tensor.cpu().double()


@cache
def has_float64(kind: str) -> bool:
    """Whether this kind of device computes in float64: it is asked for a single number."""
    try:
        torch.zeros((), dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True
