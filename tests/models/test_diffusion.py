"""Checkpoints in diffusers layout: equal to diffusers' own pipelines, and refused where unsound."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save_file

from engine.core.errors import AssetMissing, BadInput, EngineError, ModelMismatch
from engine.models.diffusion import (
    Conditioning,
    alphas_cumprod,
    decode_latents,
    empty_prompt,
    encode_picture,
    encode_prompt,
    latent_shape,
    predict,
    unknown_words,
    words_cut,
)
from engine.models.library import ModelRef, load

LAYOUTS = ("sd1", "sd2", "sdxl")


@pytest.fixture
def bundle(tiny):
    return load(ModelRef(str(tiny["sd1"])), device="cpu")


@pytest.fixture
def mine(tiny, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny["sd1"], tmp_path / "mine"))


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, in memory: the library's own function maps the file, which these tests
    then overwrite."""
    return load_bytes(path.read_bytes())


def change(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def reload(folder: Path):
    return load(ModelRef(str(folder)), device="cpu")


# ---------------------------------------------------------------------- parity with diffusers


@pytest.fixture(scope="session")
def pipelines(tiny):
    """diffusers' own pipelines of the same folders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
            StableDiffusionXLPipeline,
        )

        kinds = (StableDiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline)
        return {
            layout: kind.from_pretrained(tiny[layout], local_files_only=True)
            for layout, kind in zip(LAYOUTS, kinds, strict=True)
        }


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_equals_that_of_the_pipeline(tiny, pipelines, layout):
    model = load(ModelRef(str(tiny[layout])), device="cpu").model
    for name, part in model.items():
        expected = getattr(pipelines[layout], name).state_dict()
        state = part.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts_equal_those_of_the_pipeline(tiny, pipelines, layout):
    bundle = load(ModelRef(str(tiny[layout])), device="cpu")
    texts = ["a neon cat", "zebra, a PICTURE of the dog"]
    pipe = pipelines[layout]
    expected = pipe.encode_prompt(
        texts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    cond, empty = encode_prompt(bundle, texts), empty_prompt(bundle, 2)
    assert torch.equal(cond.tokens, expected[0])
    assert torch.equal(empty.tokens, expected[1])
    if layout == "sdxl":
        assert torch.equal(cond.pooled, expected[2])
        assert torch.equal(empty.pooled, expected[3])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_equals_that_of_the_pipeline(tiny, pipelines, layout):
    """Five DDIM steps with guidance by hand, against the pipeline's own loop."""
    bundle = load(ModelRef(str(tiny[layout])), device="cpu")
    pipe = pipelines[layout]
    pipe.set_progress_bar_config(disable=True)
    x = torch.randn(1, *latent_shape(bundle), generator=torch.Generator().manual_seed(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pipe(
            "a neon cat",
            latents=x,
            num_inference_steps=5,
            guidance_scale=4.0,
            output_type="np",
            height=64,
            width=64,
        ).images
    cond = Conditioning.cat([empty_prompt(bundle), encode_prompt(bundle, ["a neon cat"])])
    pipe.scheduler.set_timesteps(5)
    with torch.no_grad():
        for timestep in pipe.scheduler.timesteps:
            uncond, text = predict(bundle, x.repeat(2, 1, 1, 1), timestep, cond).chunk(2)
            x = pipe.scheduler.step(uncond + 4 * (text - uncond), timestep, x).prev_sample
    # a step of 1/255 where a value lies on the edge of rounding
    assert np.abs(decode_latents(bundle, x) / 255 - expected).max() < 1.01 / 255


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_schedule_equals_that_of_the_scheduler(tiny, pipelines, layout):
    bundle = load(ModelRef(str(tiny[layout])), device="cpu")
    assert torch.equal(alphas_cumprod(bundle), pipelines[layout].scheduler.alphas_cumprod)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "linear"},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    ],
)
def test_other_schedules_equal_those_of_the_scheduler(mine, changes):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    change(mine / "scheduler" / "scheduler_config.json", **changes)
    expected = DDIMScheduler.from_pretrained(mine / "scheduler").alphas_cumprod
    # Rescaling goes through the betas there, so the last digits differ.
    torch.testing.assert_close(alphas_cumprod(reload(mine)), expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_schedule_is_named(mine):
    change(mine / "scheduler" / "scheduler_config.json", beta_schedule="moonlight")
    with pytest.raises(ModelMismatch, match="moonlight"):
        alphas_cumprod(reload(mine))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loading_gives_no_warning_and_prints_nothing(tiny, layout, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(ModelRef(str(tiny[layout])), device="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


# ---------------------------------------------------------------------- latents


def test_latents_have_the_models_shape(bundle):
    assert latent_shape(bundle) == (4, 16, 16)
    assert latent_shape(bundle, height=32, width=128) == (4, 8, 32)
    for size in (30, 0, -4):
        with pytest.raises(BadInput, match="multiple of 4"):
            latent_shape(bundle, height=size)


def test_pictures_go_to_latents_and_come_back_as_pictures(bundle):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    latents = encode_picture(bundle, pictures)
    assert latents.shape == (2, *latent_shape(bundle))
    assert decode_latents(bundle, latents).shape == pictures.shape
    expected = bundle.vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)
    assert torch.equal(latents, expected.latent_dist.mean * bundle.vae.config.scaling_factor)


def test_a_draw_of_the_posterior_repeats_with_its_generator(bundle):
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    draws = [
        encode_picture(bundle, pictures, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, 0.25, 2.0),
        ({"scaling_factor": 0.5, "latents_mean": [1.0] * 4, "latents_std": [3.0] * 4}, 1.0, 6.0),
    ],
)
def test_latents_are_shifted_and_scaled_as_the_config_says(mine, settings, mean, std):
    change(mine / "vae" / "config.json", **settings)
    bundle = reload(mine)
    pictures = np.full((1, 64, 64, 3), 99, np.uint8)
    z = bundle.vae.encode(
        torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    ).latent_dist.mean
    torch.testing.assert_close(encode_picture(bundle, pictures), (z - mean) / std)


def test_half_precision_is_kept_to_the_model(tiny):
    bundle = load(ModelRef(str(tiny["sd1"])), "cpu", "bfloat16")
    assert {p.dtype for p in bundle.model.parameters()} == {torch.bfloat16}
    x = torch.randn(1, *latent_shape(bundle))
    noise = predict(bundle, x, 10, encode_prompt(bundle, ["a cat"]))
    assert noise.dtype == torch.float32
    assert decode_latents(bundle, x).dtype == np.uint8


def test_the_autoencoder_of_xl_stays_in_float32(tiny):
    bundle = load(ModelRef(str(tiny["sdxl"])), "cpu", "float16")
    assert {p.dtype for p in bundle.vae.parameters()} == {torch.float32}
    assert {p.dtype for p in bundle.unet.parameters()} == {torch.float16}


# ---------------------------------------------------------------------- words


def test_unknown_words_are_named_once_and_in_order(bundle):
    assert unknown_words(bundle, "A Neon cat, a zebra; the Kitten's zebra!") == (
        "zebra",
        "kitten's",
    )
    assert unknown_words(bundle, "") == ()


def test_a_model_without_a_word_list_knows_all(mine):
    (mine / "vocabulary.json").unlink()
    assert unknown_words(reload(mine), "quetzalcoatl") == ()


def test_the_part_of_a_prompt_that_is_not_seen_is_given(bundle):
    text = "a cat " * 11 + "and a dog on the house"
    # 24 tokens hold the start mark, 22 words and the end mark.
    assert words_cut(bundle, text) == "and a dog on the house"
    assert words_cut(bundle, "a cat") == ""
    kept = text[: len(text) - len(words_cut(bundle, text))]
    assert torch.equal(
        encode_prompt(bundle, [kept]).tokens,
        encode_prompt(bundle, [text]).tokens,
    )


# ---------------------------------------------------------------------- prediction type


@pytest.mark.parametrize(
    ("stated", "expected"), [("v_prediction", "v_prediction"), ("sample", "sample")]
)
def test_the_prediction_type_is_read(mine, stated, expected):
    change(mine / "scheduler" / "scheduler_config.json", prediction_type=stated)
    assert reload(mine).prediction_type == expected


def test_a_silent_config_means_epsilon_and_an_odd_one_is_refused(mine):
    path = mine / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    del config["prediction_type"]
    path.write_text(json.dumps(config))
    assert reload(mine).prediction_type == "epsilon"
    change(path, prediction_type="guess")
    with pytest.raises(ModelMismatch, match="guess"):
        reload(mine)


def test_sd2_at_768_without_a_word_means_v():
    from types import SimpleNamespace

    from engine.models.diffusion import _prediction_type

    v = SimpleNamespace(cross_attention_dim=1024, sample_size=96)
    epsilon = SimpleNamespace(cross_attention_dim=1024, sample_size=64)
    assert _prediction_type({}, v) == "v_prediction"
    assert _prediction_type({}, epsilon) == "epsilon"


# ---------------------------------------------------------------------- older and odd files


def rewrite(path: Path, rename) -> None:
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.slow
def test_the_attention_names_of_old_autoencoders_are_read(mine, tiny):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        return name

    rewrite(mine / "vae" / "diffusion_pytorch_model.safetensors", renamed)
    expected = load(ModelRef(str(tiny["sd1"])), device="cpu").vae.state_dict()
    state = reload(mine).vae.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_the_names_of_older_text_encoders_are_read(mine, tiny):
    path = mine / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(tensors, path)
    expected = load(ModelRef(str(tiny["sd1"])), device="cpu")
    assert torch.equal(
        encode_prompt(reload(mine), ["a cat"]).tokens, encode_prompt(expected, ["a cat"]).tokens
    )


def test_a_tokenizer_without_its_older_files_is_read(mine, bundle):
    for name in ("vocab.json", "merges.txt"):
        (mine / "tokenizer" / name).unlink()
    texts = ["a neon cat", "zebra's"]
    assert torch.equal(
        encode_prompt(reload(mine), texts).tokens, encode_prompt(bundle, texts).tokens
    )


@pytest.mark.slow
def test_sharded_weights_are_read(mine, bundle):
    path = mine / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map = {name: files[index % 2] for index, name in enumerate(names)}
    for file in files:
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, mine / "unet" / file)
    path.unlink()
    index = mine / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    state, expected = reload(mine).unet.state_dict(), bundle.unet.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shards_in_half_precision_are_read_by_the_names_that_both_libraries_write(mine, bundle):
    """Written by diffusers and transformers themselves, in pieces, as the variant fp16."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    for part, kind in kinds.items():
        network = kind.from_pretrained(mine / part).half()
        for path in (mine / part).glob("*.safetensors"):
            path.unlink()
        network.save_pretrained(mine / part, variant="fp16", max_shard_size="40KB")
        assert list((mine / part).glob("*.safetensors.index.fp16.json")), part
        assert len(list((mine / part).glob("*.safetensors"))) > 1
    state = reload(mine).model.state_dict()
    expected = bundle.model.state_dict()
    assert all(torch.equal(state[name], expected[name].half().float()) for name in expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"in_channels": 9}, "inpainting model"),
        ({"in_channels": 8}, "edits pictures"),
        ({"in_channels": 7}, "upscaler"),
        ({"in_channels": 5}, "depth"),
        ({"in_channels": [4]}, "in_channels"),
        ({"out_channels": 8}, "gives 8 channels"),
        ({"time_cond_proj_dim": 256}, "guidance scale, as latent consistency models"),
        ({"num_class_embeds": 1000}, "a class"),
        ({"encoder_hid_dim": 64}, "another encoder"),
        ({"addition_embed_type": "image"}, "told image"),
    ],
)
def test_a_unet_that_is_told_more_is_refused_by_name(mine, settings, said):
    """Weights that fit the config, as the other library writes them: only the kind is wrong."""
    from diffusers import UNet2DConditionModel

    config = json.loads((mine / "unet" / "config.json").read_text())
    if settings.keys() <= {"in_channels", "time_cond_proj_dim"} and settings != {
        "in_channels": [4]
    }:
        UNet2DConditionModel.from_config({**config, **settings}).save_pretrained(mine / "unet")
    else:
        change(mine / "unet" / "config.json", **settings)
    with pytest.raises(ModelMismatch, match=said) as caught:
        reload(mine)
    assert "text-to-image model" in caught.value.advice


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_missing_and_surplus_weights_are_named(mine):
    path = mine / WEIGHTS
    tensors = load_file(path)
    bias = tensors.pop("conv_in.bias")
    save_file(tensors, path)
    with pytest.raises(ModelMismatch, match=r"lacks conv_in\.bias"):
        reload(mine)
    save_file({**tensors, "conv_in.bias": bias, "backdoor": bias.clone()}, path)
    with pytest.raises(ModelMismatch, match="holds backdoor"):
        reload(mine)


def test_a_weight_of_another_shape_is_named(mine):
    tensors = load_file(mine / WEIGHTS)
    tensors["conv_in.bias"] = torch.zeros(17)
    save_file(tensors, mine / WEIGHTS)
    with pytest.raises(ModelMismatch, match=r"conv_in\.bias is \[17\]"):
        reload(mine)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(mine, value):
    tensors = load_file(mine / WEIGHTS)
    tensors["conv_in.bias"][3] = value
    save_file(tensors, mine / WEIGHTS)
    with pytest.raises(BadInput, match=r"unet\.conv_in\.bias"):
        reload(mine)


def test_a_float32_model_too_large_for_float16_is_refused_as_float16(mine):
    tensors = load_file(mine / WEIGHTS)
    tensors["conv_in.bias"][3] = 1e6
    save_file(tensors, mine / WEIGHTS)
    reload(mine)
    with pytest.raises(BadInput, match="not numbers"):
        load(ModelRef(str(mine)), "cpu", "float16")


@pytest.mark.slow
def test_a_pickle_in_place_of_the_weights_is_refused(mine):
    torch.save(load_file(mine / WEIGHTS), mine / WEIGHTS)
    with pytest.raises(BadInput, match="not a safetensors file"):
        reload(mine)


def test_pickles_alone_are_named_and_not_read(mine):
    (mine / WEIGHTS).rename(mine / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(AssetMissing, match=r"diffusion_pytorch_model\.bin, which is not read"):
        reload(mine)


ODD_CONFIGS = {
    "endless blocks": ("unet", {"layers_per_block": 10**9}),
    "endless channels": ("unet", {"block_out_channels": [10**12, 10**12]}),
    "endless list": ("unet", {"block_out_channels": [32] * 10**4}),
    "negative": ("unet", {"cross_attention_dim": -(10**9)}),
    "text for a number": ("unet", {"in_channels": "four"}),
    "unknown block": ("unet", {"down_block_types": ["Evil", "DownBlock2D"]}),
    "nothing": ("vae", {"block_out_channels": []}),
    "null": ("vae", {"latent_channels": None}),
    "endless text layers": ("text_encoder", {"num_hidden_layers": 10**9}),
    "heads do not divide": ("text_encoder", {"num_attention_heads": 5}),
    "unknown activation": ("text_encoder", {"hidden_act": "__import__('os')"}),
    "large vocabulary": ("text_encoder", {"vocab_size": 10**6}),
}


@pytest.mark.parametrize("case", ODD_CONFIGS)
def test_odd_settings_are_refused_before_anything_is_allocated(mine, case):
    part, entries = ODD_CONFIGS[case]
    change(mine / part / "config.json", **entries)
    with pytest.raises(EngineError) as caught:
        reload(mine)
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("model_index.json", {"unet": [None, None]}),
        ("model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]}),
        ("model_index.json", {"text_encoder": ["evil", "Model"]}),
        ("model_index.json", {"vae": 7}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}),
        ("tokenizer/tokenizer_config.json", {"bos_token": 7}),
        ("vocabulary.json", {"words": 7}),
        ("vocabulary.json", {"synonyms": {"a": 7}}),
        ("vocabulary.json", {"near": {"a": 7}}),
    ],
)
def test_other_layouts_and_odd_texts_are_refused(mine, name, entries):
    change(mine / name, **entries)
    with pytest.raises(EngineError):
        reload(mine)


def test_a_missing_part_is_named(mine):
    shutil.rmtree(mine / "scheduler")
    with pytest.raises(AssetMissing, match=r"scheduler/scheduler_config\.json"):
        reload(mine)


def test_merges_outside_the_vocabulary_are_refused(mine):
    (mine / "tokenizer" / "merges.txt").write_text("#version: 0.2\nxx yy\n")
    with pytest.raises(BadInput, match="not in the vocabulary"):
        reload(mine)
