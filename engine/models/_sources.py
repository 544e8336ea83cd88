"""Where the files of a model come from when they are not shipped: the Hub, or the user's disk.

The token of the server's owner is used for models named on a card, never for an id that a visitor
typed, unless REWIND_HUB_TOKEN=1 says that the visitor is the owner. No message, log line or recipe
repeats what the Hub's library said, as that may hold addresses with a signature.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.core import disk
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.core.job import Steps, finish
from engine.models import _hub, _uploads
from engine.models._checks import SAFETENSORS_ONLY, Limits, check_size, index_name, read_json

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
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
    """Folder and commit of a model of the Hub; see `fetch`."""
    folder = finish(fetch(repo, revision, lambda: dtype, trusted))
    return folder, folder.name


def fetch(repo: str, revision: str | None, dtype: Callable[[], str], trusted: bool) -> Steps[Path]:
    """The folder of a model of the Hub; downloads the few files that are opened.

    `dtype` is asked only where something is downloaded, as torch has to say what it is.

    Raises `AssetMissing` when it is not here and cannot be fetched, `OutOfBudget` when it is too
    large, `BadInput` when it holds no weights that are read.
    """
    return (
        yield from _hub.fetch(
            _hub.Wanted(
                repo, revision, lambda info: _wanted(info, dtype()), is_complete, trusted=trusted
            )
        )
    )


def tower_of(folder: Path) -> str:
    """The vision tower that a LLaVA checkpoint names and does not bring; empty for others."""
    config = folder / "config.json"
    if (folder / "vision_tower").is_dir() or not config.is_file():
        return ""
    tower = read_json(config).get("mm_vision_tower")
    return tower if isinstance(tower, str) and HUB_ID.fullmatch(tower) else ""


def is_complete(folder: Path) -> bool:
    """Whether each part that the checkpoint names has weights."""
    if any((folder / name).is_file() for name in RESTORATION):
        return any(folder.rglob("*.safetensors"))
    if (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        return any(folder.glob("*.safetensors"))
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    parts = [part for part in COMPONENTS if isinstance(index, dict) and index.get(part)]
    return bool(parts) and all(any((folder / part).glob("*.safetensors")) for part in parts)


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


# ---------------------------------------------------------------------- folders and uploads


def from_user(source: str) -> Path:
    """The folder of an upload ("upload:3f2a..."), of a fetched package, or of a path.

    REWIND_FOLDERS lists the folders below which paths may be named; empty allows none. Unset, all
    are allowed except on a public Space. A path that is not allowed and one that does not exist
    get the same answer, so that nobody learns what lies on the server.
    """
    if source.startswith("upload:"):
        digest = source.removeprefix("upload:")
        folder = _uploads.uploads() / digest
        if re.fullmatch(r"[0-9a-f]{64}", digest) and folder.is_dir():
            disk.mark_used(folder)
            return folder
        raise AssetMissing("This upload is no longer here.", "Upload the checkpoint again.")
    if source.startswith("package:"):
        from engine.models import packaged

        return packaged.folder_of(source.removeprefix("package:"))
    target = place(source)
    if target is None or not target.is_dir():
        raise AssetMissing(
            "There is no such model: not shipped, not a Hub id (owner/name), not a folder here.",
            "Pick one from the list, or give the folder of a checkpoint in diffusers layout.",
        )
    return target


def place(path: str | Path) -> Path | None:
    """The file or folder that a path leads to, links followed, if it is here and may be named."""
    try:
        target = Path(path).expanduser().resolve()
        return target if _is_allowed(target) and target.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def is_on_hub(source: str) -> bool:
    """Whether a source names a model of the Hub.

    A folder of that name comes first, but only one that may be named: else the answer would tell
    which folders there are.
    """
    return bool(HUB_ID.fullmatch(source)) and place(source) is None


def _is_allowed(folder: Path) -> bool:
    roots = os.environ.get("REWIND_FOLDERS")
    if roots is None:
        return os.environ.get("SYSTEM") != "spaces"
    return any(folder.is_relative_to(Path(r).resolve()) for r in roots.split(os.pathsep) if r)


def receive(archive: Path) -> str:
    """Unpack a zip of a checkpoint folder and give its source, "upload:<sha256 of the zip>".

    Checked before a byte is unpacked: names that lead out, links, sizes, number of files. Kinds of
    files that are never opened are left out, and every header is read before anything is kept.
    """
    digest = _uploads.digest_of(archive)

    def fill(folder: Path) -> None:
        limits = Limits.from_environment()
        with _uploads.archive(archive) as packed:
            members = _uploads.checked_members(
                packed, archive, most_files=limits.files, most_bytes=limits.checkpoint_bytes
            )
            _unpack(packed, members, folder)
        _uploads.check_weights(folder)

    _uploads.keep(digest, fill)
    return f"{_uploads.PREFIX}{digest}"


def _unpack(packed: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    top = _top_folder([PurePosixPath(info.filename) for info in members])
    for info in members:
        name = PurePosixPath(info.filename).relative_to(top)
        if name.suffix in (".safetensors", ".json", ".txt", ".jinja"):
            _uploads.unpack(packed, info, folder / name)
    if not any(folder.iterdir()):
        raise BadInput("The archive holds no checkpoint.", SAFETENSORS_ONLY)


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
