"""The making of the networks family's checkpoints: a few steps of each build, and its card."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.networks import _brain_models, _meft_models, _revcol, _revcol_world
from engine.zoo import meft, revcol, unet3d
from engine.zoo.training import Options


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where builds put their checkpoints, in place of assets/models."""
    folder = tmp_path / "models"
    for module in (meft, revcol, unet3d):
        monkeypatch.setattr(module, "MODELS", folder)
    return folder


def card(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


def few() -> Options:
    return Options(steps=2, device="cpu")


@pytest.mark.slow
def test_digits_are_learnt_and_exported(tmp_path: Path, shelf: Path):
    meft.build_digits(tmp_path, few())
    folder = shelf / _meft_models.DIGITS
    assert 0 <= card(folder)["measured"]["test accuracy"] <= 1
    encoder = _meft_models._read(_meft_models.DIGITS, folder, (), torch.device("cpu"))
    assert encoder.reads_digits
    assert encoder.head is not None


@pytest.mark.slow
def test_captions_are_learnt_and_exported_with_their_tokenizer(tmp_path: Path, shelf: Path):
    meft.build_captions(tmp_path, few())
    folder = shelf / _meft_models.CAPTIONS
    encoder = _meft_models._read(_meft_models.CAPTIONS, folder, (), torch.device("cpu"))
    batch = encoder.batch(["a cat left of a dog", "zebra"])
    assert int(batch.tokens[0, 0]) == meft.CLS
    assert not (batch.tokens == 1).any(), "Words that are not known fall into letters."


@pytest.mark.slow
def test_a_unet_is_trained_on_the_back_and_measured_on_the_front(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unet3d, "SIDE", 16)
    small = unet3d.nets.UNetConfig(widths=(8, 16), blocks=1, expansion=1)
    monkeypatch.setattr(unet3d, "CONFIG", small)
    unet3d.build_unet(tmp_path, few())
    folder = shelf / _brain_models.KEY
    assert len(card(folder)["measured"]) == 4
    assert json.loads((folder / "config.json").read_text())["widths"] == [8, 16]


@pytest.mark.slow
def test_a_revcol_network_loads_strictly_after_its_export(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = np.random.default_rng(0).integers(0, 256, (40, 28, 28)).astype(np.uint8)
    files = {revcol.FILES[0]: rows.tobytes(), revcol.FILES[1]: bytes(range(10)) * 4}

    def read(folder: Path, name: str) -> np.ndarray:
        head = b"\0" * (16 if "images" in name else 8)
        return np.frombuffer(head + files[name], np.uint8)

    monkeypatch.setattr(revcol, "_idx", read)
    monkeypatch.setattr(revcol, "BATCH", 4)
    monkeypatch.setattr(revcol, "DECODED", 2)
    monkeypatch.setattr(revcol, "examined", lambda network: {"nothing": 0.0})
    revcol.build_revcol(tmp_path, few())
    state = _revcol_world._weights.read(shelf / _revcol_world.KEY / "model.safetensors")
    network = _revcol.from_state(state)
    assert network.heads_after == (1, 2, 3, 4)
    assert torch.isfinite(network(torch.rand(1, 3, 32, 32)).logits[-1]).all()
