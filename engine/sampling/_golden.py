"""What golden cases of samplers share: one comparison, all of them, and the arrays of a file."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.core.catalog import ROOT
from engine.core.errors import AssetMissing

FOLDER = ROOT / "tests" / "golden"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One comparison: the largest difference to the published array, what is allowed, seconds."""

    name: str
    error: float
    tolerance: float
    seconds: float


@dataclass(frozen=True)
class Golden:
    """All comparisons."""

    cases: tuple[Case, ...]


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """The arrays of a file by name. Raises `AssetMissing` where the tests are not installed."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        raise AssetMissing(
            f"The golden arrays {path.name} are not on this server.",
            "They lie in tests/golden of the repository.",
        )
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
