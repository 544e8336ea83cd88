"""A visitor's own classifier and pictures, tiny and real."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.models import picture_sets
from tests.unlearning.languages import people_folder, species_folder  # noqa: F401 - fixtures

CLASSES = ("plain", "left", "right")
SIDE = 16


def drawn(label: int, seed: int) -> np.ndarray:
    """A colour picture of one of the classes: noise, with a bright left or right half."""
    draw = np.random.default_rng([label, seed])
    picture = draw.integers(0, 80, (SIDE, SIDE, 3)).astype(np.uint8)
    if label:
        half = slice(0, SIDE // 2) if label == 1 else slice(SIDE // 2, SIDE)
        picture[:, half] += 120
    return picture


def png(picture: np.ndarray, mode: str = "RGB", size: int = SIDE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).resize((size, size), 0).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path: Path, members: Mapping[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


@pytest.fixture(scope="session")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small ResNet that tells the three kinds of pictures apart."""
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("own") / "classifier"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNetForImageClassification(
            ResNetConfig(
                embedding_size=4,
                hidden_sizes=[4, 8],
                depths=[1, 1],
                layer_type="basic",
                id2label=dict(enumerate(CLASSES)),
                label2id={name: i for i, name in enumerate(CLASSES)},
            )
        )
    pixels = np.stack([drawn(label, i) for label in range(3) for i in range(12)])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.arange(3).repeat_interleave(12)
    learn = torch.optim.Adam(model.parameters(), lr=0.02)
    model.train()
    for _ in range(25):
        learn.zero_grad()
        torch.nn.functional.cross_entropy(model(x).logits, y).backward()
        learn.step()
    model.eval().save_pretrained(folder)
    settings = {
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture
def picture_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mapping[str, int]], str]:
    """`picture_set({"left": 4})`: an upload of four such pictures, in a folder of that name."""
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))

    def make(counts: Mapping[str, int], start: int = 0) -> str:
        members = {
            f"{name}/{i:03d}.png": png(drawn(CLASSES.index(name), i))
            for name, count in counts.items()
            for i in range(start, start + count)
        }
        path = tmp_path / f"{'-'.join(counts)}-{start}-{sum(counts.values())}.zip"
        return picture_sets.receive(zipped(path, members))

    return make
