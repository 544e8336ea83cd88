"""Measures the claim on shapes, and the network on the held-out slices.

    python -m engine bench reversible-unet3d          writes assets/claims/reversible_unet3d.json

1. The largest cube within 8 GiB for every mode, and bars against blocks: computed, not measured.
2. Training in three modes from the same weights on the same crops, for three seeds: the largest
   gap of the losses, and bytes measured.
3. The shipped network on the held-out slices, and its stages walked backwards.
"""

import time
from dataclasses import asdict

from engine.core.catalog import Measured
from engine.core.job import Steps
from engine.core.recipe import ModelRef, Plain
from engine.networks.reversible_unet3d.algorithm import KEY, measure_sizes, train
from engine.networks.reversible_unet3d.algorithm import run as segment

GIBIBYTES, STEPS, SEEDS, SIDE = 8.0, 10, 3, 16
MODES = ("plain", "checkpoint", "reversible")


def run(*, seed: int, model: ModelRef | str = KEY, steps: int = STEPS) -> Steps[Measured]:
    """All three."""
    begun = time.perf_counter()
    sized = yield from measure_sizes(seed=seed, gibibytes=GIBIBYTES, side=64, modes=MODES)
    cubes = {cube.mode: cube for cube in sized.cubes}
    trained = yield from train(seed=seed, modes=MODES, steps=steps, side=SIDE)
    gaps: list[Plain] = [trained.largest_gap]
    for offset in range(1, SEEDS):
        again = yield from train(seed=seed + offset, modes=MODES, steps=steps, side=SIDE)
        gaps.append(again.largest_gap)
    shown = yield from segment(seed=seed, model=model, overlap=0.0)
    curves: list[Plain] = [
        {
            "mode": curve.mode,
            "kept": curve.kept_bytes,
            "peak": curve.peak_bytes,
            "first and last loss": [curve.losses[0], curve.losses[-1]],
        }
        for curve in trained.curves
    ]
    measured = float(cubes["reversible"].voxels)
    return Measured.of(
        measured,
        float(cubes["plain"].voxels),
        (measured, measured),
        seed=seed,
        begun=begun,
        figures={
            f"largest cube in {GIBIBYTES:g} GiB, computed": [asdict(c) for c in sized.cubes],
            "bars at side 64, computed": [asdict(bar) for bar in sized.bars],
            "training in three modes": curves,
            f"largest gap of losses in {steps} steps, by seed": gaps,
            "Dice on held-out slices": {found.name: found.dice for found in shown.overlaps},
            "relative error of stages walked back": {
                stage.stage: stage.trip.relative_error for stage in shown.stages
            },
        },
    )
