"""The Hub, folders and uploads: pinned, checked, offline with a sentence, and no token leaves."""

import hashlib
import io
import os
import shutil
import socket
import stat
import sys
import types
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from engine.core.errors import AssetMissing, BadInput, EngineError, ModelMismatch, OutOfBudget
from engine.models import _hub, _sources, _uploads
from engine.models.library import ModelRef, load

COMMIT = "a" * 40
SECRET = "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"


@pytest.fixture
def network(monkeypatch) -> list:
    """Every attempt to look up or reach an address; all of them fail."""
    tried: list = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture
def online(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


class Hub:
    """Stands for `HfApi`: knows one repository, whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fail, self.tokens, self.patterns = folder, None, [], []

    def __call__(self, token=None) -> "Hub":
        self.tokens.append(token)
        return self

    def model_info(self, repo, *, revision, files_metadata, timeout):
        if self.fail:
            raise self.fail
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return types.SimpleNamespace(id=repo, sha=COMMIT, siblings=[self.entry(f) for f in files])

    def entry(self, path: Path):
        lfs = None
        if path.suffix == ".safetensors":
            lfs = types.SimpleNamespace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        name = str(path.relative_to(self.folder))
        return types.SimpleNamespace(rfilename=name, size=path.stat().st_size, lfs=lfs)

    def hf_hub_download(self, repo, name, *, revision, tqdm_class):
        self.patterns.append(name)
        target = Path(constants.HF_HUB_CACHE) / "models--o--m" / "snapshots" / revision / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / name, target)
        return str(target)


@pytest.fixture
def hub(tiny, tmp_path, online, monkeypatch) -> Hub:
    folder = tmp_path / "repository"
    shutil.copytree(tiny["sd1"], folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "README.md").write_text("hello")
    (folder / "evil.py").write_text("raise SystemExit")
    hub = Hub(folder)
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(_hub, "local_snapshot", lambda *_: None)
    return hub


# ---------------------------------------------------------------------- the Hub


def test_a_model_of_the_hub_is_fetched_with_its_commit_noted(hub):
    bundle = load(ModelRef("owner/model"))
    assert bundle.ref == ModelRef("owner/model", COMMIT)
    assert {name.rpartition(".")[2] for name in hub.patterns} == {"json", "txt", "safetensors"}
    assert sum(name.endswith(".safetensors") for name in hub.patterns) == 3


def test_half_precision_files_are_preferred_for_half_precision(hub):
    weights = hub.folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    info = hub.model_info("o/m", revision=None, files_metadata=True, timeout=1)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in _sources._wanted(info, "float16")
    assert "unet/diffusion_pytorch_model.safetensors" in _sources._wanted(info, "float32")


def test_the_servers_token_is_not_used_for_what_a_visitor_types(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    load(ModelRef("owner/model"))
    assert hub.tokens == [False]
    monkeypatch.setenv("REWIND_HUB_TOKEN", "1")
    _sources.from_hub("owner/other", None, "float32", False)
    _sources.from_hub("owner/third", None, "float32", True)
    assert hub.tokens == [False, None, None]


def test_no_message_repeats_what_the_hub_said(hub, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for error in (RuntimeError(f"https://x/?token={SECRET}"), OSError(SECRET)):
        hub.fail = error
        with pytest.raises(AssetMissing) as caught:
            load(ModelRef("owner/model"))
        assert SECRET not in str(caught.value) + caplog.text
        assert caught.value.__suppress_context__


def test_a_damaged_download_is_refused_and_removed(hub, monkeypatch):
    honest = Hub.hf_hub_download

    def damaged(self, repo, name, **options):
        path = honest(self, repo, name, **options)
        if name == "unet/diffusion_pytorch_model.safetensors":
            with Path(path).open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\x7f")
        return path

    monkeypatch.setattr(Hub, "hf_hub_download", damaged)
    with pytest.raises(AssetMissing, match="arrived damaged"):
        load(ModelRef("owner/model"))
    assert not list(Path(constants.HF_HUB_CACHE).rglob("diffusion_pytorch_model.safetensors"))[1:]


def test_a_repository_of_pickles_is_refused(hub):
    for path in hub.folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(BadInput, match="no safetensors"):
        load(ModelRef("owner/model"))


def test_a_repository_in_another_layout_is_refused(hub):
    (hub.folder / "model_index.json").unlink()
    with pytest.raises(BadInput, match="not in diffusers layout"):
        load(ModelRef("owner/model"))


def test_a_repository_over_the_limit_is_refused_before_the_download(hub, monkeypatch):
    monkeypatch.setenv("REWIND_MAX_CHECKPOINT_GB", "0")
    with pytest.raises(OutOfBudget, match="are allowed"):
        load(ModelRef("owner/model"))
    assert not hub.patterns


@pytest.mark.parametrize("revision", ["../../x\n", "a b", "x" * 200, "a;b", ""])
def test_an_odd_revision_is_refused(hub, revision):
    with pytest.raises(BadInput, match="cannot be a revision"):
        load(ModelRef("owner/model", revision))


def test_offline_one_learns_what_to_do(offline, network):
    with pytest.raises(AssetMissing, match="HF_HUB_OFFLINE") as caught:
        load(ModelRef("owner/model", COMMIT))
    assert f"hf download owner/model --revision {COMMIT}" in caught.value.advice
    assert "world" in caught.value.advice
    assert network == []


def test_without_a_network_one_learns_what_to_do(online, network):
    with pytest.raises(AssetMissing, match="cannot be reached") as caught:
        load(ModelRef("owner/model"))
    assert "hf download owner/model" in caught.value.advice


def test_a_pinned_model_that_is_here_needs_no_network(tiny, offline, network):
    snapshots = Path(constants.HF_HUB_CACHE) / "models--owner--model" / "snapshots"
    shutil.copytree(tiny["sd1"], snapshots / COMMIT)
    bundle = load(ModelRef("owner/model", COMMIT))
    assert bundle.ref.revision == COMMIT
    assert network == []


def test_an_unfinished_download_counts_as_absent(tiny, offline):
    snapshots = Path(constants.HF_HUB_CACHE) / "models--owner--model" / "snapshots"
    shutil.copytree(tiny["sd1"], snapshots / COMMIT)
    (snapshots / COMMIT / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(AssetMissing, match="not on this machine"):
        load(ModelRef("owner/model", COMMIT))


def test_a_folder_loads_without_one_request(tiny, online, network):
    load(ModelRef(str(tiny["sdxl"])))
    assert network == []


# ---------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "source",
    ["", "nothing", "/no/such/folder", "../../etc", "~nobody/x", "\0", "a" * 5000, "upload:../x"],
)
def test_what_is_no_model_gets_a_sentence(source, offline):
    with pytest.raises(EngineError):
        load(ModelRef(source))


def test_a_folder_of_something_else_is_named(tmp_path):
    with pytest.raises(ModelMismatch, match=r"model_index\.json"):
        load(ModelRef(str(tmp_path)))


def test_folders_outside_the_list_look_absent(tiny, tmp_path, monkeypatch):
    source = str(tiny["sd1"])
    with pytest.raises(AssetMissing) as absent:
        load(ModelRef("/no/such/folder"))
    for value in ("", str(tmp_path)):
        monkeypatch.setenv("REWIND_FOLDERS", value)
        with pytest.raises(AssetMissing) as refused:
            load(ModelRef(source))
        assert str(refused.value) == str(absent.value)
    monkeypatch.setenv("REWIND_FOLDERS", f"{tmp_path}{os.pathsep}{tiny['sd1'].parent}")
    load(ModelRef(source))
    with pytest.raises(AssetMissing):
        load(ModelRef(f"{source}/../../../etc"))


def test_a_public_space_opens_no_folder_of_its_own(tiny, monkeypatch):
    monkeypatch.setenv("SYSTEM", "spaces")
    with pytest.raises(AssetMissing):
        load(ModelRef(str(tiny["sd1"])))


# ---------------------------------------------------------------------- uploads


def zipped(folder: Path, target: Path, prefix: str = "my model/") -> Path:
    with zipfile.ZipFile(target, "w") as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, prefix + str(path.relative_to(folder)))
    return target


@pytest.fixture
def archive(tiny, tmp_path) -> Path:
    return zipped(tiny["sd1"], tmp_path / "model.zip")


def test_an_upload_is_loaded_by_its_content(archive):
    source = _sources.receive(archive)
    assert source == f"upload:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    assert load(ModelRef(source)).prediction_type == "epsilon"
    assert _sources.receive(archive) == source


def test_a_forgotten_upload_is_named():
    with pytest.raises(AssetMissing, match="Upload the checkpoint again"):
        load(ModelRef(f"upload:{'0' * 64}"))


def test_files_that_are_never_opened_are_left_out(archive):
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("my model/unet/diffusion_pytorch_model.bin", b"\x80\x04")
        packed.writestr("my model/run.py", "raise SystemExit")
    digest = _sources.receive(archive).removeprefix("upload:")
    kept = {path.suffix for path in (_uploads.uploads() / digest).rglob("*.*")}
    assert kept == {".json", ".txt", ".safetensors"}


def hostile_member(name: str, archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as packed:
        if name == "link":
            info = zipfile.ZipInfo("my model/link.json")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(info, "/etc/passwd")
        else:
            packed.writestr(name, "x")


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/evil.json", "my model/../../evil.json", "a\\..\\evil.json", "link"],
)
def test_an_archive_that_leads_out_is_refused_whole(archive, name):
    hostile_member(name, archive)
    with pytest.raises(BadInput):
        _sources.receive(archive)
    uploads = _uploads.uploads()
    assert not uploads.exists() or not list(uploads.iterdir())


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut", b"\x80\x04pickle"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        _sources.receive(path)


def test_a_damaged_archive_is_refused(archive):
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    archive.write_bytes(content)
    with pytest.raises(BadInput):
        _sources.receive(archive)


def test_an_archive_that_unpacks_to_too_much_is_refused_before_unpacking(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("m/model_index.json", "{}")
        packed.writestr("m/big.safetensors", bytes(20_000_000))
    monkeypatch.setenv("REWIND_MAX_CHECKPOINT_GB", "0.01")
    with pytest.raises(OutOfBudget, match="unpack to 20 MB; 10 MB are"):
        _sources.receive(path)


def test_the_oldest_upload_makes_room(tiny, tmp_path, monkeypatch):
    first = _sources.receive(zipped(tiny["sd1"], tmp_path / "1.zip"))
    os.utime(_uploads.uploads() / first.removeprefix("upload:"), (1, 1))
    monkeypatch.setenv("REWIND_UPLOADS_GB", "0.002")  # one tiny checkpoint weighs 1.4 MB
    second = _sources.receive(zipped(tiny["sd2"], tmp_path / "2.zip"))
    load(ModelRef(second))
    with pytest.raises(AssetMissing):
        load(ModelRef(first))
    monkeypatch.setenv("REWIND_UPLOADS_GB", "0.0001")
    with pytest.raises(OutOfBudget, match="uploads may weigh"):
        _sources.receive(zipped(tiny["sdxl"], tmp_path / "3.zip"))


def test_two_checkpoints_in_one_archive_are_refused(tiny, tmp_path):
    path = zipped(tiny["sd1"], tmp_path / "two.zip", "one/")
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content, "a") as packed:
        packed.writestr("two/model_index.json", "{}")
    path.write_bytes(content.getvalue())
    with pytest.raises(BadInput, match="not one checkpoint folder"):
        _sources.receive(path)


def test_no_remote_code_is_imported(tiny, tmp_path):
    """A checkpoint that brings Python files and asks for them is loaded without running them."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny["sd1"], folder)
    (folder / "unet" / "evil.py").write_text("raise SystemExit('ran')")
    config = folder / "text_encoder" / "config.json"
    asked = config.read_text().replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1)
    config.write_text(asked)
    load(ModelRef(str(folder)))
    assert "evil" not in sys.modules
