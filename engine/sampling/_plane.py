"""Ways of samplers through a space of many dimensions, seen in their main plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.shapes import Tensor


@dataclass(frozen=True)
class Track:
    """A way through latent space, in the plane of the two main components of all ways; n 2."""

    name: str
    points: NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """All ways in one plane. `explained` is the share of their variance along its two axes."""

    tracks: tuple[Track, ...]
    explained: tuple[float, float]


def plane(trajectories: Mapping[str, Sequence[Tensor]], *, leftmost: str) -> Plane:
    """All ways in the plane that holds most of their variance (principal components).

    The way called `leftmost` begins on the left.
    """
    rows = {
        name: torch.cat(list(states)).cpu().double().flatten(1).numpy()
        for name, states in trajectories.items()
    }
    points = np.concatenate(list(rows.values()))
    centre = points.mean(axis=0)
    # of the small matrix of inner products, as states have many more entries than there are points
    values, vectors = np.linalg.eigh((points - centre) @ (points - centre).T)
    values = np.maximum(values[::-1], 0)
    axes = (points - centre).T @ vectors[:, ::-1][:, :2]
    axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-30)
    # the sign of a component is free
    axes *= np.where((rows[leftmost][0] - centre) @ axes > 0, -1, 1)
    tracks = (Track(name, ((row - centre) @ axes).astype(np.float32)) for name, row in rows.items())
    share = values[:2] / max(values.sum(), 1e-30)
    return Plane(tuple(tracks), (float(share[0]), float(share[1])))
