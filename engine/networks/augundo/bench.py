"""Measures the claim: what each policy charges for the true depth, and what is learnt under it.

    python -m engine bench augundo          writes assets/claims/augundo.json

The claim is about loss floors, which need no training: at zoom 0.6 and 25 degrees, over eight rooms
a seed and three seeds, the interval over the seeds. The same on the real pair, and for transforms
drawn as published, stands in the figures. So does the training: five arms, three seeds of weights
and draws, on rooms that no arm has seen; whatever came out. Nothing was chosen on the test rooms.
"""

import time
from collections.abc import Mapping

import numpy as np

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay_as
from engine.core.recipe import Plain
from engine.core.rng import generator
from engine.metrics.intervals import student
from engine.networks.augundo import scenes, training
from engine.networks.augundo.augmentation import Augmentation
from engine.networks.augundo.floors import Floors, floors, kept
from engine.networks.augundo.scenes import Scene
from engine.networks.augundo.training import Reached

SEEDS, ROOMS, DRAWS = 3, 8, 8
ZOOM, ANGLE = 0.6, 25.0
STEPS, TRAIN_ROOMS, TEST_ROOMS = 80, 16, 12


def run(*, seed: int = 0) -> Steps[Measured]:
    """Floors first, then the trainings, seed by seed."""
    begun = time.perf_counter()
    total = 2 * SEEDS + 1
    found = []
    for place in range(SEEDS):
        yield Progress(place, total, "Loss floors")
        first = training.TEST_ROOMS + 100 * (seed + place)
        found.append(_mean([_floors(scenes.room(first + i)) for i in range(ROOMS)]))
    yield Progress(SEEDS, total, "The real pair")
    real = _real(seed)
    learnt: dict[str, list[Reached]] = {arm: [] for arm in training.ARMS}
    for place in range(SEEDS):
        for arm in training.ARMS:
            steps = _learnt(arm, seed + place)
            found_now = yield from relay_as(steps, SEEDS + 1 + place, total, training.ARMS[arm])
            learnt[arm].append(found_now)
    naive, low, high = student([one.naive for one in found])
    return Measured.of(
        naive,
        student([one.undo for one in found])[0],
        (low, high),
        seed=seed,
        begun=begun,
        figures={
            "floors of rooms, by seed": [_plain(one) for one in found],
            "real pair": real,
            "training": _trained(learnt),
            "steps": STEPS,
            "rooms of training": TRAIN_ROOMS,
            "rooms of the test": TEST_ROOMS,
        },
    )


def _floors(scene: Scene) -> Floors:
    return floors(scene, Augmentation.of(scene.size, zoom=ZOOM, angle=ANGLE))


def _mean(found: list[Floors]) -> Floors:
    names = Floors.__dataclass_fields__
    return Floors(*(float(np.mean([getattr(one, name) for one in found])) for name in names))


def _real(seed: int) -> Mapping[str, Plain]:
    """The motorcycle: the same transform, and some drawn as published."""
    scene = scenes.motorcycle()
    aug = Augmentation.of(scene.size, zoom=ZOOM, angle=ANGLE)
    points = scenes.measured_points(scene.depth, 0.01, seed)
    left = kept(scene.depth, points, aug)
    drawn = [
        floors(scene, Augmentation.sample(scene.size, generator(seed, "bench", i)))
        for i in range(DRAWS)
    ]
    return {
        "floors": _plain(floors(scene, aug)),
        "supervised": round(left.supervised, 4),
        "sparse points, naive": round(left.points_naive, 4),
        "sparse points, undo": round(left.points_undo, 4),
        "undo error in metres": round(left.undo_error, 4),
        "floors of drawn transforms": _plain(_mean(drawn)),
    }


def _plain(found: Floors) -> dict[str, Plain]:
    return {name: round(getattr(found, name), 5) for name in Floors.__dataclass_fields__}


def _learnt(arm: str, seed: int) -> Steps[Reached]:
    """One arm of one seed, measured at its end."""
    train_set, test_set = (
        scenes.joined(list(training.rooms(range(first, first + count))))
        for first, count in ((0, TRAIN_ROOMS), (training.TEST_ROOMS, TEST_ROOMS))
    )
    for step, network in enumerate(training.train(arm, train_set, STEPS, seed), start=1):
        last = network
        yield Progress(step, STEPS, training.ARMS[arm])
    return training.reached(last, test_set, STEPS)


def _trained(learnt: Mapping[str, list[Reached]]) -> dict[str, Plain]:
    """Errors in metres at the end, by arm: every seed, and the mean with its interval."""
    test_set = scenes.joined(
        list(training.rooms(range(training.TEST_ROOMS, training.TEST_ROOMS + TEST_ROOMS)))
    )
    alone = training.reached(None, test_set)
    told: dict[str, Plain] = {
        "spread points alone": {"still": round(alone.still, 4), "moved": round(alone.moved, 4)}
    }
    for arm, ends in learnt.items():
        told[arm] = {
            kind: {
                "by seed": [round(float(getattr(one, kind)), 4) for one in ends],
                "mean, 95 % from, to": [
                    round(value, 4) for value in student([getattr(one, kind) for one in ends])
                ],
            }
            for kind in ("still", "moved")
        }
    return told
