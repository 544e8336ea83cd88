"""Three small networks that complete depth, one for each policy of augmentation.

    python -m engine.zoo build depth-rooms

Trained on rooms that are drawn while the training runs, without true depth, by the code that the
panel of AugUndo runs live; measured on rooms that none of them has seen.
"""

import json
import logging
from pathlib import Path

from engine.networks.augundo import scenes, shipped, training
from engine.networks.augundo.network import WIDTHS, DepthNetwork
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options

STEPS, ROOMS, TEST_ROOMS, SEED = 160, 16, 12, 0

log = logging.getLogger("engine.zoo")


def build_depth_rooms(folder: Path, options: Options) -> None:
    """Each arm for the same number of steps, from the same first weights."""
    steps = options.steps or STEPS
    train_set = scenes.joined(list(training.rooms(range(ROOMS))))
    networks: dict[str, DepthNetwork] = {}
    for arm in shipped.ARMS:
        for step, network in enumerate(training.train(arm, train_set, steps, SEED), start=1):
            networks[arm] = network
            if step % 50 == 0:
                log.info("%s, step %d", arm, step)
    export(networks)


def export(networks: dict[str, DepthNetwork]) -> None:
    """Weights in half precision, the widths, and a card with errors on unseen rooms."""
    target = MODELS / shipped.KEY
    target.mkdir(parents=True, exist_ok=True)
    shipped.file_of(networks, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps({"widths": WIDTHS}) + "\n")
    first = training.TEST_ROOMS
    test_set = scenes.joined(list(training.rooms(range(first, first + TEST_ROOMS))))
    measured: dict[str, object] = {}
    for arm, network in {"spread points alone": None, **networks}.items():
        errors = training.reached(network, test_set)
        measured[f"{arm}: error in metres, as they are"] = round(errors.still, 4)
        measured[f"{arm}: error in metres, transformed"] = round(errors.moved, 4)
    write_card(
        target,
        key=shipped.KEY,
        title="Depth completion in small rooms",
        kind="depth",
        licence="Apache-2.0 (weights); trained on rooms drawn by this program",
        source="Trained from nothing by engine/zoo on rooms that engine/networks/augundo draws.",
        about="Three small networks, trained without augmentation, naively, and with the undo.",
        measured=measured,
    )


BUILDS = {shipped.KEY: build_depth_rooms}
