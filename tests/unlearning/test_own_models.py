"""Classifiers of other makers: timm where it is installed, and one of the size of ViT-B."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.core.job import finish
from engine.core.patch import Patch, state_fingerprint
from engine.core.settings import checked
from engine.unlearning._case import open_classifier
from engine.unlearning.corrective import algorithm as corrective
from engine.unlearning.smoothinv import algorithm as smoothinv
from engine.unlearning.ssd import algorithm as ssd
from tests.unlearning.conftest import CLASSES

MEGABYTE = 1 << 20


SMALL = {"num_classes": 3, "in_chans": 3, "stem_width": 4, "channels": (4, 8, 8, 8)}


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """A tiny model of timm as its own library writes it."""
    timm = pytest.importorskip("timm", reason="timm is optional: requirements-classifiers.txt")
    folder = tmp_path / "timm"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", **SMALL)
    seen = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    told = {"label_names": list(CLASSES), "pretrained_cfg": seen}
    timm.models.save_for_hf(model, folder, model_config=told, safe_serialization=True)
    return folder


def test_a_model_of_timm_forgets_and_comes_back(timm_folder, picture_set, tmp_path):
    """The edited checkpoint is read by timm itself, and the undo file brings every bit back."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file

    bundle = open_classifier(str(timm_folder))
    assert (bundle.size, bundle.mean, bundle.classes) == ((16, 16), (0.5,) * 3, CLASSES)
    settings = {
        "model": str(timm_folder),
        "forget": "uploaded",
        "pictures": picture_set({"left": 4}),
        "retain": picture_set({"plain": 4, "right": 4}),
        "unit": "sample",
        "alpha": 1.05,
    }
    found = finish(ssd.run(seed=0, curve=0, **checked(ssd.run, settings)))
    assert found.undo.exactness is Exactness.BITWISE
    assert found.changed.weights > 0
    made = finish(ssd.export(seed=0, form="checkpoint", **checked(ssd.export, settings)))
    assert made.is_equal
    for name, file in made.files.items():
        (tmp_path / name).write_bytes(file.data)
    theirs = timm.create_model("resnet10t", **SMALL)
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    edited = {f"{bundle.prefix}{n}": v for n, v in theirs.state_dict().items()}
    assert state_fingerprint(edited) == found.after
    undone = Patch.load(tmp_path / "undo.safetensors").undo(edited)
    assert state_fingerprint(undone) == found.before


def test_an_edited_checkpoint_is_read_by_the_users_library(own_model, picture_set, tmp_path):
    """Equal to the edit where it was edited, bit for bit the old one elsewhere."""
    from transformers import AutoModelForImageClassification

    settings = {
        "model": own_model,
        "forget": "uploaded",
        "pictures": picture_set({"left": 4}),
        "retain": picture_set({"plain": 4, "right": 4}),
        "unit": "sample",
        "alpha": 1.05,
        "form": "checkpoint",
    }
    found = finish(ssd.export(seed=0, **checked(ssd.export, settings)))
    for name, file in found.files.items():
        (tmp_path / name).write_bytes(file.data)
    for name, text in found.texts.items():
        (tmp_path / name).write_text(text)
    edited = AutoModelForImageClassification.from_pretrained(tmp_path).state_dict()
    original = open_classifier(own_model).model.state_dict()
    patch = Patch.load(tmp_path / "undo.safetensors")
    assert patch.before
    for name, tensor in original.items():
        assert torch.equal(edited[name], tensor) == (name not in patch.before)
    assert state_fingerprint(patch.undo(edited)) == state_fingerprint(original)
    assert json.loads((tmp_path / "card.json").read_text())["method"] == "SSD"


WORK = """
    import json, sys, threading, time
    from pathlib import Path

    def resident():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10

    seen, going = [], True

    def watch():
        while going:
            seen.append(resident())
            time.sleep(0.01)

    from engine.core.job import finish
    from engine.unlearning.ssd import algorithm as ssd

    watcher = threading.Thread(target=watch)
    watcher.start()
    folder, retain = sys.argv[1:]
    made = ssd.importances(seed=0, model=folder, retain=retain, unit="sample", folder=folder)
    found = finish(made)
    going = False
    watcher.join()
    print(json.dumps({"most": max(seen), "weights": found.weights, "file": found.saved_as}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_importances_of_a_vit_b_are_streamed_to_disk_within_a_gigabyte(picture_set, tmp_path):
    """344 MB of sums. Pages of the file itself can be given back at any time, and do not count."""
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path / "vit"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(num_labels=3))
    model.save_pretrained(folder)
    weights = sum(parameter.numel() for parameter in model.parameters())
    del model
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
        )
    )
    config = json.loads((folder / "config.json").read_text())
    classes = {"0": "plain", "1": "left", "2": "right"}
    config |= {"id2label": classes, "label2id": {name: int(n) for n, name in classes.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    retain = picture_set({"plain": 1, "left": 1})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WORK), str(folder), retain],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["weights"] == weights
    assert (folder / told["file"]).stat().st_size > 4 * weights
    assert told["most"] < 1024 * MEGABYTE


@pytest.mark.parametrize(
    ("job", "settings"),
    [
        (ssd.run, {"retain": "pictures:x"}),
        (ssd.run, {"test": "pictures:x"}),
        (corrective.run, {"test": "pictures:x"}),
        (smoothinv.run, {"test": "pictures:x"}),
        (smoothinv.scan, {"test": "pictures:x"}),
    ],
    ids=["ssd-retain", "ssd-test", "corrective-test", "smoothinv-test", "smoothinv-scan"],
)
def test_pictures_that_a_shipped_model_does_not_use_are_refused(job, settings):
    with pytest.raises(BadInput, match="comes with its own pictures"):
        finish(job(seed=0, **checked(job, settings)))
