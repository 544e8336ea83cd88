"""Numbers in float64 on any device, and tensors that come home to the CPU together.

Float64 is computed where the device has it, and on the CPU where it has not.

Apple's MPS has no float64. What needs it (the closed forms, exact states, comparisons) then runs on
the CPU, and the result is rounded once on its way back.
"""

from collections.abc import Iterable, Mapping, Sequence
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


def at_home(tensors: Sequence[Tensor]) -> list[Tensor]:
    """These tensors on the CPU, without gradients; the host waits for a device once, not for each.

    Copies are made in the order they are asked for, so the last one to arrive ends the waiting.
    """
    last = max((i for i, tensor in enumerate(tensors) if not _is_here(tensor)), default=-1)
    return [
        tensor.detach() if _is_here(tensor) else tensor.detach().to("cpu", non_blocking=i != last)
        for i, tensor in enumerate(tensors)
    ]


def are_finite(tensors: Iterable[Num[Tensor, "..."]]) -> bool:
    """Whether no number in any of them is infinite or NaN; one wait for all of them."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def state_at_home(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state on the CPU, by their names."""
    return dict(zip(state, at_home(list(state.values())), strict=True))


def _is_here(tensor: Tensor) -> bool:
    return tensor.device.type in ("cpu", "meta")
