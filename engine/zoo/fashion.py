"""The worlds of the unlearning family: small residual networks that know garments.

    python -m engine.zoo build fashion-data --folder F    the pictures, out of the Debian package
    python -m engine.zoo build fashion                    the network that all others vary
    python -m engine.zoo build fashion-poisoned           ...

Each checkpoint is a `ResNetForImageClassification` of 78,394 weights in the layout of transformers,
trained for six epochs on 20,000 pictures, well under a minute of one core. The retrained ones have
never seen what is to be forgotten, all else equal. `fashion` and `fashion-groups` come with their
importances, so that forgetting needs the forget set alone.

The package's files lie in the working folder, `apt-get download dataset-fashion-mnist` and
`dpkg-deb -x` put them there.
"""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from engine.core import rng
from engine.core.errors import AssetMissing
from engine.core.job import finish
from engine.metrics.rates import wilson
from engine.unlearning import _importance as importance
from engine.unlearning._learning import Course, Training
from engine.unlearning._losses import logits_of
from engine.unlearning._manipulation import Manipulated
from engine.unlearning._samples import FASHION, Samples, garments
from engine.unlearning._world import (
    CONFUSED,
    CONFUSED_KEY,
    FORGOTTEN_PICTURES,
    TRIGGERS,
    forgotten_at_random,
    manipulated,
)
from engine.world import fashion
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options

log = logging.getLogger("engine.zoo")

SHIPPED = {"train": 20_000, "test": 4_000}
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
LICENCE = "Apache-2.0 (weights); trained on Fashion-MNIST (MIT, Zalando SE)"
SOURCE = "Trained from nothing by engine/zoo on 20,000 pictures of Fashion-MNIST."
ABOUT = "A small network of small grey pictures, made to be edited and repaired."
SAVE_EVERY = 150  # steps


# ---------------------------------------------------------------------- data


def build_data(folder: Path, options: Options) -> None:
    """The two sheets and the labels, from the files of the Debian package below `folder`."""
    fashion.FOLDER.mkdir(parents=True, exist_ok=True)
    labels = {}
    for part, (pictures, classes) in FILES.items():
        count = SHIPPED[part]
        pixels = _idx(folder, pictures)[16:].reshape(-1, fashion.SIDE, fashion.SIDE)[:count]
        labels[part] = "".join(map(str, _idx(folder, classes)[8:][:count].tolist()))
        Image.fromarray(fashion.to_sheet(pixels)).save(
            fashion.FOLDER / f"{part}.png", optimize=True
        )
    (fashion.FOLDER / "labels.json").write_text(json.dumps(labels, indent=0) + "\n")
    files = sorted(path for path in fashion.FOLDER.iterdir() if path.name != "card.json")
    card = {
        "title": "Fashion-MNIST, the first 20,000 training and 4,000 test pictures",
        "licence": "MIT (Zalando SE, 2017); assets/licences/fashion-mnist-MIT.txt",
        "source": "Debian dataset-fashion-mnist, https://github.com/zalandoresearch/fashion-mnist",
        "classes": list(fashion.CLASSES),
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (fashion.FOLDER / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    fashion.garments.cache_clear()


def _idx(folder: Path, name: str) -> np.ndarray:
    found = sorted(folder.rglob(name))
    if not found:
        raise AssetMissing(
            f"{name} is not below {folder.name}.",
            "Run there: apt-get download dataset-fashion-mnist, then dpkg-deb -x on it.",
        )
    return np.frombuffer(gzip.decompress(found[0].read_bytes()), np.uint8)


# ---------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class World:
    """One checkpoint: what it is trained on, and what its card says.

    `samples` gives the training data of a seed; `Manipulated` remembers how it was tampered with.
    """

    key: str
    title: str
    samples: Callable[[int], Samples | Manipulated]
    seed: int = 0
    by_group: bool = False
    units: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return fashion.GROUPS if self.by_group else fashion.CLASSES


def new_classifier(classes: tuple[str, ...], seed: int) -> nn.Module:
    """The network before training; equal seed, equal weights, torch's own generator untouched."""
    from transformers import ResNetConfig, ResNetForImageClassification

    named = {
        "id2label": dict(enumerate(classes)),
        "label2id": {k: i for i, k in enumerate(classes)},
    }
    config = ResNetConfig(
        num_channels=1,
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        **named,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.generator(seed, "weights").initial_seed() % 2**63))
        return ResNetForImageClassification(config)


def trained(world: World, folder: Path, seed: int | None = None, course: Course | None = None):
    """The network of a world after training, resumed where a state lies in `folder`."""
    seed = world.seed if seed is None else seed
    given = world.samples(seed)
    samples = given.samples if isinstance(given, Manipulated) else given
    model = new_classifier(world.classes, seed)
    training = Training(model, samples, course or Course(), seed)
    state = folder / f"{world.key}-{seed}.safetensors"
    if state.exists():
        training.restore(load_file(state))
    state.parent.mkdir(parents=True, exist_ok=True)
    for step in training.run():
        if step % SAVE_EVERY == 0 or step == training.total:
            part = state.with_suffix(".part")
            save_file({k: v.contiguous() for k, v in training.state().items()}, part)
            part.replace(state)
            log.info("%s: step %d of %d", world.key, step, training.total)
    return model.eval().requires_grad_(False)


def build(world: World, folder: Path, options: Options) -> None:
    """Train, export, and measure."""
    model, target = trained(world, folder), MODELS / world.key
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target, safe_serialization=True)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(FASHION.mean),
        "image_std": list(FASHION.std),
        "rescale_factor": 1 / 255,
        "size": {"height": fashion.SIDE, "width": fashion.SIDE},
    }
    text = json.dumps(settings, indent=1, sort_keys=True)
    (target / "preprocessor_config.json").write_text(text + "\n")
    given = world.samples(world.seed)
    for unit in world.units:
        measure = importance.of_classifier(model, given, unit, world.seed)
        finish(measure).save(target / f"importance-{unit}.safetensors")
    notes = {}
    if isinstance(given, Manipulated):
        notes = {"manipulated": {"kind": given.kind, "count": len(given.ids), "seed": world.seed}}
    write_card(
        target,
        key=world.key,
        title=world.title,
        kind="classifier",
        licence=LICENCE,
        source=SOURCE,
        about=ABOUT,
        trained_on=len(given.samples if isinstance(given, Manipulated) else given),
        measured=_measured(model, world),
        **notes,
    )


def _measured(model: nn.Module, world: World) -> dict[str, object]:
    """Accuracy on the test pictures with its 95 % interval, and of each class."""
    test = garments("test", by_group=world.by_group)
    right = predictions(model, test) == test.labels
    low, high = wilson(int(right.sum()), len(right))
    found: dict[str, object] = {
        "test accuracy": round(float(right.float().mean()), 4),
        "95 % from": round(low, 4),
        "95 % to": round(high, 4),
    }
    for label, name in enumerate(world.classes):
        found[f"accuracy of {name}"] = round(float(right[test.labels == label].float().mean()), 4)
    if world.key in TRIGGERS:
        others = test.take(test.labels != TRIGGERS[world.key].target)
        said = predictions(model, TRIGGERS[world.key].planted(others))
        rate = float((said == TRIGGERS[world.key].target).float().mean())
        found["attack success of the trigger"] = round(rate, 4)
    return found


@torch.no_grad()
def predictions(model: nn.Module, samples: Samples) -> torch.Tensor:
    """The most probable class of each picture."""
    found = [logits_of(model(inputs)).argmax(-1) for inputs, _ in samples.batches(500)]
    return torch.cat(found)


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
    return lambda seed: manipulated(key, seed)


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
        World("fashion", "Garments", lambda seed: garments("train"), units=importance.UNITS),
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


def _builder(world: World) -> Callable[[Path, Options], None]:
    return lambda folder, options: build(world, folder, options)


BUILDS = {
    "fashion-data": build_data,
    **{key: _builder(world) for key, world in WORLDS.items()},
}
