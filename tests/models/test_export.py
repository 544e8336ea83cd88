"""What is exported opens in diffusers and here, and its undo files give back every bit."""

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.core.errors import AssetMissing, BadInput, EngineError
from engine.core.job import Done, Job, Progress, events, finish
from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.store import default_store
from engine.models._sources import receive
from engine.models.export import run
from engine.models.library import ModelRef, load
from tests.conftest import equal_bits

NAMES = ("unet.conv_in.weight", "text_encoder.final_layer_norm.weight", "vae.quant_conv.bias")


def export(model: ModelRef, folder: Path, *, as_zip: bool = False) -> Path:
    return Path(finish(run(seed=0, model=model, folder=str(folder), as_zip=as_zip)))


@pytest.fixture
def edited(tiny) -> ModelRef:
    """The tiny model with two edits in the store."""
    default_store.cache_clear()
    source = str(tiny["sd1"])
    state = load(ModelRef(source)).model.state_dict()
    digests = []
    for number, names in enumerate((NAMES[:2], NAMES[1:])):
        new = {n: t + 0.1 * (number + 1) if n in names else t for n, t in state.items()}
        patch = Patch.between(state, new, Recipe("toy", seed=number, label=f"edit {number}"))
        digests.append(default_store().put(patch))
        state = new
    yield ModelRef(source, edits=tuple(digests))
    default_store.cache_clear()


@pytest.mark.slow
def test_the_export_opens_in_diffusers_with_the_edited_weights(edited, tmp_path):
    folder = export(edited, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )

        pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    model = load(edited).model
    for name, part in model.items():
        assert equal_bits(dict(getattr(pipe, name).state_dict()), dict(part.state_dict()))


@pytest.mark.slow
def test_the_config_says_the_number_format_that_was_written(edited, tmp_path):
    """Else transformers opens the text encoder as float16 beside a network in float32."""
    source = shutil.copytree(edited.source, tmp_path / "half")
    config = source / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}))
    folder = export(ModelRef(str(source)), tmp_path / "out")
    assert json.loads((folder / "text_encoder" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.slow
def test_the_export_opens_here_and_the_undo_files_give_back_every_bit(edited, tmp_path):
    folder = export(edited, tmp_path / "out")
    state = load(ModelRef(str(folder))).model.state_dict()
    assert equal_bits(dict(state), dict(load(edited).model.state_dict()))
    for path in sorted((folder / "undo").iterdir(), reverse=True):
        state = Patch.load(path).undo(state)
    base = load(ModelRef(edited.source)).model.state_dict()
    assert equal_bits(dict(state), dict(base))


@pytest.mark.slow
def test_the_card_of_the_export_names_base_licence_and_edits(edited, tmp_path):
    text = (export(edited, tmp_path / "out") / "README.md").read_text()
    for part in ("edit 0", "edit 1", "Licence", edited.source):
        assert part in text


@pytest.mark.slow
def test_a_zip_can_be_uploaded_again(edited, tmp_path):
    path = export(edited, tmp_path / "out", as_zip=True)
    assert path.name == "out.zip"
    assert "README.md" in zipfile.ZipFile(path).namelist()
    state = load(ModelRef(receive(path))).model.state_dict()
    assert equal_bits(dict(state), dict(load(edited).model.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd2", "sdxl"])
def test_other_layouts_come_back_equal(tiny, tmp_path, layout):
    ref = ModelRef(str(tiny[layout]))
    folder = export(ref, tmp_path / "out")
    state = load(ModelRef(str(folder))).model.state_dict()
    assert equal_bits(dict(state), dict(load(ref).model.state_dict()))


@pytest.mark.slow
def test_new_tokens_are_counted_in_the_config(tiny, tmp_path):
    default_store.cache_clear()
    source = str(tiny["sd1"])
    old = load(ModelRef(source)).model.state_dict()
    name = "text_encoder.embeddings.token_embedding.weight"
    new = {**old, name: torch.cat([old[name], torch.ones(1, old[name].shape[1])])}
    digest = default_store().put(Patch.between(old, new, Recipe("toy")))
    folder = export(ModelRef(source, edits=(digest,)), tmp_path / "out")
    assert len(load(ModelRef(str(folder))).model.state_dict()[name]) == len(old[name]) + 1


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def half(request, edited, tmp_path) -> tuple[Path, torch.dtype]:
    """The tiny checkpoint in half precision, as diffusers saves it; fp16 as its variant."""
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionPipeline.from_pretrained(edited.source, local_files_only=True)
        variant = "fp16" if request.param == torch.float16 else None
        pipe.to(dtype=request.param).save_pretrained(tmp_path / "half", variant=variant)
    return tmp_path / "half", request.param


@pytest.mark.slow
def test_a_folder_in_half_precision_is_exported_in_half_precision(half, tmp_path):
    source, kind = half
    folder = export(ModelRef(str(source)), tmp_path / "out")
    names = [path.relative_to(folder) for path in folder.rglob("*.safetensors")]
    assert not any("fp16" in str(name) for name in names)
    before = {n: t for p in source.rglob("*.safetensors") for n, t in load_file(p).items()}
    after = {n: t for p in folder.rglob("*.safetensors") for n, t in load_file(p).items()}
    assert all(tensor.dtype == kind for tensor in after.values())
    assert sum(t.nbytes for t in after.values()) == sum(t.nbytes for t in before.values())
    state, base = load(ModelRef(str(folder))).model, load(ModelRef(str(source))).model
    assert equal_bits(dict(state.state_dict()), dict(base.state_dict()))
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=kind)
    for name, part in base.items():
        theirs = {n: t.float() for n, t in getattr(pipe, name).state_dict().items()}
        assert equal_bits(theirs, dict(part.state_dict()))


@pytest.mark.slow
def test_edits_of_a_folder_in_half_precision_come_off_bit_for_bit(half, tmp_path):
    """The undo files are made again for the rounded weights, one for each edit."""
    source, kind = half
    base = load(ModelRef(str(source))).model.state_dict()
    first = {n: t + 0.1 if n in NAMES[:2] else t for n, t in base.items()}
    second = {n: t - 0.3 if n in NAMES[1:] else t for n, t in first.items()}
    digests = [
        default_store().put(Patch.between(old, new, Recipe("toy", seed=i)))
        for i, (old, new) in enumerate(((base, first), (first, second)))
    ]
    folder = export(ModelRef(str(source), edits=tuple(digests)), tmp_path / "out")
    dtype = str(kind).removeprefix("torch.")
    state = load(ModelRef(str(folder)), dtype=dtype).model.state_dict()
    assert equal_bits(dict(state), {name: tensor.to(kind) for name, tensor in second.items()})
    undo = sorted((folder / "undo").iterdir(), reverse=True)
    assert len(undo) == 2
    for path in undo:
        state = Patch.load(path).undo(state)
    assert equal_bits(dict(state), {name: tensor.to(kind) for name, tensor in base.items()})
    assert f'dtype="{dtype}"' in (folder / "README.md").read_text()


@pytest.mark.slow
def test_an_edit_too_large_for_float16_keeps_float32(half, tmp_path):
    source, kind = half
    base = load(ModelRef(str(source))).model.state_dict()
    new = {n: t + 1e6 if n == NAMES[0] else t for n, t in base.items()}
    digest = default_store().put(Patch.between(base, new, Recipe("toy")))
    folder = export(ModelRef(str(source), edits=(digest,)), tmp_path / "out")
    written = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    expected = torch.float32 if kind == torch.float16 else kind
    assert {tensor.dtype for tensor in written.values()} == {expected}


def test_a_folder_that_is_not_empty_is_left_alone(tiny, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="there already"):
        export(ModelRef(str(tiny["sd1"])), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.txt"]


def test_an_unwritable_place_is_named(tiny):
    with pytest.raises(EngineError, match="could not be written") as refused:
        export(ModelRef(str(tiny["sd1"])), Path("/proc/no/such"))
    assert "/proc" not in str(refused.value)


@pytest.mark.parametrize("most", [100, 30_000, 300_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tiny, tmp_path, full_disk, most):
    """The settings, the weights or the zip do not fit."""
    source = ModelRef(str(tiny["sd1"]))
    load(source)
    with full_disk(most), pytest.raises(AssetMissing, match="The model could not be written: File"):
        export(source, tmp_path / "place" / "out", as_zip=True)
    assert not list((tmp_path / "place").iterdir())


@pytest.mark.slow
def test_an_export_that_is_stopped_leaves_nothing(tiny, tmp_path):
    folder = tmp_path / "place" / "out"
    params = {"model": ModelRef(str(tiny["sd1"])), "folder": str(folder)}
    steps = events(Job("engine.models.export:run", params))
    assert isinstance(next(steps), Progress)
    steps.close()
    assert not list(folder.parent.iterdir())
    assert isinstance(list(events(Job("engine.models.export:run", params)))[-1], Done)
