"""LoRA files of every usual layout are read as the same factors; others are refused by name."""

import json
import math
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.core.errors import BadInput, ModelMismatch, OutOfBudget
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


PATTERNS = {
    "plain": {"layers.0.to_q": 5},
    "the end of a name": {"to_q": 5},
    "overlapping, the general one first": {"to_q": 5, "layers.0.to_q": 7},
    "overlapping, the special one first": {"layers.0.to_q": 7, "to_q": 5},
    "an expression": {r"layers\.\d+\.to_[qk]": 5, "to_v": 7},
    "anchored": {"^layers.0.to_q": 5, "^to_v": 7},
    "alternatives": {"to_q|to_v": 5},
    "no module": {"to_out": 5, "o_q": 6, "layers.0": 7},
}


@pytest.mark.parametrize("alphas", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("ranks", [{}, {"layers.1.to_q": 4, "to_q": 2}], ids=["", "ranks"])
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.filterwarnings("ignore:The following")
def test_patterns_are_read_as_peft_reads_them(tmp_path, alphas, ranks, use_rslora):
    """The oracle is PEFT, which opens the same folder and says what each delta is."""
    from peft import PeftModel

    names = [f"layers.{i}.{name}" for i in range(2) for name in ("to_q", "to_v")]
    sizes = {name: ranks.get(name, ranks.get("to_q", 3) if "to_q" in name else 3) for name in names}
    pairs = {name: (torch.randn(8, rank), torch.randn(rank, 10)) for name, rank in sizes.items()}
    folder = peft_folder(
        tmp_path / "p", pairs, r=3, lora_alpha=12, target_modules=["to_q", "to_v"],
        alpha_pattern=alphas, rank_pattern=ranks, use_rslora=use_rslora,
    )  # fmt: skip
    layers = [nn.ModuleDict({name: nn.Linear(10, 8) for name in ("to_q", "to_v")}) for _ in "ab"]
    model = PeftModel.from_pretrained(nn.ModuleDict({"layers": nn.ModuleList(layers)}), folder)
    lora = open_lora(folder)
    for name in names:
        module = model.base_model.model.get_submodule(name)
        torch.testing.assert_close(delta(lora, name), module.get_delta_weight("default"))


def test_a_rank_that_the_config_does_not_state_is_refused_as_peft_refuses_it(tmp_path):
    with pytest.raises(BadInput, match="rank 3, and the config says 16"):
        open_lora(peft_folder(tmp_path / "p", r=16))


def test_an_expression_that_would_run_for_years_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.models._ranks.SECONDS", 0.1)
    name = "a" * 60 + "!"
    folder = peft_folder(
        tmp_path / "p", {name: (torch.ones(4, 2), torch.ones(2, 4))},
        alpha_pattern={"(a|aa)+": 4},
    )  # fmt: skip
    with pytest.raises(OutOfBudget, match="takes too long"):
        open_lora(folder)


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "a" * 1000, "[z-a]"])
def test_what_is_no_expression_is_refused(tmp_path, pattern):
    with pytest.raises(BadInput, match="no regular expression"):
        open_lora(peft_folder(tmp_path / "p", alpha_pattern={pattern: 4}))


@pytest.mark.parametrize("patterns", ["to_q", {"to_q": "8"}, {"to_q": True}, {"to_q": None}])
def test_a_pattern_without_a_number_is_refused(tmp_path, patterns):
    with pytest.raises(BadInput, match="alpha_pattern"):
        open_lora(peft_folder(tmp_path / "p", alpha_pattern=patterns))


# ---------------------------------------------------------------------- files of diffusers


def test_each_network_of_a_pipeline_has_the_scale_that_diffusers_wrote(tmp_path):
    """diffusers puts one config a network into the header; the text encoder's counts for it."""
    up, down = torch.randn(4, 2), torch.randn(2, 4)
    told = {"unet.r": 2, "unet.lora_alpha": 6, "text_encoder.r": 2, "text_encoder.lora_alpha": 10}
    tensors = {}
    for head in ("unet.down.to_q", "text_encoder.layers.0.q_proj"):
        tensors |= {f"{head}.lora_A.weight": down.clone(), f"{head}.lora_B.weight": up.clone()}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    lora = open_lora(path)
    assert {name: layer.scale for name, layer in lora.layers.items()} == {
        "down_to_q": 3.0,
        "text_encoder_layers_0_q_proj": 5.0,
    }


def sgm_names(unet):
    """The names of a UNet's weights in the original code, by diffusers' own conversion."""
    from diffusers.loaders.lora_conversion_utils import _convert_unet_lora_key
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers as mapped

    places = [f"input_blocks_{i}_{j}" for i in range(1, 6) for j in range(2)]
    places += [f"middle_block_{i}" for i in range(3)]
    places += [f"output_blocks_{i}_{j}" for i in range(6) for j in range(2)] + ["output_blocks_2_2"]
    attention = [
        *("proj_in", "proj_out"),
        *(f"transformer_blocks_0_attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")),
        *("transformer_blocks_0_ff_net_0_proj", "transformer_blocks_0_ff_net_2"),
    ]
    resnet = ["in_layers_2", "emb_layers_1", "out_layers_3", "skip_connection"]
    named = {}
    for place in places:
        part = int(place[-1])
        for rest in (resnet, attention, ["conv"])[part if "middle" not in place else part % 2]:
            named[f"lora_unet_{place}_{rest}"] = None
    for extra in (
        "input_blocks_3_0_op",
        "input_blocks_0_0",
        "out_2",
        "time_embed_0",
        "label_emb_0_2",
    ):
        named[f"lora_unet_{extra}"] = None
    found = {}
    for name in named:
        (converted,) = mapped({f"{name}.lora_down.weight": name}, unet.config)
        found[name] = _convert_unet_lora_key(converted.removesuffix(".lora_down.weight"))
    return found


@pytest.mark.slow
def test_kohya_files_of_xl_go_by_the_names_of_diffusers(tmp_path):
    """Every layer of a small XL UNet, against diffusers' own conversion of the names."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=8,
        block_out_channels=(16, 32), cross_attention_dim=32, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    state = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
    theirs = {name: found.removeprefix("unet.") for name, found in sgm_names(unet).items()}
    present = {name: found for name, found in theirs.items() if f"unet.{found}.weight" in state}
    assert len(present) > 70
    tensors = {}
    for name, found in present.items():
        weight = state[f"unet.{found}.weight"]
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, *weight.shape[1:])
        tensors[f"{name}.lora_up.weight"] = torch.randn(len(weight), 2, *[1] * (weight.ndim - 2))
    save_file(tensors, tmp_path / "xl.safetensors")
    lora = open_lora(tmp_path / "xl.safetensors")
    names = weights_for(state, lora.layers)
    assert sorted(names.values()) == sorted(f"unet.{found}.weight" for found in present.values())


def test_a_layer_named_twice_is_refused(tmp_path):
    up, down = torch.ones(4, 2), torch.ones(2, 4)
    tensors = {}
    for name in ("input_blocks_1_1_proj_in", "down_blocks_0_attentions_0_proj_in"):
        tensors |= {f"lora_unet_{name}.lora_down.weight": down.clone()}
        tensors |= {f"lora_unet_{name}.lora_up.weight": up.clone()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match="twice"):
        open_lora(tmp_path / "x.safetensors")


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
