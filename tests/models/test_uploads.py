"""What uploads leave on the disk: nothing that was refused, and no more than there is room for."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.core import disk
from engine.core.cache import LruCache
from engine.core.errors import AssetMissing, BadInput, EngineError, ModelMismatch, OutOfBudget
from engine.models import _uploads, adapter_sources, devices, library
from engine.models._sources import from_user
from engine.models._sources import receive as receive_zip
from engine.models.library import ModelRef, load, receive_checkpoint
from tests.loras import kohya_file, peft_folder


def zipped(folder: Path, target: Path, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(target, "w", kind) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, f"mine/{path.relative_to(folder)}")
    return target


@pytest.fixture
def checkpoint(tiny, tmp_path) -> Path:
    """A copy that a test may spoil."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in tiny["sd1"].rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(tiny["sd1"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def kept() -> list[str]:
    folder = _uploads.uploads()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_zip_of_zeros_is_refused_by_what_it_announces(tmp_path):
    path = tmp_path / "zeros.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("m/model_index.json", "{}")
        packed.writestr("m/unet/diffusion_pytorch_model.safetensors", bytes(60_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(OutOfBudget, match="shrink so far"):
        receive_zip(path)
    assert kept() == []


def test_weights_that_are_none_are_refused_before_they_are_kept(checkpoint, tmp_path):
    (checkpoint / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(bytes(1_000_000))
    with pytest.raises(BadInput):
        receive_checkpoint(zipped(checkpoint, tmp_path / "x.zip"))
    assert kept() == []


def test_a_checkpoint_without_weights_is_not_kept(checkpoint, tmp_path):
    (checkpoint / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInput, match="no safetensors weights"):
        receive_checkpoint(zipped(checkpoint, tmp_path / "x.zip"))
    assert kept() == []


@pytest.mark.parametrize("part", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_checkpoint_that_is_refused_at_load_leaves_the_disk(checkpoint, tmp_path, part):
    spoilt = json.loads((checkpoint / part).read_text())
    spoilt |= {"cross_attention_dim": 17, "num_train_timesteps": 0}
    (checkpoint / part).write_text(json.dumps(spoilt))
    source = receive_checkpoint(zipped(checkpoint, tmp_path / "x.zip"))
    with pytest.raises((BadInput, ModelMismatch)):
        load(ModelRef(source))
    assert kept() == []
    with pytest.raises(AssetMissing, match="no longer here"):
        load(ModelRef(source))


def test_an_upload_that_is_too_large_for_memory_stays(checkpoint, tmp_path, monkeypatch):
    source = receive_checkpoint(zipped(checkpoint, tmp_path / "x.zip"))
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    with pytest.raises(OutOfBudget):
        load(ModelRef(source))
    assert len(kept()) == 1


def test_a_folder_of_the_user_is_never_removed(checkpoint):
    (checkpoint / "unet" / "config.json").write_text("{}")
    with pytest.raises(EngineError):
        load(ModelRef(str(checkpoint)))
    assert (checkpoint / "model_index.json").is_file()


def test_adapters_make_room_too(tmp_path, monkeypatch):
    first = adapter_sources.receive([kohya_file(tmp_path / "one.safetensors")])[0]
    size = disk.used_bytes(_uploads.uploads())
    os.utime(adapter_sources.find(first).parent, (1, 1))
    monkeypatch.setenv("REWIND_UPLOADS_GB", str(1.5 * size / 1e9))
    folder = peft_folder(tmp_path / "two")
    second = adapter_sources.receive([zipped(folder, tmp_path / "two.zip")])[0]
    assert adapter_sources.find(second)
    with pytest.raises(AssetMissing, match="no longer here"):
        adapter_sources.find(first)
    monkeypatch.setenv("REWIND_UPLOADS_GB", "0.000001")
    with pytest.raises(OutOfBudget, match="uploads may weigh"):
        adapter_sources.receive([kohya_file(tmp_path / "three.safetensors", alpha=2)])
    assert len(kept()) == 1  # what is too large for all the room pushes nobody out


def test_adapters_that_cannot_be_opened_are_not_kept(tmp_path):
    save_file({"conv_in.weight": torch.zeros(3, 3)}, tmp_path / "unet.safetensors")
    with pytest.raises(ModelMismatch):
        adapter_sources.receive([tmp_path / "unet.safetensors"])
    config_only = zipped(peft_folder(tmp_path / "p"), tmp_path / "p.zip")
    with zipfile.ZipFile(config_only, "w") as packed:
        packed.writestr("mine/adapter_config.json", "{}")
    with pytest.raises(BadInput, match="no adapter"):
        adapter_sources.receive([config_only])
    assert kept() == []


def test_two_adapters_of_equal_content_keep_their_names(tmp_path):
    sources = [
        adapter_sources.receive([kohya_file(tmp_path / f"{name}.safetensors")])[0]
        for name in ("ink", "gold")
    ]
    assert [source.rpartition("/")[2] for source in sources] == [
        "ink.safetensors",
        "gold.safetensors",
    ]


def test_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path):
    stale, fresh = (_uploads.uploads() / f"{disk.SCRATCH}{name}" for name in ("stale", "fresh"))
    for folder in (stale, fresh):
        (folder / "made").mkdir(parents=True)
        (folder / "made" / "half.safetensors").write_bytes(bytes(1000))
    os.utime(stale, (1, 1))
    adapter_sources.receive([kohya_file(tmp_path / "one.safetensors")])
    assert not stale.exists()
    assert fresh.exists()


@pytest.mark.parametrize("kind", ["checkpoint", "adapter"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(checkpoint, tmp_path, full_disk, kind):
    archive = zipped(checkpoint, tmp_path / "x.zip")
    adapter = kohya_file(tmp_path / "one.safetensors")
    with full_disk(500), pytest.raises(AssetMissing, match="The upload could not be written: File"):
        receive_checkpoint(archive) if kind == "checkpoint" else adapter_sources.receive([adapter])
    assert kept() == []


def test_a_read_only_disk_still_gives_what_it_holds(tmp_path, monkeypatch):
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    source = adapter_sources.receive([kohya_file(tmp_path / "one.safetensors")])[0]
    monkeypatch.setattr(os, "utime", read_only)
    assert adapter_sources.find(source).is_file()
    assert from_user(source.rpartition("/")[0]).is_dir()


def test_a_home_that_cannot_be_made_is_said_without_its_path(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(AssetMissing, match="could not be written: Not a directory") as caught:
        adapter_sources.receive([kohya_file(tmp_path / "one.safetensors")])
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_named(tmp_path, monkeypatch, value):
    from engine.core.store import default_store

    for variable in ("REWIND_STORE_MB", "REWIND_UPLOADS_GB", "REWIND_CACHE_GB"):
        monkeypatch.setenv(variable, value)
    default_store.cache_clear()
    with pytest.raises(BadInput, match="REWIND_STORE_MB must be a positive number"):
        default_store()
    with pytest.raises(BadInput, match="REWIND_UPLOADS_GB must be a positive number"):
        adapter_sources.receive([kohya_file(tmp_path / "one.safetensors")])
    with pytest.raises(BadInput, match="REWIND_CACHE_GB must be a positive number"):
        LruCache(library.cache_megabytes).get("key", lambda: 1)


# ---------------------------------------------------------------------- places that may be named


def test_a_link_leads_out_of_no_allowed_folder(tmp_path, monkeypatch):
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    allowed.mkdir()
    file = kohya_file(secret / "ink.safetensors")
    folder = peft_folder(secret / "peft")
    inside = peft_folder(allowed / "inside")
    (allowed / "ink.safetensors").symlink_to(file)
    (allowed / "peft").symlink_to(folder)
    mixed = peft_folder(allowed / "mixed")
    (mixed / "adapter_model.safetensors").unlink()
    (mixed / "adapter_model.safetensors").symlink_to(folder / "adapter_model.safetensors")
    monkeypatch.setenv("REWIND_FOLDERS", str(allowed))
    assert adapter_sources.find(str(inside)) == inside
    for place in ("ink.safetensors", "peft", "mixed", "none.safetensors"):
        with pytest.raises(AssetMissing, match="There is no such adapter"):
            adapter_sources.find(str(allowed / place))
    monkeypatch.delenv("REWIND_FOLDERS")
    for place in ("ink.safetensors", "peft", "mixed"):
        assert adapter_sources.find(str(allowed / place))


@pytest.mark.parametrize("ask", ["model", "adapter"])
def test_a_place_that_exists_and_one_that_does_not_answer_alike(tmp_path, monkeypatch, ask):
    """Also under a name that could be one of the Hub, from where the server was started."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REWIND_FOLDERS", "")
    kohya_file(tmp_path / "here" / "file.safetensors")
    (tmp_path / "here" / "folder").mkdir()

    def answer(source: str) -> str:
        with pytest.raises(EngineError) as caught:
            load(ModelRef(source)) if ask == "model" else adapter_sources.find(source)
        return str(caught.value).replace(source, "X")

    for form in ("here/{}", f"{tmp_path}/here/{{}}", "./here/{}"):
        for name in ("folder", "file.safetensors"):
            absent = name.replace("f", "g", 1)
            assert answer(form.format(name)) == answer(form.format(absent))
