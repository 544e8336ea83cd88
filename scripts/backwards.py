"""Records what the page of everything in one view opens with: `python -m scripts.backwards`."""

import json
from dataclasses import asdict

from engine.core import disk
from engine.core.job import finish
from engine.core.recipe import versions_here
from engine.networks import _backwards
from pages._backwards import RECORD

SEED = 0


def main() -> None:
    """Measures every point and writes them with the seed and the versions."""
    found = finish(_backwards.run(seed=SEED))
    ways = [asdict(way) | {"exactness": way.exactness.value} for way in found.ways]
    held = {"seed": SEED, "versions": dict(versions_here()), "ways": ways}
    disk.write(RECORD, [f"{json.dumps(held, indent=1)}\n".encode()])


if __name__ == "__main__":
    main()
