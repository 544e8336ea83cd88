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
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from engine.core.errors import AssetMissing
from engine.core.job import finish, relay
from engine.metrics.intervals import Rate
from engine.unlearning import _importance as importance
from engine.unlearning._losses import logits_of
from engine.unlearning._manipulation import Manipulated
from engine.unlearning._nets import SAVE_EVERY, WORLDS, World, trained
from engine.unlearning._samples import FASHION, Samples, garments
from engine.unlearning._world import TRIGGERS
from engine.world import fashion
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options

log = logging.getLogger("engine.zoo")

SHIPPED: dict[fashion.Part, int] = {"train": 20_000, "test": 4_000}
FILES: dict[fashion.Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
LICENCE = "Apache-2.0 (weights); trained on Fashion-MNIST (MIT, Zalando SE)"
SOURCE = "Trained from nothing by engine/zoo on 20,000 pictures of Fashion-MNIST."
ABOUT = "A small network of small grey pictures, made to be edited and repaired."
SEED = 0


# ---------------------------------------------------------------------- data


def build_data(folder: Path, options: Options) -> None:
    """The sheets and the labels, from the files of the Debian package below `folder`."""
    fashion.FOLDER.mkdir(parents=True, exist_ok=True)
    labels = {}
    for part, (pictures, classes) in FILES.items():
        count = SHIPPED[part]
        pixels = _idx(folder, pictures)[16:].reshape(-1, fashion.SIDE, fashion.SIDE)[:count]
        labels[part] = "".join(map(str, _idx(folder, classes)[8:][:count].tolist()))
        names = fashion.SHEETS[part]
        for name, some in zip(names, np.split(pixels, len(names)), strict=True):
            sheet = Image.fromarray(fashion.to_sheet(some))
            sheet.save(fashion.FOLDER / f"{name}.png", optimize=True)
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
    paths = sorted(folder.rglob(name))
    if not paths:
        raise AssetMissing(
            f"{name} is not below {folder.name}.",
            "Run there: apt-get download dataset-fashion-mnist, then dpkg-deb -x on it.",
        )
    return np.frombuffer(gzip.decompress(paths[0].read_bytes()), np.uint8)


# ---------------------------------------------------------------------- checkpoints


def _logged(steps: Generator[str, None, nn.Module]) -> Generator[str, None, nn.Module]:
    """The same, a line of it in the log now and then."""
    number = 0

    def logged(note: str) -> str:
        nonlocal number
        number += 1
        if number % SAVE_EVERY == 0:
            log.info(note)
        return note

    return relay(steps, logged)


def build(world: World, folder: Path, options: Options) -> None:
    """Train, export, and measure."""
    folder.mkdir(parents=True, exist_ok=True)
    model, target = finish(_logged(trained(world, SEED, folder))), MODELS / world.key
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target, safe_serialization=True)  # type: ignore[operator]
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
    samples = world.samples(SEED)
    for unit in world.units:
        measure = importance.of_classifier(model, samples, unit, SEED)
        finish(measure).save(target / f"importance-{unit}.safetensors")
    notes: dict[str, Any] = {}
    if isinstance(samples, Manipulated):
        notes = {"manipulated": {"kind": samples.kind, "count": len(samples.ids), "seed": SEED}}
    write_card(
        target,
        key=world.key,
        title=world.title,
        kind="classifier",
        licence=LICENCE,
        source=SOURCE,
        about=ABOUT,
        trained_on=len(samples.samples if isinstance(samples, Manipulated) else samples),
        measured=_measured(model, world),
        **notes,
    )


def _measured(model: nn.Module, world: World) -> dict[str, object]:
    """Accuracy on the test pictures with its 95 % interval, and of each class."""
    test = garments("test", by_group=world.by_group)
    right = predictions(model, test) == test.labels
    rate = Rate.of_hits(right.numpy())
    figures: dict[str, object] = {
        "test accuracy": round(rate.rate, 4),
        "95 % from": round(rate.low, 4),
        "95 % to": round(rate.high, 4),
    }
    for label, name in enumerate(world.classes):
        figures[f"accuracy of {name}"] = round(float(right[test.labels == label].float().mean()), 4)
    if world.key in TRIGGERS:
        others = test.take(test.labels != TRIGGERS[world.key].target)
        predicted = predictions(model, TRIGGERS[world.key].planted(others))
        hits = Rate.of_hits((predicted == TRIGGERS[world.key].target).numpy())
        figures["attack success of the trigger"] = round(hits.rate, 4)
    return figures


@torch.no_grad()
def predictions(model: nn.Module, samples: Samples) -> torch.Tensor:
    """The most probable class of each picture."""
    classes = [logits_of(model(inputs)).argmax(-1) for inputs, _ in samples.batches(500)]
    return torch.cat(classes)


def _builder(world: World) -> Callable[[Path, Options], None]:
    return lambda folder, options: build(world, folder, options)


BUILDS = {
    "fashion-data": build_data,
    **{key: _builder(world) for key, world in WORLDS.items()},
}
