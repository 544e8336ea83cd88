"""Measures the claim on untrained columns, and the shipped network's heads, probes and way back.

    python -m engine bench revcol          writes assets/claims/revcol.json

1. Bytes kept and gradient errors at 2, 4, 8 and 16 columns under every policy; the errors at 16
   columns for three seeds.
2. The heads on the test pictures.
3. The way back on a few pictures: relative error before each column.
4. Linear probes of class and position, by column and level.
"""

import time
from dataclasses import asdict

import numpy as np
import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef, Plain
from engine.networks import _revcol_world as world
from engine.networks.revcol.algorithm import KEY, memory, probe
from engine.networks.revcol.algorithm import run as walk

COLUMNS, PICTURES, CHECKED, SEEDS = (2, 4, 8, 16), 1000, 2, 3
ERRORS_OF = ("plain", "whole", "anchored")


def run(*, seed: int, model: ModelRef | str = KEY) -> Steps[Measured]:
    """All four."""
    begun = time.perf_counter()
    bars = yield from memory(seed=seed, columns=COLUMNS, batch=2)
    kept = {(bar.mode, bar.columns): bar.kept_bytes for bar in bars.bars}
    growth = {
        mode: kept[mode, COLUMNS[-1]] / kept[mode, COLUMNS[0]] for mode in ("released", "whole")
    }
    errors: dict[str, list[Plain]] = {mode: [] for mode in ERRORS_OF}
    for offset in range(SEEDS):
        again = yield from memory(
            seed=seed + offset, columns=COLUMNS[-1:], policies=ERRORS_OF, batch=1
        )
        for bar in again.bars:
            errors[bar.mode].append(bar.gradient_error)
    yield Progress(1, 4, "Heads")
    heads = _heads()
    back: list[Plain] = []
    for index in range(CHECKED):
        shown = yield from walk(seed=seed, index=index)
        back.append([step.error for step in shown.steps])
    probed = yield from probe(seed=seed, train=800, test=400)
    return Measured.of(
        growth["released"],
        growth["whole"],
        (growth["released"], growth["released"]),
        seed=seed,
        begun=begun,
        figures={
            "bars": [asdict(bar) for bar in bars.bars],
            f"gradient error at {COLUMNS[-1]} columns, by seed": dict(errors),
            "inverse error of untrained columns": [list(pair) for pair in bars.inverse_errors],
            f"heads on {PICTURES} test pictures": heads,
            "error of each step back, by picture": back,
            "probes": [asdict(knows) for knows in probed.knows],
        },
    )


@torch.no_grad()
def _heads() -> dict[str, Plain]:
    network, part = world.shipped(KEY), world.test_pictures()
    seen = network(world.inputs_of(part.pixels[:PICTURES]))
    labels = torch.from_numpy(part.labels[:PICTURES].astype(np.int64))
    return {
        f"after {columns} columns": float((logits.argmax(-1) == labels).float().mean())
        for columns, logits in zip(network.heads_after, seen.logits, strict=True)
    }
