"""Brain volumes at 2 mm, and a small reversible 3-D U-Net that tells their tissues apart.

    python -m engine.zoo build brain-data --folder F     volumes, out of two packages below F
    python -m engine.zoo build unet3d-brain --folder F

The packages are the nilearn wheel (`pip download --no-deps nilearn==0.14.1`, unpacked) and Debian's
mricron-data (`apt-get download mricron-data`, then `dpkg-deb -x`).
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.core.errors import AssetMissing
from engine.networks import _brain as brain
from engine.networks import _unet3d as nets
from engine.networks._brain_models import KEY, segmented
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Figures, Options, train

CONFIG = nets.UNetConfig(widths=(8, 16, 32), blocks=2, expansion=2, groups=4)
SIDE, BATCH, STEPS, LEARNING_RATE = 32, 1, 140, 3e-3
AVERAGE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
SINGLE = "ch2bet.nii.gz"
GREY, WHITE, LEAST = 1, 2, 0.4
NOTICE = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological "
    "Institute, McGill University. Permission to use, copy, modify, and distribute this software "
    "and its documentation for any purpose and without fee is hereby granted, provided that the "
    "above copyright notice appear in all copies. The authors and McGill University make no "
    'representations about the suitability of this software for any purpose. It is provided "as '
    'is" without express or implied warranty. The authors are not responsible for any data loss, '
    "equipment damage, property loss, or injury to subjects or patients resulting from the use or "
    "misuse of this software package."
)

log = logging.getLogger("engine.zoo")


# ---------------------------------------------------------------------- data


def build_data(folder: Path, options: Options) -> None:
    """Averaged over 2 x 2 x 2 voxels; labels from the averaged probabilities."""
    t1, affine = _halved(folder, AVERAGE.format("t1"))
    grey, white = (_halved(folder, AVERAGE.format(name))[0] / 255 for name in ("gm", "wm"))
    labels = np.where(t1 > 0, 3, 0)
    labels[white > LEAST] = WHITE
    labels[(grey >= white) & (grey > LEAST)] = GREY
    single, single_affine = _halved(folder, SINGLE)
    brain.FOLDER.mkdir(parents=True, exist_ok=True)
    volumes = {}
    for name, voxels, marks, place in (
        ("average", t1, labels, affine), ("single", single, None, single_affine)
    ):  # fmt: skip
        _save(f"{name}.png", voxels)
        if marks is not None:
            _save(f"{name}-labels.png", marks)
        volumes[name] = {
            "shape": list(voxels.shape),
            "has_labels": marks is not None,
            "affine": place.tolist(),
        }
    (brain.FOLDER / "volumes.json").write_text(json.dumps(volumes, indent=1) + "\n")
    (brain.FOLDER / "notice.txt").write_text(NOTICE + "\n")
    files = sorted(path for path in brain.FOLDER.iterdir() if path.name != "card.json")
    card = {
        "title": "Two brain templates at 2 mm, one with tissue labels",
        "licence": "McConnell Brain Imaging Centre, permissive: notice.txt",
        "source": "MNI ICBM 152 2009a, PyPI nilearn==0.14.1; Colin 27, Debian mricron-data",
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (brain.FOLDER / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    brain.volume.cache_clear()


def _halved(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means of 2 x 2 x 2 voxels, the last odd slice of a side left out, and the new affine."""
    import nibabel

    paths = sorted(folder.rglob(name))
    if not paths:
        raise AssetMissing(f"{name} is not below {folder.name}.", "Unpack the packages there.")
    image = nibabel.as_closest_canonical(nibabel.load(paths[0]))
    voxels = np.asarray(image.dataobj, np.float32)
    d, h, w = (side // 2 * 2 for side in voxels.shape)
    blocks = voxels[:d, :h, :w].reshape(d // 2, 2, h // 2, 2, w // 2, 2)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (0.5, 0.5, 0.5)
    affine[:3, :3] *= 2
    return blocks.mean((1, 3, 5)), affine


def _save(name: str, voxels: np.ndarray) -> None:
    pixels = brain.to_sheet(np.round(voxels).clip(0, 255).astype(np.uint8))
    Image.fromarray(pixels).save(brain.FOLDER / name, optimize=True)


# ---------------------------------------------------------------------- network


def build_unet(folder: Path, options: Options) -> None:
    """Crops of the posterior slices, mirrored at random; measured on the anterior ones."""
    part = brain.volume("average").part("train")
    assert part.labels is not None
    x, labels = brain.standardised(part.voxels)[0], torch.from_numpy(part.labels.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nets.RevUNet3d(CONFIG, mode="plain").train()

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, Figures]:
        crops = [_crop(x, labels, draw) for _ in range(BATCH)]
        inputs, targets = (torch.stack(parts) for parts in zip(*crops, strict=True))
        loss = nets.segmentation_loss(network(inputs), targets)
        return loss, {"loss": loss}

    plan = options.plan(STEPS, LEARNING_RATE, warmup=10, ema=0.97, decay_from=0.5)
    train([network], loss_of, plan, folder / f"{KEY}.safetensors")
    export(network.eval())


def _crop(
    x: torch.Tensor, labels: torch.Tensor, draw: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    corner = [draw.integers(0, side - SIDE + 1) for side in labels.shape]
    cut = tuple(slice(first, first + SIDE) for first in corner)
    voxels, marks = x[(slice(None), *cut)], labels[cut]
    return (voxels.flip(1), marks.flip(0)) if draw.integers(2) else (voxels, marks)


def export(network: nets.RevUNet3d) -> None:
    """Weights, configuration, card with the Dice of held-out slices."""
    target = MODELS / KEY
    target.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, target / "model.safetensors")
    config = nets.plain_config(network.config)
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    held_out = brain.volume("average").part("test")
    assert held_out.labels is not None
    guess = segmented(network, brain.standardised(held_out.voxels), overlap=0.25)
    truth = torch.from_numpy(held_out.labels.astype(np.int64))
    dice = nets.hard_dice(guess, truth, len(brain.CLASSES))
    write_card(
        target,
        key=KEY,
        title="Reversible 3-D U-Net, tissues of the brain",
        kind="segmentation",
        licence="Apache-2.0 (weights); trained on MNI ICBM 152 (permissive, see the notice)",
        source="Trained from nothing by engine/zoo on the posterior half of an average brain.",
        about="A small network of one averaged volume; no tool for patients.",
        measured={
            f"Dice of {name}, held-out slices": round(float(value), 4)
            for name, value in zip(brain.CLASSES, dice, strict=True)
        },
    )


BUILDS = {"brain-data": build_data, KEY: build_unet}
