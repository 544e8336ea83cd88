"""Uploads of adapters: what is kept, and what is refused before a byte is unpacked."""

import stat
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from engine.core.errors import AssetMissing, BadInput, ModelMismatch, OutOfBudget
from engine.models.adapter_sources import find, receive
from engine.models.adapters import open_lora
from tests.loras import kohya_file, peft_folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REWIND_FOLDERS", raising=False)


def zipped(path, folders):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for folder in folders:
            for file in folder.iterdir():
                packed.write(file, f"mine/{folder.name}/{file.name}")
    return path


def test_a_zip_of_two_folders_gives_two_adapters(tmp_path):
    folders = [peft_folder(tmp_path / name) for name in ("one", "two")]
    sources = receive([zipped(tmp_path / "x.zip", folders)])
    assert [source.rpartition("/")[2] for source in sources] == ["one", "two"]
    for source in sources:
        assert len(open_lora(find(source)).layers) == 3
    assert receive([tmp_path / "x.zip"]) == sources


def test_single_files_and_the_two_files_of_a_folder_are_taken(tmp_path):
    kohya = kohya_file(tmp_path / "ink style.safetensors")
    assert open_lora(find(receive([kohya])[0])).layout == "kohya"
    folder = peft_folder(tmp_path / "p")
    sources = receive(sorted(folder.iterdir()))
    assert open_lora(find(sources[0])).layout == "peft"


def test_weights_without_their_config_are_refused(tmp_path):
    folder = peft_folder(tmp_path / "p")
    with pytest.raises(BadInput, match="scale is not known"):
        receive([folder / "adapter_model.safetensors"])


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/out.safetensors", "a\\..\\b.json"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(name, b"x" * 100)
    with pytest.raises(BadInput, match="leads out"):
        receive([tmp_path / "x.zip"])
    assert not list((tmp_path / "home").rglob("*out*"))


def test_a_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("a/adapter_model.safetensors")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(BadInput, match="leads out"):
        receive([tmp_path / "x.zip"])


def test_a_bomb_is_refused_by_what_it_announces(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/adapter_model.safetensors", bytes(30_000_000))
    with pytest.raises(OutOfBudget, match="would unpack"):
        receive([tmp_path / "x.zip"])
    assert not list((tmp_path / "home" / "uploads").iterdir())


def test_a_pickle_under_another_name_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x02" + bytes(50))
    with pytest.raises(BadInput, match="pickle"):
        receive([tmp_path / "x.safetensors"])


def test_weights_that_are_no_adapter_are_refused_at_the_upload(tmp_path):
    save_file({"conv_in.weight": torch.zeros(3, 3)}, tmp_path / "unet.safetensors")
    with pytest.raises(ModelMismatch, match="unet holds no LoRA factors"):
        receive([kohya_file(tmp_path / "ink.safetensors"), tmp_path / "unet.safetensors"])


def test_other_files_and_no_files_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadInput, match="no adapter file"):
        receive([tmp_path / "x.json"])
    with pytest.raises(BadInput, match="between 1"):
        receive([])
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and then nothing of the kind, for a while")
    with pytest.raises(BadInput, match="zip"):
        receive([tmp_path / "x.zip"])


@pytest.mark.parametrize(
    "source", ["upload:" + "0" * 64, "upload:" + "0" * 64 + "/x", "/nowhere/x.safetensors", "/nope"]
)
def test_what_is_not_here_says_so(source):
    with pytest.raises(AssetMissing):
        find(source)


def test_a_hub_id_without_a_network_says_so(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AssetMissing, match="switched off"):
        find("owner/some-lora")
