"""Where adapters come from: shipped, uploaded, from the Hub, or from a folder of the user.

    path = find("world-styles/gold")              shipped, checked against its card
    path = find("upload:3f2a.../gold")            unpacked from a zip, or a single file
    path = find("owner/name@revision")            two small files of the Hub
    path = find("/home/me/my-lora.safetensors")

What a visitor uploads is checked before a byte is unpacked.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from engine.core.errors import AssetMissing, BadInput, EngineError, OutOfBudget
from engine.models._checks import SAFETENSORS_ONLY, check_folder, read_header, what_is
from engine.models._sources import COMMIT, from_user, home
from engine.models.adapters import CONFIG, WEIGHTS, open_lora
from engine.models.library import ASSETS, HUB_ID, MODELS, verify

MOST_MEMBERS, MOST_BYTES = 200, 1_000_000_000
# What deflate reaches on real weights is far below this; only bombs shrink more.
LARGEST_RATIO, SMALL = 200, 10_000_000
UPLOAD = re.compile(r"upload:([0-9a-f]{64})(?:/([\w.-]{1,80}))?")


def find(source: str) -> Path:
    """The folder or file of an adapter. Raises an `EngineError` when it is not to be had."""
    if found := UPLOAD.fullmatch(source):
        return _uploaded(found[1], found[2])
    key, _, name = source.partition("/")
    card = MODELS.get(key)
    if card is not None and card.kind == "adapters":
        if name not in card.notes.get("adapters", {}):  # type: ignore[operator]
            raise AssetMissing(f"{key} has no adapter {name[:40]}.", "Choose one from the list.")
        folder = ASSETS / key
        verify(card, folder)
        return folder / "adapters" / name
    repo, _, revision = source.partition("@")
    if HUB_ID.fullmatch(repo) and not Path(source).exists():
        return _from_hub(repo, revision or None)
    if source.endswith(".safetensors"):
        file = from_user(str(Path(source).parent)) / Path(source).name
        if file.is_file():
            return file
        raise AssetMissing("There is no such adapter file here.", "Check the path.")
    return from_user(source)


def receive(files: Sequence[Path]) -> list[str]:
    """Keeps uploaded files, and gives a source for each adapter in them.

    A zip may hold several PEFT folders and files; a PEFT folder may also come as its two files.
    """
    files = [Path(file) for file in files]
    if not 1 <= len(files) <= MOST_MEMBERS:
        raise BadInput("Upload between 1 and 200 files.", "Zip a folder that has more.")
    plain = [file for file in files if not _is_zip(file)]
    sources = [source for file in files if _is_zip(file) for source in _unzip(file)]
    if plain:
        sources += _keep_files(plain)
    if not sources:
        raise BadInput("There is no adapter in what was uploaded.", SAFETENSORS_ONLY)
    return sources


def _is_zip(file: Path) -> bool:
    return what_is(_head(file)).startswith("a zip") and file.suffix.lower() == ".zip"


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(24)
    except OSError:
        raise AssetMissing("An uploaded file cannot be read.", "Upload it again.") from None


def _uploaded(digest: str, name: str | None) -> Path:
    folder = home() / "uploads" / digest
    path = folder / name if name else folder
    if not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
        raise AssetMissing("This upload is no longer here.", "Upload the adapter again.")
    os.utime(folder)
    return path


# ---------------------------------------------------------------------- archives and files


def _unzip(archive: Path) -> list[str]:
    digest = _sha256([archive])
    folder = home() / "uploads" / digest
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [info for info in packed.infolist() if not info.is_dir()]
            _check_members(members, archive.stat().st_size)
            if not folder.is_dir():
                _unpack(packed, members, folder)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError):
        raise BadInput("This is not a readable zip archive.", "Zip the adapter again.") from None
    except OSError as error:
        raise OutOfBudget(
            f"The upload cannot be stored ({error.strerror}).", "Free some space."
        ) from None
    return _sources_in(folder, digest)


def _check_members(members: Sequence[zipfile.ZipInfo], packed_bytes: int) -> None:
    total = sum(info.file_size for info in members)
    if len(members) > MOST_MEMBERS:
        raise OutOfBudget(
            f"The archive holds more than {MOST_MEMBERS} files.", "Zip adapters only."
        )
    if total > MOST_BYTES or (total > SMALL and total > LARGEST_RATIO * packed_bytes):
        raise OutOfBudget(
            f"The archive would unpack to {total / 1e6:.0f} MB.",
            f"Adapters may weigh {MOST_BYTES / 1e6:.0f} MB together; upload fewer.",
        )
    for info in members:
        path = PurePosixPath(info.filename)
        leads_out = path.is_absolute() or ".." in path.parts or "\\" in info.filename
        if leads_out or stat.S_ISLNK(info.external_attr >> 16):
            raise BadInput("The archive holds a name that leads out of it.", "Zip it again.")
        if info.flag_bits & 1:
            raise BadInput("The archive is encrypted.", "Zip it without a password.")


def _unpack(packed: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    """One subfolder an adapter; what is neither weights nor their config is left out."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = Path(scratch, "unpacked")
        for info in members:
            path = PurePosixPath(info.filename)
            if path.suffix != ".safetensors" and path.name != CONFIG:
                continue
            # A folder keeps its own name, a file beside others becomes a name of its own.
            in_folder = path.name in (CONFIG, WEIGHTS)
            place = _safe(path.parent.name or "adapter") if in_folder else ""
            target = unpacked / place / (path.name if in_folder else _safe(path.name))
            if target.exists():
                raise BadInput(f"The archive holds {path.name} twice.", "Zip it again.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(info) as source, target.open("wb") as sink:
                # zipfile stops at the announced size, which was checked.
                shutil.copyfileobj(source, sink)
        if not unpacked.is_dir():
            raise BadInput("The archive holds no adapter.", SAFETENSORS_ONLY)
        check_folder(unpacked)
        unpacked.replace(folder)


def _keep_files(files: Sequence[Path]) -> list[str]:
    """Files uploaded one by one: a config belongs to the `adapter_model` beside it."""
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
        elif file.name != CONFIG:
            raise BadInput(
                f"{_safe(file.name)} is no adapter file.",
                "Upload .safetensors files, adapter_config.json, or a zip of PEFT folders.",
            )
    total = sum(file.stat().st_size for file in files)
    if total > MOST_BYTES:
        raise OutOfBudget(f"The files weigh {total / 1e6:.0f} MB.", "Upload fewer at once.")
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise BadInput("Two uploaded files have the same name.", "Zip each PEFT folder.")
    digest = _sha256(files)
    folder = home() / "uploads" / digest
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch, "made")
            for file in files:
                inside = made / "adapter" if file.name in (CONFIG, WEIGHTS) else made
                inside.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, inside / _safe(file.name))
            made.replace(folder)
    return _sources_in(folder, digest)


def _sources_in(folder: Path, digest: str) -> list[str]:
    """Every PEFT folder and every loose file of an upload, each of which is an adapter."""
    folders = {path.parent for path in folder.rglob(WEIGHTS)}
    loose = {path for path in folder.glob("*.safetensors") if path.name != WEIGHTS}
    for path in folders:
        if not (path / CONFIG).is_file():
            raise BadInput(
                f"{path.name} has weights but no {CONFIG}, so its scale is not known.",
                "Upload the whole PEFT folder.",
            )
    for path in sorted(folders | loose):
        open_lora(path)  # here and not in a later run, where one bad file would spoil all others
    return [f"upload:{digest}/{path.name}" for path in sorted(folders | loose)]


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)[-80:].lstrip(".") or "adapter"


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        with file.open("rb") as opened:
            digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


# ---------------------------------------------------------------------- the Hub


def _from_hub(repo: str, revision: str | None) -> Path:
    """Config and weights of a PEFT repository, or its one LoRA file."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE or (revision and COMMIT.fullmatch(revision)):
        try:
            kept = snapshot_download(repo, revision=revision, local_files_only=True)
            return _adapter_in(Path(str(kept)), repo)
        except (OSError, ValueError):
            if constants.HF_HUB_OFFLINE:
                raise _not_here(repo, "and the Hub is switched off (HF_HUB_OFFLINE)") from None
    try:
        api = HfApi(token=None if os.environ.get("REWIND_HUB_TOKEN") == "1" else False)
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=10)
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
        names = _wanted(sizes, repo)
        folder = api.snapshot_download(repo, revision=info.sha, allow_patterns=names)
    except EngineError:
        raise
    except Exception:
        # The Hub's library changes its exceptions with its network layer; they mean the same here.
        raise _not_here(repo, "and could not be fetched from the Hub") from None
    return _adapter_in(Path(folder), repo)


def _wanted(sizes: dict[str, int], repo: str) -> list[str]:
    if WEIGHTS in sizes and CONFIG in sizes:
        names = [WEIGHTS, CONFIG]
    else:
        names = [name for name in sizes if name.endswith(".safetensors") and "/" not in name][:1]
    if not names:
        raise BadInput(f"{repo} holds no adapter as safetensors.", SAFETENSORS_ONLY)
    if sum(sizes[name] for name in names) > MOST_BYTES:
        raise OutOfBudget(f"The adapter of {repo} is too large.", "Take one of a smaller rank.")
    return names


def _adapter_in(folder: Path, repo: str) -> Path:
    if (folder / CONFIG).is_file():
        return folder
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _not_here(repo, "or holds no adapter")
    return files[0]


def _not_here(repo: str, why: str) -> AssetMissing:
    return AssetMissing(
        f"The adapter {repo} is not on this machine, {why}.",
        "Download it and upload its two files, or use the shipped adapters.",
    )
