"""The pictures that the network never saw: four photographs, and scenes by one artist.

They lie in assets/data/photographs, their authors and licences in assets/LICENSES.md.
"""

from functools import cache

import numpy as np
import torch
from PIL import Image

from engine.core import rng
from engine.core.catalog import ROOT
from engine.core.errors import AssetMissing, BadInput
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.sampling.mr_sampler import EXAMPLES, SIDE
from engine.world.scenes import Scene, draw, random_scene
from engine.world.sprites import load_sprites

FOLDER = ROOT / "assets" / "data" / "photographs"
HELD_OUT_ARTIST = "fluent-emoji"
CROP = 32
"""Side of the squares that figures are measured on."""

Picture = UInt8[Array, "h w 3"]


@cache
def photograph(name: str) -> Picture:
    """A shipped photograph, whole."""
    path = FOLDER / f"{name}.png"
    if not path.exists():
        raise AssetMissing(
            f"The photograph {name} is not in assets/data/photographs.",
            "Check the repository out again.",
        )
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def example(name: str) -> Picture:
    """One of `EXAMPLES`: a square of a photograph, or a scene of the held-out artist."""
    if name not in EXAMPLES:
        raise BadInput(f'There is no picture "{name!s:.40}".', f"Choose {', '.join(EXAMPLES)}.")
    place = EXAMPLES[name].place
    if place is None:
        return scene(name)
    x, y = place
    return np.ascontiguousarray(photograph(name)[y : y + SIDE, x : x + SIDE])


def scene(name: str) -> Picture:
    """An object as the held-out artist drew it, enlarged by whole pixels to the usual side."""
    sprites = load_sprites().only((HELD_OUT_ARTIST,))
    pixels = draw(Scene("plain", "blue", name), sprites, np.random.default_rng(5), side=64)
    return pixels.repeat(SIDE // len(pixels), 0).repeat(SIDE // len(pixels), 1)


def held_out(per_photograph: int, drawings: int, *, seed: int = 0) -> Float[Tensor, "n 3 h w"]:
    """Squares of 32 pixels: some of each photograph, then scenes of the held-out artist."""
    squares = []
    for name, one in EXAMPLES.items():
        if one.place is None:
            continue
        whole = photograph(name)
        places = rng.generator(seed, "squares", name)
        for _ in range(per_photograph):
            y, x = (
                int(torch.randint(side - CROP + 1, (1,), generator=places))
                for side in whole.shape[:2]
            )
            squares.append(whole[y : y + CROP, x : x + CROP])
    sprites = load_sprites().only((HELD_OUT_ARTIST,))
    generator = np.random.default_rng(seed + 77)
    for _ in range(drawings):
        drawing = draw(random_scene(generator, sprites, blanks=0.0), sprites, generator, side=64)
        squares.append(drawing[16 : 16 + CROP, 16 : 16 + CROP])
    return to_tensor(np.stack(squares))


def to_tensor(pictures: UInt8[Array, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Pictures in [0, 1], channels first."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255


def to_picture(x: Float[Tensor, "1 3 h w"]) -> Picture:
    """One picture in eight bits, clipped to what can be shown."""
    scaled = (x[0].detach().float().cpu().nan_to_num(0.0).clamp(0, 1) * 255).round()
    return scaled.to(torch.uint8).permute(1, 2, 0).numpy()
