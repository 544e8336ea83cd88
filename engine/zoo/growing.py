"""A large training set that is rendered while it is trained on.

Rendering and encoding a picture costs a fifth of a training step on it. A set that grows as it is
used starts at once, and costs no more than the training that was really done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor

from engine.world.scenes import Scene, caption, draw, random_scene
from engine.world.sprites import Sprites, load_sprites
from engine.zoo.autoencoder import LATENT_CHANNELS

PICTURES = 300_000
SHARD = 500
CAPTIONS = 4  # ways to describe each picture
LENGTH = 32  # tokens of a caption
PAIRS = 0.3  # share of pictures with two objects
# What comes out worst: four-legged animals, which share their outlines, and thin or slanted things.
# Plain pictures stand under most panels.
OFTEN = (
    dict.fromkeys(("cat", "dog", "horse", "elephant", "plane", "banana"), 3)
    | dict.fromkeys(("turtle", "bicycle", "boat", "church", "crown", "ghost"), 2)
    | {"plain": 2}
)
# The seven drawings of a cat have little in common. A caption that names the artist asks for one of
# them and not for their mean; two captions in three do not, as prompts will not.
NAMED_ARTIST = 1 / 3

Encode = Callable[[np.ndarray], Tensor]
Tokenize = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Growing:
    """`latents` float16 n x 6 x 16 x 16, `captions` int16 n x 4 x 32 and `done` bool, one for each
    shard of 500: memory-mapped files of the full length, filled shard by shard."""

    latents: np.memmap
    captions: np.memmap
    done: np.memmap
    seed: int
    encode: Encode
    tokenize: Tokenize
    workers: int = 1

    def reach(self, count: int) -> int:
        """Make the shards that are missing among the first `count` pictures; how many there are
        then: `count` rounded up to whole shards, within the set."""
        shards = min(-(-count // SHARD), len(self.done))
        missing = [(self.seed, int(shard), SHARD) for shard in np.flatnonzero(~self.done[:shards])]
        if self.workers == 1 or len(missing) < 2:
            for which in missing:
                self._keep(*_shard(which))
        else:
            with get_context("spawn").Pool(self.workers) as pool:
                for produced in pool.imap_unordered(_shard, missing):
                    self._keep(*produced)
        return shards * SHARD

    def _keep(self, shard: int, drawn: np.ndarray, texts: list[str]) -> None:
        rows = slice(shard * SHARD, (shard + 1) * SHARD)
        self.latents[rows] = self.encode(drawn).half().cpu().numpy()
        self.captions[rows] = self.tokenize(texts).numpy().reshape(SHARD, CAPTIONS, LENGTH)
        for array in (self.latents, self.captions):
            array.flush()
        self.done[shard] = True  # only now: a shard that was broken off is made again


def growing(
    folder: Path,
    encode: Encode,
    tokenize: Tokenize,
    *,
    seed: int,
    count: int = PICTURES,
    workers: int = 1,
) -> Growing:
    """The set in `folder`, begun there if it is not. Equal seed, equal pictures.

    More than one worker pays off where many shards are asked for at once.
    """
    shapes = {
        "latents": (np.float16, (count, LATENT_CHANNELS, 16, 16)),
        "captions": (np.int16, (count, CAPTIONS, LENGTH)),
        "done": (np.bool_, (count // SHARD,)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    latents, captions, done = (
        _mapped(folder / f"{name}.npy", kind, shape) for name, (kind, shape) in shapes.items()
    )
    return Growing(latents, captions, done, seed, encode, tokenize, workers)


def _mapped(file: Path, kind: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    if not file.exists():
        np.lib.format.open_memmap(file, "w+", kind, shape).flush()
    return np.lib.format.open_memmap(file, "r+")


def _shard(which: tuple[int, int, int]) -> tuple[int, np.ndarray, list[str]]:
    """A shard's number, pictures and captions, for a set's seed, this number and the length."""
    seed, shard, count = which
    return shard, *_draw(np.random.default_rng([seed, shard]), load_sprites(), count)


def _draw(
    generator: np.random.Generator, sprites: Sprites, count: int
) -> tuple[np.ndarray, list[str]]:
    """Pictures, uint8 count x 64 x 64 x 3, and their captions, one picture after the other."""
    images, texts = [], []
    for _ in range(count):
        scene = random_scene(generator, sprites, PAIRS, often=OFTEN)
        artist = _artist(scene, sprites, generator)
        images.append(
            draw(scene, sprites if artist is None else sprites.only((artist,)), generator)
        )
        for _ in range(CAPTIONS):
            credited_artist = artist if generator.random() < NAMED_ARTIST else None
            texts.append(caption(scene, generator, credited_artist))
    return np.stack(images), texts


def _artist(scene: Scene, sprites: Sprites, generator: np.random.Generator) -> str | None:
    """Who draws the scene; two objects are drawn by anybody, and an empty canvas by nobody."""
    if scene.subject is None or scene.relation is not None:
        return None
    return str(generator.choice(sprites.artists_of(scene.subject)))
