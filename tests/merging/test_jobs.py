"""The jobs on a tiny checkpoint in the real layout, with random adapters from folders."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.core.job import Done, Failed, Job, Progress
from engine.core.named_file import TextFile
from engine.core.patch import Patch
from engine.core.recipe import ModelRef, Recipe
from engine.merging.reversible_merging import algorithm, applied, exports, rebuilding, tasks
from engine.merging.reversible_merging.bundle import header
from engine.merging.reversible_merging.collection import collect
from engine.merging.reversible_merging.peft_modes import MODES, WITHOUT_DENSITY
from engine.merging.reversible_merging.ways import Mix
from engine.models.adapters import canonical, open_lora, read_tensor
from engine.models.library import MODELS, load
from tests.loras import factors, kohya_file, peft_folder

TARGET = "engine.merging.reversible_merging.algorithm"
has_tasks = pytest.mark.skipif(tasks.KEY not in MODELS, reason="the task adapters do not ship here")


@pytest.fixture
def go(run_job, tiny, looks):
    """`go("run", p=1)`: the result of an action on the tiny checkpoint."""

    def one(action: str, **settings):
        params = {"adapters": looks, **settings}
        if action not in ("weigh", "count"):  # which read no base of the visitor
            params["model"] = ModelRef(tiny)
        if action in ("run", "sweep", "revert"):
            params = {"steps": 2, **params}
        seen = run_job(Job(f"{TARGET}:{action}", params, 5))
        assert isinstance(seen[-1], Done)
        assert any(isinstance(event, Progress) for event in seen)
        return seen[-1].result

    return one


def rows(found):
    return {row.kind: row.pictures for row in found.rows}


@pytest.mark.slow
def test_at_the_largest_p_every_picture_is_the_adapters_own(go):
    found = go("run", p=2)
    drawn = rows(found)
    assert drawn["own"].shape == (3, 64, 64, 3)
    assert np.abs(drawn["own"].astype(int) - drawn["rebuilt"]).max() <= 1
    assert max(found.errors) < 1e-6
    assert found.trip.relative_error < 1e-6
    assert found.storage > 1


@pytest.mark.slow
def test_at_p_zero_all_pictures_are_the_average(go):
    found = go("run", p=0, merge="average")
    drawn = rows(found)
    np.testing.assert_array_equal(drawn["rebuilt"][0], drawn["rebuilt"][1])
    assert np.abs(drawn["merged"].astype(int) - drawn["rebuilt"]).max() <= 1
    assert len({picture.tobytes() for picture in drawn["own"]}) == 3


@pytest.mark.slow
def test_the_errors_fall_with_p(go):
    errors = [max(go("run", p=p).errors) for p in range(3)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.slow
def test_the_film_ends_at_the_originals(go):
    film = go("sweep")
    assert film.frames.shape == (3, 3, 64, 64, 3)
    assert np.abs(film.frames[:, -1].astype(int) - film.own).max() <= 1
    assert list(film.storages) == sorted(film.storages)


@pytest.mark.slow
def test_weighing_needs_no_base(go):
    found = go("weigh", storage=1.0)
    assert found.chosen_storage <= 1
    assert len(found.survey.names) == 3


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("form", algorithm.FORMS)
def test_every_form_is_written_and_read_back(go, form):
    found = go("export", form=form, p=1)
    assert found.files
    assert found.read_back < 1e-5


@pytest.mark.parametrize("form", ["bundle", "peft", "kohya"])
def test_a_file_says_how_much_of_the_adapters_it_misses(go, form):
    """A file of p = 0 holds the mean alone, however well it is read back."""
    part, whole = (go("export", form=form, p=p).error for p in (0, 2))
    assert whole < 1e-5
    assert 0.1 < part < 2


def as_kohya(looks, folder, alpha=8.0):
    """The same adapters with the keys of Kohya's scripts, which have lost their dots."""
    made = []
    for look in looks:
        lora = open_lora(Path(look))
        pairs = {}
        for layer in lora.layers.values():
            up, down = (read_tensor(lora.path, key) for key in (layer.up, layer.down))
            pairs[layer.name] = (up, down)
        made.append(str(kohya_file(folder / f"{lora.name}.safetensors", pairs, alpha)))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("form", ["peft", "merged"])
def test_kohya_files_become_a_peft_folder_that_names_the_models_own_modules(
    go, tiny, looks, tmp_path, form
):
    """PEFT puts the folder onto the UNet, and every delta is the one that was meant."""
    from diffusers import UNet2DConditionModel
    from peft import PeftModel

    kohya = as_kohya(looks, tmp_path)
    found = go("export", form=form, p=2, adapter="look1", adapters=kohya, merge="sum", weight=1.0)
    assert found.error < 1e-5
    for file in found.files.values():
        (tmp_path / file.name).write_bytes(file.data)
    unet = UNet2DConditionModel.from_pretrained(Path(tiny) / "unet")
    model = PeftModel.from_pretrained(unet, tmp_path)
    truth = collect(kohya)
    deltas = [rebuilding.own(truth, i) for i in range(3)]
    compared = 0
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            meant = [delta[canonical(name)] for delta in deltas]
            meant = meant[1] if form == "peft" else sum(meant)
            theirs = module.get_delta_weight("default").flatten(1)
            torch.testing.assert_close(theirs, meant, atol=1e-4, rtol=1e-4)
            compared += 1
    assert compared == len(truth.modules)


def test_a_bundle_of_kohya_files_names_the_models_own_modules(go, looks, tmp_path):
    found = go("export", form="bundle", p=1, adapters=as_kohya(looks, tmp_path))
    named = {shape["name"] for shape in header(found.files["bundle"])["modules"].values()}
    assert "mid_block.attentions.0.transformer_blocks.0.attn1.to_q" in named


def test_adapters_of_two_networks_become_a_folder_for_each(go, tiny, tmp_path):
    state = load(ModelRef(tiny)).model.state_dict()
    ends = ("attn2.to_q.weight", "self_attn.q_proj.weight")
    tensors = {}
    for name, weight in state.items():
        if name.endswith(ends):
            module = name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = torch.randn(2, weight.shape[1])
            tensors[f"{module}.lora_B.weight"] = torch.randn(len(weight), 2)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        save_file({name: tensor * len(path.stem) for name, tensor in tensors.items()}, path)
    found = go("export", form="peft", p=1, adapters=[str(path) for path in paths])
    assert sorted(found.files) == [
        f"{part}/{name}"
        for part in ("text_encoder", "unet")
        for name in ("adapter_config.json", "adapter_model.safetensors")
    ]
    assert found.read_back < 1e-5
    keys = {key for file in found.files.values() if file.name.endswith("s") for key in file.read()}
    assert not any("unet." in key or "text_encoder." in key for key in keys)


def test_names_that_end_with_one_another_keep_their_ranks(tmp_path):
    """PEFT takes a name in rank_pattern for every longer name that ends with it."""
    pairs = factors({"to_q": (6, 5)}, rank=2) | factors({"deep.to_q": (6, 5)}, rank=4)
    folder = peft_folder(tmp_path / "in", pairs, r=4, lora_alpha=4, rank_pattern={"^to_q": 2},
                         alpha_pattern={"^to_q": 2})  # fmt: skip
    collection = collect([str(folder)])
    written = exports.peft(
        collection, {m: collection.loras[0].factors(m) for m in collection.modules}
    )
    out = tmp_path / "out"
    out.mkdir()
    for file in written:
        (out / file.name).write_bytes(file.data)
    again = open_lora(out)
    for name, (up, down) in pairs.items():
        a, b = again.factors(canonical(name))
        torch.testing.assert_close(a @ b, up @ down)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["merged", "bundle"])
def test_the_command_line_writes_the_names_that_other_tools_look_for(go, looks, tmp_path, form):
    from engine.__main__ import _save

    _save(go("export", form=form, p=1), Recipe("reversible_merging", "export"), tmp_path)
    told = json.loads((tmp_path / "result.json").read_text())
    assert set(told["files"].values()) <= {path.name for path in tmp_path.iterdir()}
    if form == "merged":
        assert open_lora(tmp_path).layout == "peft"
        return
    code = [sys.executable, "read_bundle.py", "bundle.safetensors", "look1"]
    subprocess.run(code, cwd=tmp_path, check=True, timeout=250)
    assert open_lora(tmp_path / "look1.safetensors").layers


def test_a_folder_for_each_network_is_written_as_folders(tmp_path):
    from engine.__main__ import _save

    files = {name: TextFile.of(name, "{}") for name in ("unet/a.json", "text_encoder/a.json")}
    _save({"files": files}, Recipe("reversible_merging", "export"), tmp_path / "out")
    assert (tmp_path / "out" / "unet" / "a.json").read_text() == "{}"


def test_exporting_a_merge_does_not_ask_for_p(go, looks):
    assert go("export", form="merged", p=60, adapters=looks[:2], merge="linear").error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_merges_called_pefts_are_pefts_own_with_unequal_scales(go, tiny, looks, tmp_path, mode):
    """The oracle is `add_weighted_adapter` on the UNet, with adapters of three different alphas."""
    from diffusers import UNet2DConditionModel
    from peft import PeftModel

    sources = []
    for i, look in enumerate(looks):
        pairs = {}
        lora = open_lora(Path(look))
        for layer in lora.layers.values():
            pairs[layer.name] = tuple(read_tensor(lora.path, key) for key in (layer.up, layer.down))
        more = {"r": 4, "lora_alpha": (4, 1, 17)[i]}
        sources.append(str(peft_folder(tmp_path / f"s{i}", pairs, **more)))
    unet = UNet2DConditionModel.from_pretrained(Path(tiny) / "unet")
    model = PeftModel.from_pretrained(unet, sources[0], adapter_name="a0")
    for i in (1, 2):
        model.load_adapter(sources[i], adapter_name=f"a{i}")
    # Without dropping, DARE draws nothing that counts.
    density = 1.0 if mode.startswith("dare") else 0.4
    more = {} if mode in WITHOUT_DENSITY else {"density": density}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(
            ["a0", "a1", "a2"], [0.6] * 3, "m", combination_type=mode, **more
        )
    ours = rebuilding.merged(collect(sources), f"peft {mode}", Mix(0.6, density))
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            theirs = module.get_delta_weight("m").flatten(1)
            torch.testing.assert_close(ours[canonical(name)], theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "ties"])
def test_peft_refuses_adapters_of_two_ranks_and_so_do_we(run_job, tiny, looks, tmp_path, mode):
    from tests.merging.conftest import unet_adapters

    other = unet_adapters(Path(tiny), tmp_path, 1, rank=2)
    params = {"model": ModelRef(tiny), "adapters": [looks[1], *other], "merge": f"peft {mode}"}
    *_, last = run_job(Job(f"{TARGET}:bake", params, 5), may_fail=True)
    assert "one rank; these have 4, 2" in last.message
    assert run_job(Job(f"{TARGET}:bake", {**params, "merge": "peft svd"}, 5))[-1].result


@pytest.mark.slow
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
    ours = applied.baked(state, collection, names, rebuilding.own(collection, 1))
    theirs = {n.replace(".base_layer", ""): t for n, t in pipe.unet.state_dict().items()}
    for name, tensor in ours.items():
        other = theirs[name.removeprefix("unet.")]
        torch.testing.assert_close(tensor, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("action", "settings", "said"),
    [
        ("run", {"p": 9}, "p must be from 0 to 2"),
        ("run", {"p": True}, "p must be a whole number"),
        ("run", {"merge": "soup"}, "merge cannot be"),
        ("run", {"weight": float("nan")}, "weight must be"),
        ("run", {"steps": 0}, "steps must be"),
        ("run", {"prompt": "x" * 2000}, "prompt"),
        ("run", {"adapters": ["/nowhere/at-all"]}, "no such adapter"),
        ("weigh", {"storage": 0.01}, "Even p = 0"),
        ("revert", {"adapter": "nobody"}, "not among"),
        ("revert", {"prompts": " ; "}, "prompts"),
        ("count", {}, "task"),
        ("export", {"form": "pickle"}, "form cannot be"),
        ("bake", {"density": 2.0}, "density must be"),
    ],
)
def test_bad_settings_get_a_sentence(run_job, tiny, looks, action, settings, said):
    params = {"adapters": looks, **settings}
    if action not in ("weigh", "count"):
        params["model"] = ModelRef(tiny)
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


@pytest.mark.slow
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
