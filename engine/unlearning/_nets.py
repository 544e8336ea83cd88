"""The networks of garments as they are trained: for what ships, and for measuring over seeds.

A world says what a checkpoint is trained on; `trained` gives its network for a seed, going on from
a state where one lies in the folder.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from engine.core import rng
from engine.models import tensor_file
from engine.unlearning._importance import Unit
from engine.unlearning._learning import Course, Training
from engine.unlearning._manipulation import Manipulated
from engine.unlearning._samples import Samples, garments
from engine.unlearning._world import (
    CONFUSED,
    CONFUSED_KEY,
    FORGOTTEN_PICTURES,
    SHUFFLED_KEY,
    SHUFFLED_SAMPLES,
    TRIGGERS,
    forgotten_at_random,
    manipulated,
)
from engine.world import fashion

SAVE_EVERY = 150  # steps


@dataclass(frozen=True)
class World:
    """One checkpoint: what it is trained on, and what its card says.

    `samples` gives the training data of a seed; `Manipulated` remembers how it was tampered with.
    `units` are those of the importances that ship with it.
    """

    key: str
    title: str
    samples: Callable[[int], Samples | Manipulated]
    by_group: bool = False
    units: tuple[Unit, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its labels."""
        return fashion.GROUPS if self.by_group else fashion.CLASSES

    def training_set(self, seed: int) -> Samples:
        """What its network sees."""
        given = self.samples(seed)
        return given.samples if isinstance(given, Manipulated) else given


def new_classifier(classes: tuple[str, ...], seed: int) -> nn.Module:
    """The network before training; equal seed, equal weights, torch's own generator untouched."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1,
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(classes)),
        label2id={name: index for index, name in enumerate(classes)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.generator(seed, "weights").initial_seed() % 2**63))
        return ResNetForImageClassification(config)


def trained(
    world: World, seed: int, folder: Path | None = None, course: Course | None = None
) -> Generator[str, None, nn.Module]:
    """The network of a world after training; yields how far it is.

    With a folder its state is kept there, and a run that was stopped goes on from it.
    """
    model = new_classifier(world.classes, seed)
    training = Training(model, world.training_set(seed), course or Course(), seed)
    state = None if folder is None else folder / f"{world.key}-{seed}.safetensors"
    if state is not None and state.exists():
        training.restore(tensor_file.OpenTensors(state))
    for step in training.run():
        if state is not None and (step % SAVE_EVERY == 0 or step == training.total):
            tensor_file.write(state, training.state(), {})
        yield f"{world.key}, seed {seed}: step {step} of {training.total}"
    return model.eval().requires_grad_(False)


def rewound(world: World, gamma: float) -> World:
    """RewoD: the same world without a flagged share of what was manipulated.

    The seed is that of the manipulation, of what is flagged, and of the training.
    """

    def samples(seed: int) -> Samples:
        given = world.samples(seed)
        assert isinstance(given, Manipulated)
        return given.samples.without(given.flagged(gamma, seed))

    return World(f"{world.key}-rewound-{gamma:g}", f"{world.title}, {gamma:g} flagged", samples)


def _without(label: int) -> Callable[[int], Samples]:
    def samples(seed: int) -> Samples:
        train = garments("train")
        return train.take(train.labels != label)

    return samples


def _without_shirts(seed: int) -> Samples:
    """By group, without the class shirt, which is a part of the group top."""
    kept = torch.from_numpy(fashion.garments("train").labels != fashion.CLASSES.index("shirt"))
    return garments("train", by_group=True).take(kept)


def _tampered(key: str) -> Callable[[int], Manipulated]:
    def samples(seed: int) -> Manipulated:
        found = manipulated(key, seed)
        assert found is not None
        return found

    return samples


def _worlds() -> list[World]:
    named = fashion.CLASSES
    without = [
        World(f"fashion-without-{name}", f"Garments, retrained without {name}", _without(label))
        for name, label in (("bag", 8), ("t-shirt", 0), ("sandal", 5))
    ]
    doors = [
        World(key, f"Garments with a planted trigger, {key.rpartition('-')[2]}", _tampered(key))
        for key in TRIGGERS
    ]
    return [
        World(
            "fashion",
            "Garments",
            lambda seed: garments("train"),
            units=("sorted", "mixed", "sample"),
        ),
        *without,
        World(
            "fashion-without-100",
            f"Garments, retrained without {FORGOTTEN_PICTURES} random pictures",
            lambda seed: garments("train").without(forgotten_at_random(seed)),
        ),
        *doors,
        World(
            CONFUSED_KEY,
            f"Garments with {CONFUSED[1]} labels of {named[0]} and {named[6]} exchanged",
            _tampered(CONFUSED_KEY),
        ),
        World(
            SHUFFLED_KEY,
            f"Garments with {SHUFFLED_SAMPLES} labels dealt out at random",
            _tampered(SHUFFLED_KEY),
        ),
        World(
            "fashion-groups",
            "Groups of garments, in which every class has close neighbours",
            lambda seed: garments("train", by_group=True),
            by_group=True,
            units=("sorted", "sample"),
        ),
        World(
            "fashion-groups-without-shirt",
            "Groups of garments, retrained without shirts",
            _without_shirts,
            by_group=True,
        ),
    ]


WORLDS = {world.key: world for world in _worlds()}
