"""Where networks of this family compute: on the device of the policy, in float32 or float64."""

import torch

from engine.core.precision import has_float64
from engine.models.devices import policy


def place(dtype: torch.dtype = torch.float32) -> torch.device:
    """The device of `engine.models.devices`; the CPU for float64 where that device has none.

    Streams stay in float32 whatever the policy prefers: half precision does not come back.
    """
    device = torch.device(policy("auto", "float32")[0])
    return device if dtype != torch.float64 or has_float64(device.type) else torch.device("cpu")
