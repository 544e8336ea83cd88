"""LoRA files of every usual layout are read as the same factors; others are refused by name."""

import math
import struct

import pytest
import torch
from safetensors.torch import save_file

from engine.core.errors import BadInput, ModelMismatch
from engine.models.adapters import canonical, open_lora, weights_for
from tests.loras import LINEAR, factors, kohya_file, peft_folder


def delta(lora, module):
    a, b = lora.factors(canonical(module))
    return a @ b


def test_layouts_give_one_delta(tmp_path):
    pairs = factors()
    peft = open_lora(peft_folder(tmp_path / "peft", pairs, lora_alpha=6))
    kohya = open_lora(kohya_file(tmp_path / "k.safetensors", pairs, alpha=6))
    named = {}
    for name, (up, down) in pairs.items():
        named[f"unet.{name}.lora_A.weight"] = down
        named[f"unet.{name}.lora_B.weight"] = up
        named[f"unet.{name}.alpha"] = torch.tensor(6.0)
    save_file(named, tmp_path / "d.safetensors")
    diffusers = open_lora(tmp_path / "d.safetensors")
    assert (peft.layout, kohya.layout, diffusers.layout) == ("peft", "kohya", "diffusers")
    for name, (up, down) in pairs.items():
        for lora in (peft, kohya, diffusers):
            torch.testing.assert_close(delta(lora, name), 2 * up @ down)


def test_a_missing_alpha_means_scale_one(tmp_path):
    pairs = factors()
    lora = open_lora(kohya_file(tmp_path / "k.safetensors", pairs))
    up, down = pairs["layers.0.to_q"]
    torch.testing.assert_close(delta(lora, "layers.0.to_q"), up @ down)


def test_rslora_and_patterns_scale_module_by_module(tmp_path):
    pairs = factors() | factors({"layers.2.to_k": (6, 6)}, rank=2)
    folder = peft_folder(
        tmp_path / "p", pairs, lora_alpha=4, use_rslora=True,
        rank_pattern={"layers.2.to_k": 2}, alpha_pattern={"layers.0.to_v": 9},
    )  # fmt: skip
    lora = open_lora(folder)
    expected = {
        "layers.0.to_q": 4 / math.sqrt(3),
        "layers.0.to_v": 9 / math.sqrt(3),
        "layers.2.to_k": 4 / math.sqrt(2),
    }
    for name, scale in expected.items():
        up, down = pairs[name]
        torch.testing.assert_close(delta(lora, name), scale * up @ down)


def test_a_negative_alpha_turns_the_sign(tmp_path):
    pairs = factors()
    lora = open_lora(kohya_file(tmp_path / "k.safetensors", pairs, alpha=-3))
    up, down = pairs["layers.1.to_q"]
    torch.testing.assert_close(delta(lora, "layers.1.to_q"), -up @ down)


def test_convolutions_are_flattened_and_their_kernel_is_kept(tmp_path):
    up, down = torch.randn(8, 2, 1, 1), torch.randn(2, 4, 3, 3)
    lora = open_lora(peft_folder(tmp_path / "p", {"conv": (up, down)}))
    layer = lora.layers["conv"]
    assert (layer.out_features, layer.in_features, layer.kernel) == (8, 36, (3, 3))
    a, b = lora.factors("conv")
    torch.testing.assert_close(a @ b, up[..., 0, 0] @ down.flatten(1))


def test_embeddings_and_conv1d_are_turned(tmp_path):
    a, b = torch.randn(3, 50), torch.randn(6, 3)
    folder = peft_folder(
        tmp_path / "p",
        extra={
            "base_model.model.wte.lora_embedding_A": a,
            "base_model.model.wte.lora_embedding_B": b,
        },
        fan_in_fan_out=True,
    )
    lora = open_lora(folder)
    assert lora.layers["wte"].is_turned
    assert lora.layers["layers_0_to_q"].is_turned
    torch.testing.assert_close(delta(lora, "wte"), b @ a)


def test_what_is_no_factor_is_listed_and_not_lost(tmp_path):
    head = {"base_model.model.classifier.weight": torch.zeros(3, 5)}
    lora = open_lora(peft_folder(tmp_path / "p", extra=head))
    assert lora.extra == {"base_model.model.classifier.weight": 60}
    assert set(lora.extra_tensors()) == set(head)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("base_model.model.x.lora_magnitude_vector", "DoRA"),
        ("lora_unet_x.dora_scale", "DoRA"),
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("base_model.model.x.ia3_l", r"\(IA\)3"),
        ("base_model.model.x.vera_lambda_b", "VeRA"),
    ],
)
def test_other_adapters_are_refused_by_name_of_a_key(tmp_path, key, kind):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelMismatch, match=kind):
        open_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "LoHa"),
        ({"peft_type": "LOKR"}, "LoKr"),
        ({"peft_type": "IA3"}, r"\(IA\)3"),
        ({"peft_type": "VERA"}, "VeRA"),
        ({"peft_type": "BOFT"}, "BOFT"),
    ],
)
def test_other_adapters_are_refused_by_their_config(tmp_path, config, kind):
    with pytest.raises(ModelMismatch, match=kind):
        open_lora(peft_folder(tmp_path / "p", **config))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_with_the_key(tmp_path, value):
    pairs = factors()
    pairs["layers.0.to_v"][0][1, 1] = value
    lora = open_lora(peft_folder(tmp_path / "p", pairs))
    with pytest.raises(BadInput, match=r"layers\.0\.to_v"):
        lora.factors("layers_0_to_v")


def test_quantised_factors_are_refused(tmp_path):
    pairs = {"x": (torch.ones(4, 2, dtype=torch.int8), torch.ones(2, 4, dtype=torch.int8))}
    with pytest.raises(BadInput, match="quantised"):
        open_lora(peft_folder(tmp_path / "p", pairs))


@pytest.mark.parametrize("field", ["r", "lora_alpha"])
@pytest.mark.parametrize("value", [0, -1, "8", True, 1e9])
def test_an_odd_config_is_refused(tmp_path, field, value):
    with pytest.raises(BadInput, match=field):
        open_lora(peft_folder(tmp_path / "p", **{field: value}))


def test_half_a_pair_and_ranks_that_do_not_fit_are_refused(tmp_path):
    save_file({"unet.x.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="second factor"):
        open_lora(tmp_path / "a.safetensors")
    odd = {"x": (torch.zeros(4, 3), torch.zeros(2, 4))}
    with pytest.raises(BadInput, match="do not fit"):
        open_lora(peft_folder(tmp_path / "p", odd))


def test_a_header_of_a_terabyte_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 10**12) + b"{}" + bytes(100))
    with pytest.raises(BadInput, match="cut short"):
        open_lora(path)


def test_tensors_that_overlap_are_refused(tmp_path):
    header = (
        b'{"a.lora_A.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
        b'"a.lora_B.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]}}'
    )
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    with pytest.raises(BadInput, match="overlaps"):
        open_lora(path)


def test_a_pickle_under_another_name_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04" + bytes(60))
    with pytest.raises(BadInput, match="pickle"):
        open_lora(tmp_path / "x.safetensors")
    folder = peft_folder(tmp_path / "p")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadInput, match=r"adapter_model\.bin"):
        open_lora(folder)


def test_a_pattern_is_never_run_as_an_expression(tmp_path):
    lora_folder = peft_folder(tmp_path / "p", alpha_pattern={"(a+)+$": 4})
    with pytest.raises(BadInput, match="plain name"):
        open_lora(lora_folder)


def test_modules_find_their_weights_whatever_the_layout():
    state = {
        "unet.down.0.to_q.weight": torch.zeros(1),
        "text_encoder.encoder.layers.0.fc1.weight": torch.zeros(1),
    }
    modules = [
        canonical("lora_unet_down_0_to_q"),
        canonical("unet.down.0.to_q"),
        canonical("lora_te_text_model_encoder_layers_0_fc1"),
    ]
    found = weights_for(state, modules)
    assert set(found.values()) == set(state)
    with pytest.raises(ModelMismatch, match="nowhere"):
        weights_for(state, ["nowhere"])


def test_only_the_header_is_read_at_first(tmp_path, monkeypatch):
    from engine.models import adapters

    monkeypatch.setattr(adapters.Lora, "_tensor", lambda *_: pytest.fail("a tensor was read"))
    lora = open_lora(peft_folder(tmp_path / "p"))
    assert set(lora.layers) == {canonical(name) for name in LINEAR}
