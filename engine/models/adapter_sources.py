"""Where adapters come from: shipped, uploaded, from the Hub, or from a folder of the user.

    path = find("world-styles/gold")              shipped, checked against its card
    path = find("upload:3f2a.../gold")            unpacked from a zip, or a single file
    path = find("owner/name@revision")            two small files of the Hub
    path = find("/home/me/my-lora.safetensors")

What a visitor uploads is checked before a byte is unpacked.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.core import disk
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.core.job import Steps, finish
from engine.models import _hub, _uploads
from engine.models._checks import SAFETENSORS_ONLY, check_folder, read_header, what_is
from engine.models._sources import from_user, is_on_hub, place
from engine.models.adapters import CONFIG, WEIGHTS, open_lora
from engine.models.cards import ASSETS, MODELS, verify

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

MOST_MEMBERS, MOST_BYTES = 200, 1_000_000_000
UPLOAD = re.compile(r"upload:([0-9a-f]{64})(?:/([\w.-]{1,80}))?")


def find(source: str) -> Path:
    """The folder or file of an adapter. Raises an `EngineError` when it is not to be had."""
    if upload := UPLOAD.fullmatch(source):
        return _uploaded(upload[1], upload[2])
    key, _, name = source.partition("/")
    card = MODELS.get(key)
    if card is not None and card.kind == "adapters":
        if name not in card.notes.get("adapters", {}):  # type: ignore[operator]
            raise AssetMissing(f"{key} has no adapter {name[:40]}.", "Choose one from the list.")
        folder = ASSETS / key
        verify(card, folder)
        return folder / "adapters" / name
    repo, _, revision = source.partition("@")
    if is_on_hub(repo) and place(source) is None:
        return _adapter_in(finish(_hub.fetch(_wanted(repo, revision or None))))
    return _of_user(source)


def fetch(source: str) -> Steps[None]:
    """Brings an adapter of the Hub to this machine, its bytes as progress; leaves others alone."""
    repo, _, revision = source.partition("@")
    if is_on_hub(repo) and place(source) is None:
        yield from _hub.fetch(_wanted(repo, revision or None))


def _of_user(source: str) -> Path:
    """A file or folder that may be named, as `from_user` says; its links may lead nowhere else."""
    if source.startswith("package:"):
        return from_user(source)
    path = place(source)
    if path is not None and path.is_dir():
        inside = [path / name for name in (CONFIG, WEIGHTS)]
        if all(place(file) is not None for file in inside if file.is_symlink()):
            return path
    if path is not None and path.is_file() and source.endswith(".safetensors"):
        return path
    raise AssetMissing(
        "There is no such adapter: not shipped, not a Hub id (owner/name), not a file or folder "
        "here.",
        "Check the path, or upload the adapter.",
    )


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
    folder = _uploads.uploads() / digest
    path = folder / name if name else folder
    if not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
        raise AssetMissing("This upload is no longer here.", "Upload the adapter again.")
    disk.mark_used(folder)
    return path


# ---------------------------------------------------------------------- archives and files


def _unzip(archive: Path) -> list[str]:
    def fill(folder: Path) -> None:
        with _uploads.archive(archive) as packed:
            members = _uploads.checked_members(
                packed, archive, most_files=MOST_MEMBERS, most_bytes=MOST_BYTES
            )
            for info in members:
                if place := _place(PurePosixPath(info.filename)):
                    _uploads.unpack(packed, info, folder / place)

    return _kept([archive], fill)


def _place(path: PurePosixPath) -> str:
    """Where a file of an archive goes: one subfolder an adapter. Empty for what is left out.

    A folder keeps its own name, a file beside others becomes a name of its own.
    """
    if path.name in (CONFIG, WEIGHTS):
        return f"{_safe(path.parent.name or 'adapter')}/{path.name}"
    return _safe(path.name) if path.suffix == ".safetensors" else ""


def _kept(files: Sequence[Path], fill: Callable[[Path], None]) -> list[str]:
    """The sources of what `fill` makes of these files; what cannot be opened is not kept."""
    digest = _uploads.digest_of_named(files)

    def checked(folder: Path) -> None:
        fill(folder)
        if not (adapters := _adapters_in(folder)):
            raise BadInput("There is no adapter in what was uploaded.", SAFETENSORS_ONLY)
        check_folder(folder)
        for path in adapters:
            open_lora(path)  # here and not in a later run, where a bad file would spoil all others

    folder = _uploads.keep(digest, checked)
    return [f"{_uploads.PREFIX}{digest}/{path.name}" for path in _adapters_in(folder)]


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

    def fill(folder: Path) -> None:
        for file in files:
            inside = folder / "adapter" if file.name in (CONFIG, WEIGHTS) else folder
            inside.mkdir(exist_ok=True)
            shutil.copyfile(file, inside / _safe(file.name))

    return _kept(files, fill)


def _adapters_in(folder: Path) -> list[Path]:
    """Every PEFT folder and every loose file of an upload, each of which is an adapter."""
    folders = {path.parent for path in folder.rglob(WEIGHTS)}
    loose = {path for path in folder.glob("*.safetensors") if path.name != WEIGHTS}
    for path in folders:
        if not (path / CONFIG).is_file():
            raise BadInput(
                f"{path.name} has weights but no {CONFIG}, so its scale is not known.",
                "Upload the whole PEFT folder.",
            )
    return sorted(folders | loose)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)[-80:].lstrip(".") or "adapter"


# ---------------------------------------------------------------------- the Hub


def _wanted(repo: str, revision: str | None) -> _hub.Wanted:
    """Config and weights of a PEFT repository, or its one LoRA file."""
    return _hub.Wanted(repo, revision, _chosen, lambda folder: _adapter_or_none(folder) is not None)


def _chosen(info: "ModelInfo") -> list[str]:
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
    if WEIGHTS in sizes and CONFIG in sizes:
        names = [WEIGHTS, CONFIG]
    else:
        names = [name for name in sizes if name.endswith(".safetensors") and "/" not in name][:1]
    if not names:
        raise BadInput(f"{info.id} holds no adapter as safetensors.", SAFETENSORS_ONLY)
    if sum(sizes[name] for name in names) > MOST_BYTES:
        raise OutOfBudget(f"The adapter of {info.id} is too large.", "Take one of a smaller rank.")
    return names


def _adapter_or_none(folder: Path) -> Path | None:
    """The adapter in a folder of the Hub's cache: the folder itself, or its one file."""
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return folder
    return next(iter(sorted(folder.glob("*.safetensors"))), None)


def _adapter_in(folder: Path) -> Path:
    adapter = _adapter_or_none(folder)
    assert adapter is not None, "the download was checked"
    return adapter
