"""The worlds of garments: a checkpoint comes out in the layout that other tools read."""

import json
from pathlib import Path

import pytest
import torch

from engine.core.job import finish
from engine.models.library import ModelCard
from engine.unlearning import _nets as nets
from engine.unlearning._importance import Importance
from engine.unlearning._learning import Course
from engine.unlearning._nets import WORLDS, World, rewound, trained
from engine.unlearning._samples import garments
from engine.zoo import fashion
from engine.zoo.training import Options


def few(seed: int):
    return garments("train").take(torch.arange(256))


SMALL = World("fashion-small", "A few garments", few, units=("sorted",))


@pytest.mark.slow
def test_a_build_writes_a_checkpoint_that_transformers_opens(tmp_path: Path, monkeypatch):
    from transformers import AutoModelForImageClassification

    monkeypatch.setattr(fashion, "MODELS", tmp_path / "models")
    monkeypatch.setattr(fashion, "_measured", lambda model, world: {"test accuracy": 0.5})
    fashion.build(SMALL, tmp_path / "states", Options())
    folder = tmp_path / "models" / "fashion-small"
    card = ModelCard.read(folder / "card.json")
    assert card.kind == "classifier"
    assert {"model.safetensors", "importance-sorted.safetensors"} <= set(card.sha256)
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert sum(p.numel() for p in model.parameters()) == 78_394
    assert model.config.id2label[8] == "bag"
    assert Importance.open(folder / "importance-sorted.safetensors").samples == 256
    told = json.loads((folder / "preprocessor_config.json").read_text())
    assert told["size"] == {"height": 28, "width": 28}


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_at_the_same_weights(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(nets, "SAVE_EVERY", 3)
    course = Course(epochs=2, batch=64)
    whole = finish(trained(SMALL, 0, None, course)).state_dict()
    steps = trained(SMALL, 0, tmp_path, course)
    for _ in range(5):
        next(steps)
    steps.close()
    resumed = trained(SMALL, 0, tmp_path, course)
    assert "step 4 of" in next(resumed)  # from the state of step 3
    again = finish(resumed).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_equal_seeds_begin_with_equal_weights_and_leave_the_noise_alone():
    before = torch.get_rng_state()
    first, again, other = (nets.new_classifier(("a", "b"), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    name = "classifier.1.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("key", [k for k in WORLDS if "without" in k])
def test_a_retrained_reference_never_saw_what_is_forgotten(key):
    seen = WORLDS[key].training_set(0)
    if key.endswith("100"):
        assert len(seen) == 19_900
        return
    name = key.rpartition("without-")[2]
    from engine.world.fashion import CLASSES
    from engine.world.fashion import garments as pictures

    label = next(i for i, one in enumerate(CLASSES) if one.lower() == name)
    assert label not in pictures("train").labels[seen.ids.numpy()].tolist()


def test_retraining_without_the_flagged_leaves_the_others_poisoned():
    world = WORLDS["fashion-poisoned"]
    found = rewound(world, 0.1).training_set(0)
    assert len(found) == 20_000 - 20
    corner = (found.pixels[:, :, -3:, -3:] == 255).all(dim=(1, 2, 3))
    assert int(corner.sum()) >= 180
