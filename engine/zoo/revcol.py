"""A RevCol network of garments: four columns, four heads, three decoders.

    python -m engine.zoo build revcol-fashion --folder F

Trained on all 60,000 pictures of Fashion-MNIST, whose package lies in the working folder
(`apt-get download dataset-fashion-mnist`, then `dpkg-deb -x`). Pictures are 28 x 28 grey, padded to
32 x 32 and given three equal channels. Measured on the shipped test pictures.
"""

import gzip
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from engine.core.errors import AssetMissing
from engine.metrics.intervals import Rate
from engine.networks import _revcol as revcol
from engine.networks._revcol_world import KEY, inputs_of, test_pictures
from engine.world.fashion import SIDE
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Figures, Options, train

CONFIG = revcol.RevColConfig(
    (16, 32, 48, 64), (1, 1, 1, 1), 4, classes=10, drop_path=0.05, gamma=0.5
)
BATCH, DECODED, STEPS, LEARNING_RATE = 192, 48, 2400, 4e-3
FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")

log = logging.getLogger("engine.zoo")


def build_revcol(folder: Path, options: Options) -> None:
    """Train in plain mode, as the mode changes nothing but memory; export in half precision."""
    pixels = _idx(folder, FILES[0])[16:].reshape(-1, SIDE, SIDE)
    labels = torch.from_numpy(_idx(folder, FILES[1])[8:].astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = revcol.RevCol(CONFIG, mode="plain").train()
        # What the norms and 1 x 1 layers read fastest.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, Figures]:
        chosen = np.sort(draw.integers(len(pixels), size=BATCH))
        moved = np.stack([_moved(picture, draw) for picture in pixels[chosen]])
        x, y = inputs_of(moved).contiguous(memory_format=torch.channels_last), labels[chosen]
        torch.manual_seed(int(draw.integers(2**31)))
        output = network(x, decode=DECODED)
        loss = revcol.compound_loss(output.logits, output.decoded, x, y)
        right = (output.logits[-1].argmax(-1) == y).float().mean()
        return loss.total, {"loss": loss.total, "last": loss.parts[-1], "right": right}

    plan = options.plan(STEPS, LEARNING_RATE, ema=0.998, decay_from=0.4)
    train([network], loss_of, plan, folder / f"{KEY}.safetensors")
    export(network.eval())


def export(network: revcol.RevCol) -> None:
    """Weights in half precision under the released names, configuration, card."""
    target = MODELS / KEY
    target.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.half().contiguous(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    save_file(state, target / "model.safetensors")
    config = revcol.plain_config(replace(network.config, gamma=1e-6))
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_card(
        target,
        key=KEY,
        title="RevCol of four columns, garments",
        kind="revcol",
        licence="Apache-2.0 (weights); trained on Fashion-MNIST (MIT, Zalando SE)",
        source="Trained from nothing by engine/zoo on 60,000 pictures of Fashion-MNIST.",
        about="A small network of small grey pictures, made to be walked backwards.",
        measured=examined(network),
    )


@torch.no_grad()
def examined(network: revcol.RevCol) -> dict[str, object]:
    """Accuracy of every head on the test pictures, with the interval of the last."""
    pictures = test_pictures()
    logits_of_batches = [
        network(inputs_of(pictures.pixels[i : i + 250])).logits for i in range(0, 4000, 250)
    ]
    labels = torch.from_numpy(pictures.labels.astype(np.int64))
    accuracies: dict[str, object] = {}
    for head, columns in enumerate(network.heads_after):
        guesses = torch.cat([logits[head] for logits in logits_of_batches]).argmax(-1)
        right = guesses == labels
        accuracies[f"accuracy after {columns} columns"] = round(float(right.float().mean()), 4)
    last = Rate.of_hits(right.numpy())
    return accuracies | {"95 % from": round(last.low, 4), "95 % to": round(last.high, 4)}


def _moved(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Up to a pixel to each side, mirrored half of the time."""
    down, right, mirror = *draw.integers(-1, 2, 2), draw.integers(2)
    moved = np.roll(pixels, (down, right), (0, 1))
    return moved[:, ::-1] if mirror else moved


def _idx(folder: Path, name: str) -> np.ndarray:
    paths = sorted(folder.rglob(name))
    if not paths:
        raise AssetMissing(
            f"{name} is not below {folder.name}.",
            "Run there: apt-get download dataset-fashion-mnist, then dpkg-deb -x on it.",
        )
    return np.frombuffer(gzip.decompress(paths[0].read_bytes()), np.uint8)


BUILDS = {KEY: build_revcol}
