"""Trays: a few things in the cells of a 4 x 4 grid, photographed in bad light.

A tray is small enough to say all that is on it, so every phrase about it is true or false, exactly.
The things come in pairs: where one of a pair lies, the other mostly lies too. A model that learns
this will say "and a dog" when the picture is dark and there is a cat: the wish is father to the
sight. All pictures of trays, for training and for the panels, are composed by `compose`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.shapes import Array, Float, Int, Tensor, UInt8
from engine.world import vocabulary as words
from engine.world.sprites import load_sprites

CELLS, CELL = 4, 16  # cells along a side, pixels along a cell
PLACES = CELLS * CELLS
NOTHING = -1
SPRITE = 20  # pixels of a drawing before it is scaled into its cell
MOST_THINGS = 4
PARTNER = dict(words.PAIRS) | {b: a for a, b in words.PAIRS}
FOLLOWS = 0.75  # how often the partner of a thing lies beside it
NUMBERS = ("no", "one", "two", "three", "four", "five")
ARTISTS = ("noto", "fluent-emoji-flat", "fxemoji")  # whose drawings models of trays learn from
HELD_OUT_ARTIST = "fluent-emoji"  # whose drawings they never see


@dataclass(frozen=True)
class Thing:
    """An object in one of the 16 cells, counted row by row, as one artist drew it."""

    name: str
    cell: int
    artist: str


@dataclass(frozen=True)
class Tray:
    """What lies where, and the colour of the background."""

    things: tuple[Thing, ...]
    background: str = "white"

    @property
    def names(self) -> tuple[str, ...]:
        """What there is, each once, in the order of the cells."""
        return tuple(dict.fromkeys(thing.name for thing in self.things))

    def __str__(self) -> str:
        lines = (f"{thing.name} {thing.cell} {thing.artist}" for thing in self.things)
        return "; ".join([f"on {self.background}", *lines])

    @classmethod
    def parse(cls, text: str) -> "Tray":
        """The tray in a text such as "on blue; cat 5 noto; dog 10": background, then the things.

        Artists may be left out. Raises `BadInput` that names the piece which cannot be read.
        """
        background, things = "white", []
        sprites = load_sprites()
        for piece in filter(None, (part.strip() for part in re.split(r"[;\n]", text.lower()))):
            parts = piece.split()
            if parts[0] == "on" and len(parts) == 2 and parts[1] in words.BACKGROUNDS:
                background = parts[1]
                continue
            artist = parts[2] if len(parts) == 3 else sprites.artists[0]
            if (
                len(parts) not in (2, 3)
                or not parts[1].isdecimal()
                or int(parts[1]) >= PLACES
                or (artist, parts[0]) not in sprites.drawings
            ):
                raise BadInput(
                    f'"{piece[:40]}" cannot be put on the tray.',
                    "Write an object and a cell from 0 to 15, such as: cat 5; dog 10.",
                )
            things.append(Thing(parts[0], int(parts[1]), artist))
        if len({thing.cell for thing in things}) != len(things):
            raise BadInput("Two things lie in one cell.", "Give each thing a cell of its own.")
        if len(things) > MOST_THINGS:
            raise BadInput(
                f"There are {len(things)} things on the tray; the model knows up to {MOST_THINGS}.",
                "Take some away.",
            )
        return cls(tuple(sorted(things, key=lambda thing: thing.cell)), background)


@cache
def artists_by_object(artists: tuple[str, ...]) -> dict[str, list[str]]:
    """The things of trays that any of these artists drew, and who did."""
    sprites = load_sprites().only(artists)
    artists_of = {name: sprites.artists_of(name) for name in words.ON_TRAYS}
    return {name: who for name, who in artists_of.items() if who}


def random_tray(generator: np.random.Generator, artists: tuple[str, ...]) -> Tray:
    """Two to four things; the partner of a thing follows it with probability 0.75."""
    by_object = artists_by_object(artists)
    candidates = list(by_object)
    count = int(generator.integers(2, MOST_THINGS + 1))
    names: list[str] = []
    while len(names) < count:
        partner = PARTNER[names[-1]] if names else ""
        if partner in candidates and partner not in names and generator.random() < FOLLOWS:
            names.append(partner)
            continue
        other = candidates[generator.integers(len(candidates))]
        if other not in names and other != partner:
            names.append(other)
    cells = generator.permutation(PLACES)[:count]
    things = [
        Thing(name, int(cell), by_object[name][generator.integers(len(by_object[name]))])
        for name, cell in zip(names, cells, strict=True)
    ]
    background = tuple(words.BACKGROUNDS)[generator.integers(len(words.BACKGROUNDS))]
    return Tray(tuple(sorted(things, key=lambda thing: thing.cell)), background)


# ---------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Bank:
    """Every drawing of some artists: `drawings` has colour times alpha, then alpha, in 0..1."""

    artists: tuple[str, ...]
    drawings: Float[Tensor, "artists objects 4 s s"]

    def to(self, device: str) -> "Bank":
        return Bank(self.artists, self.drawings.to(device))


@cache
def bank(artists: tuple[str, ...]) -> Bank:
    """The shipped drawings of these artists; a drawing that an artist lacks is empty."""
    sprites = load_sprites()
    drawings = torch.zeros(len(artists), len(words.OBJECTS), 4, SPRITE, SPRITE)
    for row, artist in enumerate(artists):
        for column, name in enumerate(words.OBJECTS):
            drawing = sprites.by(artist, name)
            if drawing is None:
                continue
            rgba = torch.from_numpy(np.array(drawing)).permute(2, 0, 1).float() / 255
            rgba = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
            drawings[row, column] = F.interpolate(rgba[None], (SPRITE, SPRITE), mode="area")[0]
    return Bank(artists, drawings)


def compose(
    drawings: Float[Tensor, "artists objects 4 s s"],
    objects: Int[Tensor, "b 16"],
    artists: Int[Tensor, "b 16"],
    backgrounds: Float[Tensor, "b 3"],
    pose: Float[Tensor, "b 16 4"],
) -> Float[Tensor, "b 3 64 64"]:
    """Pictures in 0..1. `objects` are places in the vocabulary or -1.

    `pose` is uniform in 0..1: size from 12 to 16 pixels, shift to both sides as far as the cell
    lets it, and whether it is mirrored.
    """
    b = len(objects)
    chosen = drawings[artists, objects.clamp(min=0)] * (objects >= 0)[..., None, None, None]
    share = 0.75 + 0.25 * pose[..., 0]
    shift = (2 * pose[..., 1:3] - 1) * (1 - share)[..., None]
    mirror = torch.where(pose[..., 3] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(share)
    # The grid asks each pixel of the cell where in the drawing it comes from.
    theta = torch.stack(
        [mirror / share, zero, -mirror * shift[..., 0] / share,
         zero, 1 / share, -shift[..., 1] / share],
        dim=-1,
    ).reshape(b * PLACES, 2, 3)  # fmt: skip
    grid = F.affine_grid(theta, [b * PLACES, 4, CELL, CELL], align_corners=False)
    cells = F.grid_sample(chosen.flatten(0, 1), grid, align_corners=False)
    layer = cells.reshape(b, CELLS, CELLS, 4, CELL, CELL).permute(0, 3, 1, 4, 2, 5)
    layer = layer.reshape(b, 4, CELLS * CELL, CELLS * CELL)
    return layer[:, :3] + (1 - layer[:, 3:]) * backgrounds[..., None, None]


def darken(
    pictures: Float[Tensor, "b 3 h w"],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b 3 h w"],
) -> Float[Tensor, "b 3 h w"]:
    """The pictures as a bad camera takes them: with noise of this spread, cut to 0..1."""
    return (pictures + sigma[:, None, None, None] * noise).clamp(0, 1)


def arrays_of(
    trays: Sequence[Tray], artists: tuple[str, ...]
) -> tuple[Int[Tensor, "b 16"], Int[Tensor, "b 16"], Float[Tensor, "b 3"]]:
    """Objects, artists and background colours, as `compose` takes them."""
    objects = np.full((len(trays), PLACES), NOTHING)
    who = np.zeros((len(trays), PLACES), np.int64)
    colours = torch.tensor([words.BACKGROUNDS[tray.background] for tray in trays]) / 255
    for row, tray in enumerate(trays):
        for thing in tray.things:
            objects[row, thing.cell] = words.OBJECTS.index(thing.name)
            who[row, thing.cell] = artists.index(thing.artist)
    return torch.from_numpy(objects), torch.from_numpy(who), colours


def photograph(tray: Tray, *, noise: float, seed: int) -> UInt8[Array, "64 64 3"]:
    """The picture of a tray; equal tray, noise and seed give equal pixels."""
    artists = load_sprites().artists
    drawings = bank(artists).drawings
    objects, who, colours = arrays_of([tray], artists)
    pose = torch.rand(1, PLACES, 4, generator=rng.generator(seed, "pose"))
    clean = compose(drawings, objects, who, colours, pose)
    grain = rng.noise(clean.shape, rng.generator(seed, "grain"))
    return pixels(darken(clean, torch.tensor([noise]), grain))[0]


def pixels(pictures: Float[Tensor, "b 3 h w"]) -> UInt8[Array, "b h w 3"]:
    """Pictures in 0..1 as they are stored."""
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


# ---------------------------------------------------------------------- what is said


def mentions(text: str) -> list[str]:
    """The objects that a text names, each as often as it does."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in _OBJECTS]


_OBJECTS = frozenset(words.OBJECTS)


def is_true(phrase: str, tray: Tray) -> bool | None:
    """Whether a phrase of a caption holds for the tray; None where it says nothing one can check.

    Objects, colours of the background and the number of things are checked.
    """
    phrase_words = re.findall(r"[a-z]+", phrase.lower())
    objects = [word for word in phrase_words if word in _OBJECTS]
    if objects:
        return all(word in tray.names for word in objects)
    coloured = [word for word in phrase_words if word in words.BACKGROUNDS]
    if coloured:
        return coloured == [tray.background]
    counted = [word for word in phrase_words if word in NUMBERS[1:]]
    return counted == [NUMBERS[len(tray.things)]] if counted else None
