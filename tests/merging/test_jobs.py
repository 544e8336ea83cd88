"""The jobs on a tiny checkpoint in the real layout, with random adapters from folders."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.job import Done, Failed, Job, Progress
from engine.core.patch import Patch
from engine.core.recipe import ModelRef
from engine.merging.reversible_merging import algorithm, applied, tasks
from engine.merging.reversible_merging.collection import collect
from engine.models.library import MODELS, load
from tests.loras import factors, peft_folder

TARGET = "engine.merging.reversible_merging.algorithm"
has_tasks = pytest.mark.skipif(tasks.KEY not in MODELS, reason="the task adapters do not ship here")


@pytest.fixture
def go(run_job, tiny, looks):
    """`go("run", p=1)`: the result of an action on the tiny checkpoint."""

    def one(action: str, **settings):
        params = {"model": ModelRef(tiny), "adapters": looks, **settings}
        if action in ("run", "sweep", "revert"):
            params = {"steps": 2, **params}
        seen = run_job(Job(f"{TARGET}:{action}", params, 5))
        assert isinstance(seen[-1], Done)
        assert any(isinstance(event, Progress) for event in seen)
        return seen[-1].result

    return one


def rows(found):
    return {row.kind: row.pictures for row in found.rows}


def test_at_the_largest_p_every_picture_is_the_adapters_own(go):
    found = go("run", p=2)
    drawn = rows(found)
    assert drawn["own"].shape == (3, 64, 64, 3)
    assert np.abs(drawn["own"].astype(int) - drawn["rebuilt"]).max() <= 1
    assert max(found.errors) < 1e-6
    assert found.trip.relative_error < 1e-6
    assert found.storage > 1


def test_at_p_zero_all_pictures_are_the_average(go):
    found = go("run", p=0, merge="average")
    drawn = rows(found)
    np.testing.assert_array_equal(drawn["rebuilt"][0], drawn["rebuilt"][1])
    assert np.abs(drawn["merged"].astype(int) - drawn["rebuilt"]).max() <= 1
    assert len({picture.tobytes() for picture in drawn["own"]}) == 3


def test_the_errors_fall_with_p(go):
    errors = [max(go("run", p=p).errors) for p in range(3)]
    assert errors == sorted(errors, reverse=True)


def test_the_film_ends_at_the_originals(go):
    film = go("sweep")
    assert film.frames.shape == (3, 3, 64, 64, 3)
    assert np.abs(film.frames[:, -1].astype(int) - film.own).max() <= 1
    assert list(film.storages) == sorted(film.storages)


def test_weighing_needs_no_base(go):
    found = go("weigh", storage=1.0)
    assert found.chosen_storage <= 1
    assert len(found.survey.names) == 3


def test_reverting_shows_base_own_merged_and_rebuilt(go):
    found = go("revert", adapter="look1", p=2, prompts="a cat; a dog")
    assert [row.kind for row in found.rows] == ["base", "own", "merged", "rebuilt"]
    drawn = rows(found)
    assert np.abs(drawn["own"].astype(int) - drawn["rebuilt"]).max() <= 1
    assert not np.array_equal(drawn["own"], drawn["base"])


def test_a_baked_merge_comes_off_bit_for_bit_and_subtracting_does_not(go, tiny):
    found = go("bake", merge="sum")
    assert found.before == found.undone != found.after
    assert found.undo.equal_bits == 1
    assert [lost.number_format for lost in found.lost] == ["fp32", "fp16", "bf16"]
    assert all(lost.share > 0.01 for lost in found.lost)
    assert all(lost.patch_share == 0 for lost in found.lost)
    state = dict(load(ModelRef(tiny)).model.state_dict())
    back = found.patch.undo(found.patch.apply(state))
    assert all(torch.equal(back[name], state[name]) for name in found.patch.before)
    assert isinstance(found.patch, Patch)


@pytest.mark.parametrize("form", algorithm.FORMS)
def test_every_form_is_written_and_read_back(go, form):
    found = go("export", form=form, p=1)
    assert found.files or found.texts
    assert found.read_back < 1e-5


@pytest.mark.parametrize("form", ["bundle", "peft", "kohya"])
def test_a_file_says_how_much_of_the_adapters_it_misses(go, form):
    """A file of p = 0 holds the mean alone, however well it is read back."""
    part, whole = (go("export", form=form, p=p).error for p in (0, 2))
    assert whole < 1e-5
    assert 0.1 < part < 2


def test_a_rebuilt_kohya_file_draws_in_diffusers_as_here(go, tiny, looks, tmp_path):
    from diffusers import StableDiffusionPipeline

    found = go("export", form="kohya", p=2, adapter="look1")
    file = next(iter(found.files.values()))
    (tmp_path / file.name).write_bytes(file.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionPipeline.from_pretrained(tiny, local_files_only=True)
        pipe.load_lora_weights(tmp_path / file.name)
        pipe.fuse_lora()
    bundle, collection = load(ModelRef(tiny)), collect(looks)
    state = dict(bundle.model.state_dict())
    names = applied.names_in(state, collection)
    ours = applied.baked(state, collection, names, algorithm.own(collection, 1))
    theirs = {n.replace(".base_layer", ""): t for n, t in pipe.unet.state_dict().items()}
    for name, tensor in ours.items():
        other = theirs[name.removeprefix("unet.")]
        torch.testing.assert_close(tensor, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("action", "settings", "said"),
    [
        ("run", {"p": 9}, "p must be from 0 to 2"),
        ("run", {"p": True}, "p must be a whole number"),
        ("run", {"merge": "soup"}, "no merge called"),
        ("run", {"weight": float("nan")}, "weight must be"),
        ("run", {"steps": 0}, "steps must be"),
        ("run", {"prompt": "x" * 2000}, "prompt"),
        ("run", {"adapters": ["/nowhere/at-all"]}, "no such model"),
        ("weigh", {"storage": 0.01}, "Even p = 0"),
        ("revert", {"adapter": "nobody"}, "not among"),
        ("revert", {"prompts": " ; "}, "prompts"),
        ("count", {}, "task"),
        ("export", {"form": "pickle"}, "no form"),
        ("bake", {"density": 2.0}, "density must be"),
    ],
)
def test_bad_settings_get_a_sentence(run_job, tiny, looks, action, settings, said):
    params = {"model": ModelRef(tiny), "adapters": looks, **settings}
    *_, last = run_job(Job(f"{TARGET}:{action}", params, 5), may_fail=True)
    assert isinstance(last, Failed)
    assert not last.error_id, last.detail
    assert said.lower() in last.message.lower()
    assert last.advice


def test_adapters_of_another_model_are_refused_with_the_module(run_job, tiny, tmp_path):
    other = str(peft_folder(tmp_path / "other", factors()))
    params = {"model": ModelRef(tiny), "adapters": [other], "p": 0}
    *_, last = run_job(Job(f"{TARGET}:run", params, 5), may_fail=True)
    assert "layers_0_to_q" in last.message


@has_tasks
def test_counting_gives_every_p_and_ends_at_the_adapters_own(run_job):
    names = ["eight-tasks/digits", "eight-tasks/corner"]
    params = {"adapters": names, "pictures": 20, "rivals": ["joint"], "merges": ["ties"]}
    found = run_job(Job(f"{TARGET}:count", params, 5))[-1].result
    assert [score.budget for score in found.rebuilt] == [0, 1]
    assert found.rebuilt[-1].right == found.own.right
    assert found.merged[0].way == "ties"
    again = run_job(Job(f"{TARGET}:count", {**params, "after_training": True}, 5))[-1].result
    assert again.rebuilt[-1].right == found.own.right


@has_tasks
def test_a_task_adapter_is_reverted_on_pictures_of_its_task(run_job):
    params = {"adapters": ["eight-tasks/digits", "eight-tasks/corner"], "adapter": "corner", "p": 1}
    found = run_job(Job(f"{TARGET}:revert", params, 5))[-1].result
    assert found.question
    assert [row.lines for row in found.rows if row.kind == "own"] == [
        row.lines for row in found.rows if row.kind == "rebuilt"
    ]


def test_nothing_is_written_into_the_shared_base(go, tiny):
    state = load(ModelRef(tiny)).model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    go("run", p=1)
    after = load(ModelRef(tiny)).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert Path(tiny).is_dir()
