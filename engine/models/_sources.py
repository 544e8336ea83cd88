"""Where the files of a model come from when they are not shipped: the Hub, or the user's disk.

The token of the server's owner is used for models named on a card, never for an id that a visitor
typed, unless REWIND_HUB_TOKEN=1 says that the visitor is the owner. No message, log line or recipe
repeats what the Hub's library said, as that may hold addresses with a signature.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.core.errors import AssetMissing, BadInput, EngineError, OutOfBudget
from engine.models._checks import SAFETENSORS_ONLY, Limits, check_folder, check_size, index_name

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

COMMIT = re.compile(r"[0-9a-f]{40}")
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
STEMS = ("diffusion_pytorch_model", "model")
# A restoration network: our description, or the two published files of the universal one.
RESTORATION = ("restoration.json", "universal-ir.safetensors")
PUBLISHED = re.compile(r"(universal-ir|daclip_ViT-B-32)\.safetensors")
UNIVERSAL_AS_SAFETENSORS = (
    "Write the tensors of universal-ir.pth and daclip_ViT-B-32.pt as safetensors once, beside the "
    "authors' code (the lines stand at the head of engine/models/daclip.py), and name the folder."
)
TEXT_FILES = re.compile(
    r"(model_index\.json|vocabulary\.json|restoration\.json"
    r"|(unet|vae|text_encoder|text_encoder_2|scheduler|tokenizer|tokenizer_2)/[\w.-]+\.(json|txt))"
)
# What is opened of a language model, which lies in the root of its repository.
LANGUAGE_FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|vocabulary|chat_template|preprocessor_config|processor_config|model\.safetensors\.index(\.fp16)?)\.json"
    r"|merges\.txt|tokenizer\.model|chat_template\.jinja"
)


# ---------------------------------------------------------------------- the Hub


def from_hub(repo: str, revision: str | None, dtype: str, trusted: bool) -> tuple[Path, str]:
    """Folder and commit of a model of the Hub; downloads the few files that are opened.

    A pinned commit that is here already is used without a request. Raises `AssetMissing` when it
    is not here and cannot be fetched, `OutOfBudget` when it is too large.
    """
    if revision is not None and not re.fullmatch(r"[\w./-]{1,100}", revision):
        raise BadInput(f'"{revision[:40]}" cannot be a revision.', "Give the commit, 40 letters.")
    if _is_offline() or (revision and COMMIT.fullmatch(revision)):
        folder = _local_snapshot(repo, revision)
        if folder is not None:
            return folder, folder.name
        if _is_offline():
            raise _not_here(repo, revision, "and the Hub is switched off (HF_HUB_OFFLINE)")
    return _download(repo, revision, dtype, trusted)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _local_snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder of a revision in the Hub's cache, if all its parts are there."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # LocalEntryNotFoundError is both, depending on the version
        return None
    return folder if is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Whether each part that the checkpoint names has weights."""
    if any((folder / name).is_file() for name in RESTORATION):
        return any(folder.rglob("*.safetensors"))
    if (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        return any(folder.glob("*.safetensors"))
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
    except (OSError, ValueError):
        return False
    parts = [part for part in COMPONENTS if isinstance(index, dict) and index.get(part)]
    return bool(parts) and all(any((folder / part).glob("*.safetensors")) for part in parts)


def _download(repo: str, revision: str | None, dtype: str, trusted: bool) -> tuple[Path, str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    token = None if trusted or os.environ.get("REWIND_HUB_TOKEN") == "1" else False
    api = HfApi(token=token)
    try:
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=10)
        names = _wanted(info, dtype)
        folder = Path(api.snapshot_download(repo, revision=info.sha, allow_patterns=names))
    except EngineError:
        raise
    except GatedRepoError:
        raise AssetMissing(
            f"{repo} is behind a licence that must be accepted first.",
            "Accept it on its page, download it yourself and name the folder.",
        ) from None
    except RepositoryNotFoundError:
        raise AssetMissing(f"The Hub has no public model {repo}.", "Check the spelling.") from None
    except Exception:
        # The Hub's library changes its network layer, and with it its exceptions; a failed request
        # and a failed download mean the same here.
        folder_here = _local_snapshot(repo, revision)
        if folder_here is not None:
            return folder_here, folder_here.name
        raise _not_here(repo, revision, "and could not be fetched from the Hub") from None
    _verify_download(info, folder, names)
    return folder, str(info.sha)


def _wanted(info: "ModelInfo", dtype: str) -> list[str]:
    """The files to fetch: texts, and for each part one set of safetensors weights."""
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
    published = [name for name in sizes if PUBLISHED.fullmatch(name)]
    if "universal-ir.pth" in sizes and len(published) < 2:
        raise BadInput(
            f"{info.id} holds its weights as pickles, which can run code.", UNIVERSAL_AS_SAFETENSORS
        )
    if published:
        names, has_weights = published, len(published) == 2
    elif {"model_index.json", "restoration.json"} & sizes.keys():
        names = [name for name in sizes if TEXT_FILES.fullmatch(name)]
        for part in COMPONENTS:
            names += _weights(f"{part}/", list(sizes), dtype)
        has_weights = any(re.fullmatch(r"unet/.+\.safetensors", name) for name in names)
    elif "config.json" in sizes:
        names = [name for name in sizes if LANGUAGE_FILES.fullmatch(name)]
        names += (weights := _weights("", list(sizes), dtype))
        has_weights = bool(weights)
    else:
        raise BadInput(
            f"{info.id} is not in diffusers layout, nor a language model.",
            "It has no model_index.json and no config.json.",
        )
    if not has_weights:
        raise BadInput(f"{info.id} holds no safetensors weights.", SAFETENSORS_ONLY)
    total = sum(sizes[name] for name in names)
    check_size(total)
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    if total > shutil.disk_usage(cache).free:
        raise OutOfBudget(
            f"{info.id} needs {total / 1e9:.1f} GB of disk, more than is free.",
            "Free some space, or set HF_HOME to a larger disk.",
        )
    return names


def _weights(place: str, names: Sequence[str], dtype: str) -> list[str]:
    """One set of weights in a folder of the repository; `place` ends in a slash, or is empty."""
    variants = (".fp16", "") if dtype in ("float16", "bfloat16") else ("", ".fp16")
    for variant in variants:
        for stem in STEMS:
            single = f"{place}{stem}{variant}.safetensors"
            if single in names:
                return [single]
            shards = re.compile(rf"{place}{stem}{re.escape(variant)}-\d+-of-\d+\.safetensors")
            if f"{place}{index_name(stem + variant)}" in names:
                return [name for name in names if shards.fullmatch(name)]
    return []


def _verify_download(info: "ModelInfo", folder: Path, names: Sequence[str]) -> None:
    """Compare what arrived with the checksums that the Hub announced for large files."""
    announced = {entry.rfilename: entry.lfs for entry in info.siblings or [] if entry.lfs}
    for name in set(names) & set(announced):
        with (folder / name).open("rb") as file:
            arrived = hashlib.file_digest(file, "sha256").hexdigest()
        if arrived != announced[name].sha256:
            (folder / name).unlink()
            raise AssetMissing(
                f"The download of {info.id} arrived damaged: {name}.", "Try it again."
            )


def _not_here(repo: str, revision: str | None, why: str) -> AssetMissing:
    pinned = f" --revision {revision}" if revision else ""
    return AssetMissing(
        f"{repo} is not on this machine, {why}.",
        f"With a network run `hf download {repo}{pinned}`, or copy the model's folder here and "
        "name its path. The model called world needs no network.",
    )


# ---------------------------------------------------------------------- folders and uploads


def home() -> Path:
    """Where this server keeps what visitors gave it: REWIND_HOME, or a temporary folder."""
    named = os.environ.get("REWIND_HOME")
    user = getattr(os, "getuid", lambda: "user")()
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"rewind-{user}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def from_user(source: str) -> Path:
    """The folder of an upload ("upload:3f2a..."), of a fetched package, or of a path.

    REWIND_FOLDERS lists the folders below which paths may be named; empty allows none. Unset, all
    are allowed except on a public Space. A path that is not allowed and one that does not exist
    get the same answer, so that nobody learns what lies on the server.
    """
    if source.startswith("upload:"):
        digest = source.removeprefix("upload:")
        folder = home() / "uploads" / digest
        if re.fullmatch(r"[0-9a-f]{64}", digest) and folder.is_dir():
            os.utime(folder)
            return folder
        raise AssetMissing("This upload is no longer here.", "Upload the checkpoint again.")
    if source.startswith("package:"):
        from engine.models import packaged

        return packaged.folder_of(source.removeprefix("package:"))
    try:
        folder = Path(source).expanduser().resolve()
        found = _is_allowed(folder) and folder.is_dir()
    except (OSError, ValueError, RuntimeError):
        found = False
    if not found:
        raise AssetMissing(
            "There is no such model: not shipped, not a Hub id (owner/name), not a folder here.",
            "Pick one from the list, or give the folder of a checkpoint in diffusers layout.",
        )
    return folder


def _is_allowed(folder: Path) -> bool:
    roots = os.environ.get("REWIND_FOLDERS")
    if roots is None:
        return os.environ.get("SYSTEM") != "spaces"
    return any(folder.is_relative_to(Path(r).resolve()) for r in roots.split(os.pathsep) if r)


def receive(archive: Path) -> str:
    """Unpack a zip of a checkpoint folder and give its source, "upload:<sha256 of the zip>".

    Checked before a byte is unpacked: names that lead out, links, sizes, number of files. Kinds of
    files that are never opened are left out. All or nothing; the oldest uploads make room
    (REWIND_UPLOADS_GB, 4 by default).
    """
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder = home() / "uploads" / digest
        if not folder.is_dir():
            with zipfile.ZipFile(archive) as packed:
                _unpack(packed, folder)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError):
        raise BadInput(
            "This is not a readable zip archive.", "Zip the checkpoint's folder."
        ) from None
    except OSError as error:
        raise OutOfBudget(
            f"The upload cannot be stored ({error.strerror}).", "Free some space."
        ) from None
    _make_room(folder)
    return f"upload:{digest}"


def _unpack(packed: zipfile.ZipFile, folder: Path) -> None:
    members = [info for info in packed.infolist() if not info.is_dir()]
    _check_members(members)
    top = _top_folder([PurePosixPath(info.filename) for info in members])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for info in members:
            name = PurePosixPath(info.filename).relative_to(top)
            if name.suffix not in (".safetensors", ".json", ".txt", ".jinja"):
                continue
            target = Path(scratch, "unpacked", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(info) as source, target.open("wb") as sink:
                # zipfile stops at the announced size, which was checked.
                shutil.copyfileobj(source, sink)
        unpacked = Path(scratch, "unpacked")
        if not unpacked.is_dir():
            raise BadInput("The archive holds no checkpoint.", SAFETENSORS_ONLY)
        check_folder(unpacked)
        unpacked.replace(folder)


def _check_members(members: Sequence[zipfile.ZipInfo]) -> None:
    limits = Limits.from_environment()
    if len(members) > limits.files:
        raise OutOfBudget(f"The archive holds {len(members)} files; {limits.files} are allowed.")
    check_size(sum(info.file_size for info in members), limits)
    for info in members:
        path = PurePosixPath(info.filename)
        leads_out = path.is_absolute() or ".." in path.parts or "\\" in info.filename
        if leads_out or stat.S_ISLNK(info.external_attr >> 16):
            raise BadInput("The archive holds a name that leads out of it.", "Zip it again.")
        if info.flag_bits & 1:
            raise BadInput("The archive is encrypted.", "Zip it without a password.")


def _top_folder(paths: Sequence[PurePosixPath]) -> PurePosixPath:
    """The folder inside the archive that holds model_index.json, or else the top config.json."""
    indices = [path.parent for path in paths if path.name == "model_index.json"]
    if not indices:
        configs = [path.parent for path in paths if path.name == "config.json"]
        indices = sorted(configs, key=lambda path: len(path.parts))[:1]
    if len(indices) != 1 or any(not path.is_relative_to(indices[0]) for path in paths):
        raise BadInput(
            "The archive is not one checkpoint folder with a model_index.json.",
            "Zip the folder that `pipeline.save_pretrained` wrote.",
        )
    return indices[0]


def _make_room(keep: Path) -> None:
    limit = float(os.environ.get("REWIND_UPLOADS_GB", "4")) * 1e9
    folders = sorted(keep.parent.iterdir(), key=lambda folder: folder.stat().st_mtime)
    sizes = {f: sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) for f in folders}
    for folder in folders:
        if sum(sizes.values()) <= limit:
            return
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]
    if sizes.get(keep, 0) > limit:
        shutil.rmtree(keep, ignore_errors=True)
        raise _too_large(limit)


def _too_large(limit: float) -> EngineError:
    return OutOfBudget(
        f"Uploads may weigh {limit / 1e9:.0f} GB in all.", "Raise REWIND_UPLOADS_GB."
    )
