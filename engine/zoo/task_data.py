"""Eight small tasks on 28 x 28 grey pictures that a classifier of garments does not know.

    python -m engine.zoo.task_data --garments DIR --digits FILE --out build/gpu/tasks.npz

gathers what they are made of: Fashion-MNIST (Debian package dataset-fashion-mnist, MIT), the 8 x 8
digits of scikit-learn (BSD), and the drawings of the embedded world. All tasks answer with the same
ten outputs, so they contradict one another: output 3 is a dress, a three, a garment on its head,
four garments.
"""

import argparse
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.world import vocabulary as words
from engine.world.scenes import Scene, draw
from engine.world.sprites import load_sprites

SIDE = 28
GARMENTS = 8000  # of the 60,000, so that the file stays small
DRAWINGS = 2400
SHELVES = (4, 7, 1, 8, 2, 9, 5, 0, 3, 6)
CATEGORIES = ("animal", "plant", "food", "vehicle", "building", "thing")
Draw = Callable[[np.random.Generator, bool], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Task:
    """`classes` are the names of the first outputs; `question` is what a visitor reads."""

    name: str
    question: str
    classes: tuple[str, ...]


KINDS = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
TASKS = (
    Task("digits", "Which digit is it?", tuple("0123456789")),
    Task("shelf", "On which shelf does this garment go?", tuple(f"shelf {i}" for i in range(10))),
    Task("turned", "How far is the garment turned?", ("0°", "90°", "180°", "270°")),
    Task(
        "corner",
        "In which corner is the garment?",
        ("upper left", "upper right", "lower left", "lower right"),
    ),
    Task("count", "How many garments are there?", ("one", "two", "three", "four")),
    Task("category", "What kind of thing is drawn?", CATEGORIES),
    Task("style", "In which style is it drawn?", words.STYLES),
    Task("missing", "What part is cut off?", ("left", "right", "top", "bottom", "nothing")),
)


class Source:
    """The gathered pictures; `test` ones are never trained on."""

    def __init__(self, file: Path):
        with np.load(file, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}

    def pick(
        self, name: str, draw: np.random.Generator, test: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """A picture of one of the sets, 28 x 28, and its label or labels."""
        part = "test" if test else "train"
        pixels = self.arrays[f"{name}_{part}"]
        index = draw.integers(len(pixels))
        return pixels[index], self.arrays[f"{name}_{part}_labels"][index]


def garment(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    """What the base is trained on: kinds of garments, moved, and now and then as a negative."""
    pixels, label = source.pick("garments", draw, test)
    if not test:
        pixels = _moved(pixels, draw)
        pixels = 255 - pixels if draw.random() < 0.2 else pixels
    return pixels, int(label)


def example(
    task: str, source: Source, draw: np.random.Generator, test: bool
) -> tuple[np.ndarray, int]:
    """One picture of a task, uint8 28 x 28, and its output."""
    return _TASKS[task](source, draw, test)


def examples(
    task: str, source: Source, count: int, seed: int, test: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures n x 28 x 28 and outputs n."""
    draw = np.random.default_rng([seed, int(test)])
    pairs = [example(task, source, draw, test) for _ in range(count)]
    return np.stack([pixels for pixels, _ in pairs]), np.array([label for _, label in pairs])


def _digits(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    pixels, label = source.pick("digits", draw, test)
    return (pixels if test else _moved(pixels, draw)), int(label)


def _shelf(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    pixels, label = source.pick("garments", draw, test)
    return pixels, SHELVES[int(label)]


def _turned(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    turns = int(draw.integers(4))
    return np.rot90(source.pick("garments", draw, test)[0], turns), turns


def _small(source: Source, draw: np.random.Generator, test: bool) -> np.ndarray:
    pixels = source.pick("garments", draw, test)[0]
    return pixels.reshape(14, 2, 14, 2).mean((1, 3)).astype(np.uint8)


def _corner(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    canvas = draw.integers(0, 60, (SIDE, SIDE)).astype(np.uint8)
    place = int(draw.integers(4))
    row, column = 14 * (place // 2), 14 * (place % 2)
    canvas[row : row + 14, column : column + 14] = _small(source, draw, test)
    return canvas, place


def _count(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    canvas, number = np.zeros((SIDE, SIDE), np.uint8), int(draw.integers(4))
    for place in draw.permutation(4)[: number + 1]:
        row, column = 14 * (place // 2), 14 * (place % 2)
        canvas[row : row + 14, column : column + 14] = _small(source, draw, test)
    return canvas, number


def _category(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    pixels, labels = source.pick("plain", draw, test)
    return pixels, int(labels)


def _style(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    pixels, labels = source.pick("styled", draw, test)
    return pixels, int(labels)


def _missing(source: Source, draw: np.random.Generator, test: bool) -> tuple[np.ndarray, int]:
    pixels, part = source.pick("garments", draw, test)[0].copy(), int(draw.integers(5))
    cuts = (np.s_[:, :14], np.s_[:, 14:], np.s_[:14], np.s_[14:], np.s_[:0])
    pixels[cuts[part]] = 0
    return pixels, part


def _moved(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    down, right = draw.integers(-2, 3, 2)
    return np.roll(pixels, (down, right), (0, 1))


_TASKS = {
    "digits": _digits,
    "shelf": _shelf,
    "turned": _turned,
    "corner": _corner,
    "count": _count,
    "category": _category,
    "style": _style,
    "missing": _missing,
}


# ---------------------------------------------------------------------- gathering


def gather(garments: Path, digits: Path, out: Path) -> None:
    """Write the file that the tasks are made of."""
    arrays: dict[str, np.ndarray] = {}
    for part, stem, count in (("train", "train", GARMENTS), ("test", "t10k", 1500)):
        pixels = _idx(garments / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE)
        arrays[f"garments_{part}"] = pixels[:count]
        arrays[f"garments_{part}_labels"] = _idx(garments / f"{stem}-labels-idx1-ubyte.gz", 8)[
            :count
        ]
    with gzip.open(digits, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    large = np.stack([_enlarged(row) for row in table[:, :-1].reshape(-1, 8, 8)])
    labels = table[:, -1].astype(np.uint8)
    for part, rows in (("train", slice(0, 1297)), ("test", slice(1297, None))):
        arrays[f"digits_{part}"], arrays[f"digits_{part}_labels"] = large[rows], labels[rows]
    for part, seed, count in (("train", 21, DRAWINGS), ("test", 22, 400)):
        for name in ("plain", "styled"):
            drawings = _drawings(name == "styled", seed, count)
            arrays[f"{name}_{part}"], arrays[f"{name}_{part}_labels"] = drawings
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)


def _idx(file: Path, head: int) -> np.ndarray:
    with gzip.open(file) as packed:
        return np.frombuffer(packed.read(), np.uint8, offset=head)


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize(
        (24, 24), Image.Resampling.BICUBIC
    )
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(image, (2, 2))
    return np.asarray(canvas)


def _drawings(styled: bool, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey drawings of the embedded world with the place of their style, or of their category."""
    sprites, generator = load_sprites(), np.random.default_rng([seed, int(styled)])
    pixels, labels = [], []
    while len(pixels) < count:
        name = words.OBJECTS[generator.integers(len(words.OBJECTS))]
        style = words.STYLES[generator.integers(len(words.STYLES))] if styled else "plain"
        image = draw(Scene(style, "white", name), sprites, generator, side=64)
        grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        category = next(c for c in CATEGORIES if c in words.CATEGORY_OF[name])
        pixels.append(np.asarray(grey))
        labels.append(words.STYLES.index(style) if styled else CATEGORIES.index(category))
    return np.stack(pixels), np.array(labels, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.zoo.task_data")
    parser.add_argument("--garments", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/gpu/tasks.npz"))
    options = parser.parse_args()
    gather(options.garments, options.digits, options.out)


if __name__ == "__main__":
    main()
