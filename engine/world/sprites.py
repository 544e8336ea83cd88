"""Drawings of the objects: one transparent picture for each object and artist.

The drawings are shipped as one PNG atlas an artist in `assets/data/sprites`, with `sprites.json`
naming the set, its licence and the objects it holds.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from engine.core.errors import AssetMissing
from engine.world.vocabulary import OBJECTS

SIZE = 128  # pixels of a drawing, and of the canvas on which scenes are put together
COLUMNS = 6
FOLDER = Path(__file__).parents[2] / "assets" / "data" / "sprites"


@dataclass(frozen=True)
class Sprites:
    """Drawings by artist and object; not every artist drew every object."""

    artists: tuple[str, ...]
    drawings: dict[tuple[str, str], Image.Image]

    def by(self, artist: str, name: str) -> Image.Image | None:
        """The drawing of an object by one artist (RGBA, 128 x 128), or None where there is none."""
        return self.drawings.get((artist, name))

    def only(self, artists: tuple[str, ...]) -> "Sprites":
        """The drawings of some artists alone, to train on some and test on others."""
        kept = {key: drawing for key, drawing in self.drawings.items() if key[0] in artists}
        return Sprites(artists, kept)

    def artists_of(self, name: str) -> list[str]:
        """The artists who drew this object, in the order of the catalogue."""
        return [artist for artist in self.artists if (artist, name) in self.drawings]


@cache
def load_sprites(folder: Path = FOLDER) -> Sprites:
    """All shipped drawings. Raises AssetMissing where the atlas is not there."""
    index = folder / "sprites.json"
    if not index.exists():
        raise AssetMissing(
            "The drawings of the embedded world are not in assets/data/sprites.",
            "Fetch the repository again, or make them with: python -m engine.zoo build sprites",
        )
    sets = json.loads(index.read_text())["sets"]
    drawings = {}
    for entry in sets:
        atlas = Image.open(folder / f"{entry['artist']}.png").convert("RGBA")
        for name in entry["objects"]:
            row, column = divmod(OBJECTS.index(name), COLUMNS)
            corner = (column * SIZE, row * SIZE)
            drawings[entry["artist"], name] = atlas.crop(
                (*corner, corner[0] + SIZE, corner[1] + SIZE)
            )
    return Sprites(tuple(entry["artist"] for entry in sets), drawings)
