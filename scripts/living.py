"""Records the living pictures of Home on the shipped model: `python -m scripts.living [FAMILY]`.

A recording is a row of square frames in one PNG that carries the recipe of its run: from noise to
picture as the reversible solver walks.
"""

import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from engine.core.catalog import ROOT, Entry, discover
from engine.core.job import finish
from engine.core.recipe import ModelRef, Recipe

PICTURES = (
    ("a rose in neon style", "rose"),
    ("a penguin on a pink background", "penguin"),
    ("a sketch of a house", "house"),
    ("a watercolor mushroom", "mushroom"),
)
STEPS, SEEDS = 24, range(8)

Recording = tuple[Recipe, Sequence[np.ndarray]]


def main(families: Sequence[str]) -> None:
    """Writes assets/living/<family>-<number>.png."""
    for family in families or RECORDERS:
        for number, (recipe, frames) in enumerate(RECORDERS[family](), start=1):
            buffer = io.BytesIO()
            Image.fromarray(np.concatenate(frames, axis=1)).save(buffer, "PNG", optimize=True)
            path = ROOT / "assets" / "living" / f"{family}-{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(recipe.stamp(buffer.getvalue()))
            print(f"{path.relative_to(ROOT)}: {len(frames)} frames, seed {recipe.seed}")


def result(recipe: Recipe) -> Any:
    entry = discover()[recipe.method]
    return finish(recipe.job(entry.target(recipe.action)).start())


def from_noise() -> Iterator[Recording]:
    """Noise to picture, of the seed that the judge is surest of."""
    for prompt, name in PICTURES:
        seed = best_seed(discover()["nfe_lab"], prompt, name)
        params = {"prompt": prompt, "edit": "", "steps": STEPS, "depth": 1.0}
        recipe = Recipe("nfe_lab", "rewind", ModelRef("world"), params, seed).here()
        way = result(recipe).ways[-1]
        yield recipe, [way.noise, *way.to_picture]


def best_seed(entry: Entry, prompt: str, name: str) -> int:
    """The seed whose picture the judge takes most surely for what the prompt names.

    The picture is the one that `rewind` draws: the same solver, evaluations and guidance.
    """
    sure = {}
    for seed in SEEDS:
        params = {"prompt": prompt, "solvers": ["dpmpp_2m"], "nfe": 20, "curve": []}
        job = Recipe("nfe_lab", "run", ModelRef("world"), params, seed).job(entry.target("run"))
        verdict = finish(job.start()).films[0].verdict
        found = re.match(rf"{name} (\d+) %", verdict)
        sure[seed] = int(found[1]) if found else 0
    return max(sure, key=sure.__getitem__)


RECORDERS: dict[str, Callable[[], Iterator[Recording]]] = {
    "sampling": from_noise,
}

if __name__ == "__main__":
    main(sys.argv[1:])
