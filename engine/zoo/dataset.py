"""Pictures to train on: scenes of the embedded world, rendered once and kept as plain arrays."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.world.scenes import Scene, draw, random_scene
from engine.world.sprites import Sprites, load_sprites
from engine.world.styles import PICTURE
from engine.zoo.sprites import unseen

SHARD = 500


@dataclass(frozen=True)
class Pictures:
    """`pixels` uint8 n x side x side x 3, memory-mapped; `labels` int8 n x 5 as in Scene.labels."""

    pixels: np.ndarray
    labels: np.ndarray

    def scene(self, index: int) -> Scene:
        return Scene.from_labels(self.labels[index].tolist())


def rows_on(array: np.ndarray, device: str | torch.device) -> Callable[[np.ndarray], Tensor]:
    """A function that gives rows of the array as a tensor on the device.

    A GPU takes the whole array once; on the CPU the rows are read from the file.
    """
    if torch.device(device).type == "cpu":
        return lambda chosen: torch.from_numpy(array[chosen])
    tensor = torch.from_numpy(np.array(array)).to(device)
    return lambda chosen: tensor[torch.from_numpy(chosen).to(device)]


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the file, memory-mapped; made and written there first if it is not."""
    if not file.exists():
        part = file.with_suffix(".part.npy")
        np.save(part, make())
        os.replace(part, file)
    return np.load(file, mmap_mode="r")


def pictures(
    folder: Path,
    count: int,
    *,
    seed: int,
    artists: tuple[str, ...] | None = None,
    pairs: float = 0.3,
    side: int = PICTURE,
    workers: int = os.cpu_count() or 2,
) -> Pictures:
    """`count` random scenes, read from `folder` or rendered into it first.

    Equal seed, equal pictures at every side, and a longer set begins with those of a shorter one.
    Drawings are by `artists` (by default all of them); a share of `pairs` shows two objects.
    """
    pixel_file, label_file = folder / f"pixels-{side}.npy", folder / f"labels-{side}.npy"
    if not label_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (count, side, side, 3)
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, shape)
        labels = np.zeros((count, 5), np.int8)
        shards = [
            (seed, start, min(SHARD, count - start), artists, pairs, side)
            for start in range(0, count, SHARD)
        ]
        with get_context("spawn").Pool(workers) as pool:
            for start, images, shard_labels in pool.imap_unordered(_render, shards):
                pixels[start : start + len(images)] = images
                labels[start : start + len(shard_labels)] = shard_labels
        pixels.flush()
        np.save(label_file, labels)  # written last: its presence says that the set is whole
    return Pictures(np.load(pixel_file, mmap_mode="r")[:count], np.load(label_file)[:count])


def unseen_pictures(folder: Path, count: int, *, seed: int, side: int = PICTURE) -> Pictures:
    """Pictures with drawings of an artist of no part in the training, kept in `folder`."""
    pixel_file, label_file = folder / f"pixels-{side}.npy", folder / f"labels-{side}.npy"
    if not label_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, labels = _drawn(unseen(folder), np.random.default_rng(seed), count, 0.3, side)
        np.save(pixel_file, images)
        np.save(label_file, labels)
    return Pictures(np.load(pixel_file, mmap_mode="r")[:count], np.load(label_file)[:count])


def _render(shard: tuple) -> tuple[int, np.ndarray, np.ndarray]:
    seed, start, count, artists, pairs, side = shard
    sprites = load_sprites()
    if artists is not None:
        sprites = sprites.only(artists)
    generator = np.random.default_rng([seed, start])
    return start, *_drawn(sprites, generator, count, pairs, side)


def _drawn(
    sprites: Sprites, generator: np.random.Generator, count: int, pairs: float, side: int
) -> tuple[np.ndarray, np.ndarray]:
    scenes = [random_scene(generator, sprites, pairs) for _ in range(count)]
    images = np.stack([draw(scene, sprites, generator, side=side) for scene in scenes])
    return images, np.array([scene.labels for scene in scenes], np.int8)
