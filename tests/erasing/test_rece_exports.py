"""The erasure as files: each is read by the library it is meant for and gives the baked weights."""

from pathlib import Path

import pytest
import torch

from engine.core.errors import OutOfBudget
from engine.erasing.rece import exports
from engine.erasing.rece.edit import Settings, erase
from engine.models.diffusion import DiffusionBundle, encode_prompt, predict
from engine.models.library import ModelRef, load
from engine.models.tensor_file import TensorFile
from tests.tiny import tiny_checkpoint

# Weights are float32: half a unit in the last place of the largest, times a few products.
CLOSE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> DiffusionBundle:
    return load(ModelRef(str(folder)), "cpu", "float32")


@pytest.fixture(scope="module")
def edit(bundle: DiffusionBundle):
    return erase(bundle, Settings.of(concepts=["cat"], retain=["dog"], epochs=1))


def file_of(found: exports.Exported) -> TensorFile:
    (file,) = found.files.values()
    return file


@pytest.mark.parametrize("form", exports.FORMS)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_file_read_back_gives_the_baked_weights(bundle, edit, form: str, strength: float):
    assert exports.exported(bundle, edit, form, strength=strength).error < CLOSE


@pytest.mark.parametrize("form", ["lora", "map"])
def test_techniques_without_a_shared_map_export_too(bundle, form: str):
    edit = erase(bundle, Settings.of(technique="tensor"))
    assert exports.exported(bundle, edit, form).error < CLOSE


def test_a_lower_rank_is_smaller_and_says_its_error(bundle, edit):
    whole = exports.exported(bundle, edit, "lora")
    small = exports.exported(bundle, edit, "lora", rank=2)
    assert small.rank == 2 < whole.rank
    assert len(file_of(small).data) < len(file_of(whole).data)
    assert small.error > 100 * whole.error


def test_diffusers_loads_the_lora_and_draws_as_baked(folder: Path, bundle, edit, tmp_path: Path):
    from diffusers import StableDiffusionPipeline

    file = file_of(exports.exported(bundle, edit, "lora"))
    (tmp_path / file.name).write_bytes(file.data)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    assert_says_the_same(pipeline.unet, bundle, edit)


def test_diffusers_loads_the_kohya_file_too(folder: Path, bundle, edit, tmp_path: Path):
    from diffusers import StableDiffusionPipeline

    file = file_of(exports.exported(bundle, edit, "kohya"))
    (tmp_path / file.name).write_bytes(file.data)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    assert_says_the_same(pipeline.unet, bundle, edit)


@pytest.mark.parametrize("form", ["lora", "kohya", "partial", "map"])
def test_a_file_of_some_layers_names_no_other(bundle, form: str):
    some = erase(bundle, Settings.of(retain=["dog"], layers_to_edit=[1, 2]))
    found = exports.exported(bundle, some, form)
    assert found.error < 1e-5
    for key in file_of(found).read():
        stem = key.replace("lora_unet_", "").replace(".", "_")
        assert any(name.removeprefix("unet.").removesuffix(".weight").replace(".", "_") in stem
                   for name in some.names), key  # fmt: skip


@pytest.mark.parametrize("form", ["partial", "unet"])
def test_diffusers_loads_the_weights(folder: Path, bundle, edit, form: str):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    tensors = file_of(exports.exported(bundle, edit, form)).read()
    absent, unexpected = unet.load_state_dict(tensors, strict=form == "unet")
    assert not unexpected
    assert (not absent) == (form == "unet")
    assert_says_the_same(unet, bundle, edit)


def assert_says_the_same(unet: torch.nn.Module, bundle: DiffusionBundle, edit) -> None:
    cond = encode_prompt(bundle, ["a cat"])
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = unet(x, 500, cond.tokens, return_dict=False)[0]
        ours = predict(bundle, x, 500, edit.on_context(cond))
        plain = predict(bundle, x, 500, cond)
    assert float((theirs - ours).abs().max()) < 1e-5 * float(ours.abs().max())
    assert float((theirs - plain).abs().max()) > 1e-4 * float(ours.abs().max())


def test_keys_are_those_of_the_published_formats(bundle, edit):
    lora = file_of(exports.exported(bundle, edit, "lora")).read()
    kohya = file_of(exports.exported(bundle, edit, "kohya")).read()
    partial = file_of(exports.exported(bundle, edit, "partial")).read()
    assert all(key.startswith("unet.") for key in lora)
    assert {key.rpartition(".lora_")[2] for key in lora} == {"A.weight", "B.weight"}
    assert all(key.startswith("lora_unet_") and key.count(".") <= 2 for key in kohya)
    assert all(key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for key in partial)


def test_a_unet_too_large_for_memory_is_refused(bundle, edit, monkeypatch):
    monkeypatch.setattr(exports, "LARGEST_BYTES", 1000)
    with pytest.raises(OutOfBudget, match="partial"):
        exports.exported(bundle, edit, "unet")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_keep_their_format(folder: Path, dtype: str):
    bundle = load(ModelRef(str(folder)), "cpu", dtype)
    edit = erase(bundle, Settings.of())
    for form in ("lora", "partial"):
        tensors = file_of(exports.exported(bundle, edit, form)).read()
        assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{dtype}"}
