"""A small network that tells in which of a set of styles a picture is drawn, or in another one.

It sees colours and textures over small places and averages over the whole picture, so that what is
drawn does not matter. Its weights lie in the folder of the adapters whose styles it knows.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.core.errors import AssetMissing

OTHER = "another"


class StyleJudge(nn.Module):
    """Three strided convolutions, an average, and one linear layer: 17,000 weights."""

    classes: tuple[str, ...] = ()

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width // 2, 5, stride=2, padding=2),
            nn.GroupNorm(4, width // 2),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for pictures b x 3 x h x w in [-1, 1], brought to 64 x 64 by averaging."""
        if x.shape[-2:] != (64, 64):
            x = nn.functional.interpolate(x, (64, 64), mode="area")
        places = self.body(x).flatten(2)
        return self.head(torch.cat([places.mean(-1), places.amax(-1)], -1))

    @torch.inference_mode()
    def names(self, pictures: np.ndarray) -> Sequence[tuple[str, float]]:
        """The most probable style of each picture (uint8 n h w 3) and its probability."""
        x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        sure, best = self(x).softmax(-1).max(-1)
        return [(self.classes[i], float(p)) for i, p in zip(best.tolist(), sure, strict=True)]


@cache
def load_style_judge(folder: Path) -> StyleJudge:
    """The judge in a folder, ready to use. Raises `AssetMissing` where it is not there."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise AssetMissing(
            "The judge of the style adapters is not there.", "Check the repository out again."
        )
    classes = json.loads((folder / "config.json").read_text())["classes"]
    judge = StyleJudge(len(classes))
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    judge.classes = tuple(classes)
    return judge.eval().requires_grad_(False)
