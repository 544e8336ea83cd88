"""The three processes of the paper with its constants."""

from collections.abc import Mapping

from engine.core.errors import BadInput
from engine.diffusion import schedules
from engine.diffusion.schedules import Path

LAST = {"ve": 1e-5, "vp": 1e-3, "subvp": 1e-3}
"""The time at which sampling asks the network last. Likelihoods go down to 1e-5."""

# Defined down to 0, where VE still has s_min: a grid says where the network is asked.
_PATHS: Mapping[str, Path] = {
    "ve": schedules.ve(t_min=0.0),
    "vp": schedules.vp(t_min=0.0),
    "subvp": schedules.subvp(t_min=0.0),
}


def process_of(name: str, s_max: float = 50.0) -> Path:
    """The process of a name. Raises `BadInput` with those there are."""
    if name not in _PATHS:
        raise BadInput(f'There is no process "{str(name)[:40]}".', f"Use {', '.join(_PATHS)}.")
    return schedules.ve(s_max=s_max, t_min=0.0) if name == "ve" else _PATHS[name]
