"""SPM membranes of the embedded world, trained longer than a visitor would wait.

Needs the finished world in assets/models. The time is shared evenly among the concepts; a cut-off
build leaves those that were done.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

from engine.core.job import Progress, finish, relay
from engine.erasing.spm.shipped import CONCEPTS, KEY, save
from engine.erasing.spm.training import Plan, Trained, train
from engine.models.diffusion import DiffusionBundle
from engine.models.library import ASSETS, ModelRef, load
from engine.zoo.export import write_card
from engine.zoo.training import Options

ITERATIONS, SEED = 600, 2
TRIAL = 10  # iterations that tell how fast this machine is

log = logging.getLogger(__name__)


def build_membranes(folder: Path, options: Options) -> None:
    """One membrane a concept with the panel's defaults, but for the number of iterations."""
    bundle = load(ModelRef("world"), dtype="float32")
    assert isinstance(bundle, DiffusionBundle)
    plan = replace(Plan(), iterations=_affordable(bundle, options))
    log.info("%d iterations for each of %d concepts", plan.iterations, len(CONCEPTS))
    losses: dict[str, list[list[float]]] = {}
    for concept in CONCEPTS:
        save(concept, finish(relay(train(bundle, concept, plan, SEED), _log)), losses)
        write_card(
            ASSETS / KEY,
            key=KEY,
            title="SPM membranes of the embedded world",
            kind="membranes",
            made_for="world",
            made_for_revision=bundle.ref.revision,
            iterations=plan.iterations,
            concepts=list(losses),
            measured={},
        )


def _log(event: tuple[Progress, Trained]) -> None:
    step, _ = event
    if step.done % 50 == 0:
        log.info("%d of %d, %s", step.done, step.total, step.note)


def _affordable(bundle: DiffusionBundle, options: Options) -> int:
    """Iterations a concept within the seconds of the build."""
    iterations = options.steps or ITERATIONS
    if options.seconds == float("inf"):
        return iterations
    begun = time.monotonic()
    for _ in train(bundle, CONCEPTS[0], replace(Plan(), iterations=TRIAL), -1):
        pass
    pace = (time.monotonic() - begun) / TRIAL
    return max(10, min(iterations, int(0.9 * options.seconds / len(CONCEPTS) / pace)))


BUILDS = {KEY: build_membranes}
