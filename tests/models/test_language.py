"""Language models in the library: what is fetched, what is refused, what a folder must hold."""

import json
import zipfile
from types import SimpleNamespace

import pytest

from engine.core.errors import AssetMissing, BadInput, ModelMismatch
from engine.models import _sources
from engine.models.library import ModelRef, load
from tests.tiny_eyes import tiny_llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("models") / "llava")


def info_of(*names: str) -> SimpleNamespace:
    files = [SimpleNamespace(rfilename=name, size=10, lfs=None) for name in names]
    return SimpleNamespace(id="owner/model", sha="a" * 40, siblings=files)


def test_of_a_language_model_texts_and_safetensors_are_fetched(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    kept = ["config.json", "tokenizer.json", "chat_template.jinja", "tokenizer.model"]
    kept += ["model.safetensors.index.json", *shards]
    other = ["README.md", "pytorch_model.bin", "modeling_own.py", "onnx/model.onnx"]
    assert set(_sources._wanted(info_of(*kept, *other), "float16")) == set(kept)


def test_a_repository_without_safetensors_is_refused():
    with pytest.raises(BadInput, match="no safetensors"):
        _sources._wanted(info_of("config.json", "pytorch_model.bin"), "float32")


def test_an_upload_of_a_language_model_is_unpacked(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"mine/{path.name}")
        packed.writestr("mine/evil.py", "raise SystemExit")
    bundle = load(ModelRef(_sources.receive(archive)))
    assert bundle.has_eyes
    assert not (bundle.folder / "evil.py").exists()


def test_a_model_with_code_of_its_own_is_refused(folder, tmp_path):
    (tmp_path / "own").mkdir()
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "x.Y"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelMismatch, match="code of its own"):
        load(ModelRef(str(tmp_path / "own")))


def test_pickled_weights_are_not_read(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(AssetMissing, match="no safetensors"):
        load(ModelRef(str(tmp_path)))


def test_weights_that_lack_a_tensor_are_named(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("linear_1.weight"))
    del state[name]
    save_file(state, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelMismatch, match=r"linear_1\.weight"):
        load(ModelRef(str(tmp_path / "m")))


def test_text_and_picture_stand_in_the_models_own_form(folder):
    bundle = load(ModelRef(str(folder)))
    text = bundle.conversation("is there a dog?", has_picture=True)
    assert text == "USER: <image>\nis there a dog? ASSISTANT:"
    assert bundle.conversation("is there a dog?") == "USER: is there a dog? ASSISTANT:"
