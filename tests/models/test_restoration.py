"""Restoration checkpoints: our layout, the published one by its names, and what is refused."""

import json
import textwrap

import numpy as np
import pytest
import torch

from engine.core.errors import AssetMissing, BadInput, EngineError, ModelMismatch
from engine.models import daclip
from engine.models.library import ModelRef, load
from engine.models.restoration import condition, network
from tests.tiny_restorer import (
    CONTEXT,
    SIDE,
    TOWER,
    published_towers,
    published_universal,
    tiny_published,
    tiny_restorer,
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return load(ModelRef(str(tiny_restorer(tmp_path_factory.mktemp("tiny")))), "cpu", "float32")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return load(ModelRef(str(tiny_published(tmp_path_factory.mktemp("pub")))), "cpu", "float32")


def pictures(h=20, w=27, seed=0):
    return torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_our_layout_tells_schedule_targets_and_tasks(ours):
    assert ours.schedule.path.prior_std == pytest.approx(50 / 255)
    assert ours.fit_targets == ("noise", "data", "velocity")
    assert ours.task("rain") == 1
    assert ours.task("anything else") == len(ours.tasks)


@pytest.mark.parametrize("target", ["noise", "data", "velocity"])
def test_every_target_has_its_own_head_at_any_size(ours, target):
    x, mu = pictures(), pictures(seed=1)
    told = condition(ours, mu, "rain")
    out = network(ours, target)(x, torch.full((2,), 37.5), mu=mu, **told)
    assert out.shape == x.shape
    others = [t for t in ours.fit_targets if t != target]
    assert all(
        not torch.equal(out, network(ours, t)(x, torch.full((2,), 37.5), mu=mu, **told))
        for t in others
    )


def test_task_changes_the_answer(ours):
    x, mu, t = pictures(), pictures(seed=1), torch.full((2,), 50.0)
    net = network(ours, "noise")
    answers = [net(x, t, mu=mu, **condition(ours, mu, task)) for task in ("rain", "noise")]
    assert not torch.equal(*answers)


def test_the_heads_know_the_levels_of_the_schedule(ours):
    path, times = ours.schedule.path, torch.tensor([0.0, 12.0, 60.5, 100.0])
    a, s = ours.part("unet").levels(times)
    np.testing.assert_allclose(a.flatten(), path.a(times.double().numpy()), rtol=1e-6)
    np.testing.assert_allclose(s.flatten(), path.s(times.double().numpy()), rtol=1e-5)


def test_a_network_that_says_nothing_returns_the_damaged_picture(tmp_path):
    """Its data head does; the noise head calls all it sees noise of the stationary level."""
    from engine.sampling.mr_sampler.restoring import Restorer

    silent = load(ModelRef(str(tiny_restorer(tmp_path / "tiny"))), "cpu", "float32")
    for parameter in silent.part("unet").inner.conv_out.parameters():
        parameter.zero_()
    mu = pictures(32, 32)
    kept, _ = Restorer(silent, "data").restored("mrs_ode_d_2", mu, "rain", 10, 0)
    drawn, _ = Restorer(silent, "noise").restored("mrs_ode_d_2", mu, "rain", 10, 0)
    assert float((kept - mu).std()) < 12 / 255
    assert float((drawn - mu).std()) > 36 / 255


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fit_targets": ["noise"]}, "channels in"),
        ({"fit_targets": ["taste"]}, "must list fit_targets"),
        ({"tasks": ["noise"]}, "channels in"),
        ({"tasks": 3}, "must list its tasks"),
        ({"schedule": {"kind": "square"}}, "not usable"),
        ({"schedule": {"steps": 1e9}}, "not usable"),
        ({"schedule": {"speed": 3}}, "no schedule"),
        ({"patch": 1}, "channels in"),
        ({"patch": "2"}, "patch"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change, said):
    folder = tiny_restorer(tmp_path / "tiny")
    about = json.loads((folder / "restoration.json").read_text())
    (folder / "restoration.json").write_text(json.dumps(about | change))
    with pytest.raises((BadInput, ModelMismatch), match=said):
        load(ModelRef(str(folder)), "cpu", "float32")


# ---------------------------------------------------------------------- the published network


@pytest.mark.slow
def test_every_published_name_finds_its_place(published):
    held = published.part("unet").state_dict()
    for name, tensor in published_universal().items():
        torch.testing.assert_close(held[name], tensor, rtol=0, atol=0)
    towers = published.part("daclip").state_dict()
    for name, tensor in published_towers().items():
        if name.startswith("visual"):
            torch.testing.assert_close(towers[name], tensor, rtol=0, atol=0)


def test_published_network_restores_pictures_of_any_size(published):
    x, mu = pictures(37, 50), pictures(37, 50, seed=1)
    told = condition(published, mu, "unknown")
    assert told["image_context"].shape == told["text_context"].shape == (2, CONTEXT)
    out = network(published, "noise")(x, torch.full((2,), 99.0), mu=mu, **told)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()
    other = condition(published, pictures(37, 50, seed=5), "unknown")
    assert not torch.equal(
        out, network(published, "noise")(x, torch.full((2,), 99.0), mu=mu, **other)
    )


def test_the_tower_is_clip_as_transformers_computes_it(published):
    """The same weights under the names of transformers, which is code of other authors."""
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=TOWER,
        intermediate_size=4 * TOWER,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=SIDE,
        patch_size=8,
        projection_dim=CONTEXT,
        hidden_act="gelu",
    )
    theirs = CLIPVisionModelWithProjection(config).eval()
    ours = published_towers()
    renamed = {}
    for name in theirs.state_dict():
        renamed[name] = _of_clip(name, ours)
    theirs.load_state_dict(renamed)
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = theirs(pixel_values=x).image_embeds
        found, _ = published.part("daclip").visual(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def _of_clip(name: str, ours: dict[str, torch.Tensor]) -> torch.Tensor:
    """The tensor of our file that transformers calls `name`."""
    if name == "visual_projection.weight":
        return ours["visual.proj"].T
    plain = name.removeprefix("vision_model.")
    whole = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    if plain in whole:
        return ours[f"visual.{whole[plain]}"]
    for theirs, mine in (
        ("pre_layrnorm", "ln_pre"),
        ("post_layernorm", "ln_post"),
        ("encoder.layers", "transformer.resblocks"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("self_attn", "attn"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ):
        plain = plain.replace(theirs, mine)
    for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
        if part in plain:
            joined = plain.replace(f"{part}.", "in_proj_")
            return ours[f"visual.{joined}"].chunk(3)[index]
    return ours[f"visual.{plain}"]


def test_the_first_block_receives_the_last_state_of_the_controller(published):
    towers = published.part("daclip")
    mu = pictures(40, 40)
    image, degradation = towers.contexts(mu)
    x = towers._prepared(mu)
    told, hidden = towers.visual_control(x)
    torch.testing.assert_close(degradation, told)
    straight, _ = towers.visual(x, hidden)
    turned, _ = towers.visual(x, list(reversed(hidden)))
    torch.testing.assert_close(image, turned)
    assert not torch.allclose(image, straight)


def test_weights_that_were_trained_in_parallel_have_the_same_names(published, tmp_path):
    """Where they were, each name begins with "module.", those of the text side as well."""
    from safetensors.torch import save_file

    for stem, weights in (
        ("universal-ir", published_universal()),
        ("daclip_ViT-B-32", published_towers()),
    ):
        named = {f"module.{name}": value for name, value in weights.items()}
        save_file(named, tmp_path / f"{stem}.safetensors")
    found = load(ModelRef(str(tmp_path)), "cpu", "float32").model.state_dict()
    for name, tensor in published.model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_pickles_are_not_read_and_the_way_out_is_said(tmp_path):
    torch.save(published_universal(), tmp_path / "universal-ir.pth")
    torch.save({"state_dict": published_towers()}, tmp_path / "daclip_ViT-B-32.pt")
    with pytest.raises(AssetMissing, match="can run code") as refused:
        load(ModelRef(str(tmp_path)), "cpu", "float32")
    assert "engine/models/daclip.py" in refused.value.advice


@pytest.mark.slow
def test_the_lines_for_the_owner_write_what_is_read(tmp_path, monkeypatch):
    """As the module's docstring has them; only here, on files made here, are they run."""
    from safetensors.torch import save_file

    torch.save(published_universal(), tmp_path / "universal-ir.pth")
    shared = published_towers()
    shared["clip.visual.conv1.weight"] = shared["visual.conv1.weight"]  # as in the authors' file
    torch.save({"epoch": 1, "state_dict": shared}, tmp_path / "daclip_ViT-B-32.pt")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    lines = [line for line in (daclip.__doc__ or "").splitlines() if line.startswith("    ")]
    exec(textwrap.dedent("\n".join(lines)), {"torch": torch, "save_file": save_file})
    assert load(ModelRef(str(tmp_path / "folder")), "cpu", "float32").is_published


@pytest.mark.parametrize("spoil", ["missing", "surplus", "shape"])
def test_a_published_file_that_does_not_fit_is_named(tmp_path, spoil):
    from safetensors.torch import save_file

    folder = tiny_published(tmp_path / "pub")
    tensors = published_universal()
    if spoil == "missing":
        del tensors["mid_block1.block2.proj.weight"]
    elif spoil == "surplus":
        tensors["stray"] = torch.zeros(2)
    else:
        tensors["prompt_mlp.bias"] = torch.zeros(5)
    save_file(tensors, folder / "universal-ir.safetensors")
    with pytest.raises(EngineError, match=r"mid_block1|stray|prompt_mlp"):
        load(ModelRef(str(folder)), "cpu", "float32")
