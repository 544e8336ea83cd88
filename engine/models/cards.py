"""The models that ship here: their cards, and whether their files are the published ones.

A shipped checkpoint is a folder in assets/models with a `card.json`:

    {"key": "world", "title": "...", "kind": "diffusion", "licence": "...", "source": "...",
     "sha256": {"unet/config.json": "...", ...}}

A card with "hub" and "revision" in place of "sha256" gives a short key to a pinned model of the
Hub. Further keys are kept in `notes`. No torch.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.errors import AssetMissing, BadInput, EngineError
from engine.core.recipe import Plain
from engine.models._checks import read_json

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "models"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelCard:
    """What is known about a model without loading it."""

    key: str
    title: str
    kind: str
    licence: str
    source: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    hub: str = ""
    revision: str = ""
    notes: Mapping[str, Plain] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "ModelCard":
        """The card in a `card.json`. Raises `BadInput` or `AssetMissing` when it is not one."""
        entries = read_json(path)
        texts = {name: entries.pop(name, "") for name in _CARD_TEXTS}
        sha256 = entries.pop("sha256", {})
        absent = [name for name in _CARD_TEXTS[:5] if not texts[name]]
        if absent or not isinstance(sha256, dict) or not (sha256 or texts["hub"]):
            missing = absent[0] if absent else "sha256"
            raise BadInput(f"The card of the model {path.parent.name} has no {missing}.")
        digest = hashlib.sha256(json.dumps(sha256, sort_keys=True).encode()).hexdigest()[:16]
        texts["revision"] = texts["revision"] or digest
        return cls(**texts, sha256=sha256, notes=entries)


_CARD_TEXTS = ("key", "title", "kind", "licence", "source", "hub", "revision")


def read_cards(folder: Path = ASSETS) -> dict[str, ModelCard]:
    """The cards of all checkpoints in a folder by key; an unreadable one is logged and left out."""
    cards = {}
    for path in sorted(folder.glob("*/card.json")):
        try:
            card = ModelCard.read(path)
        except EngineError as error:
            log.error("%s: %s", path, error)
            continue
        if card.key == path.parent.name:
            cards[card.key] = card
        else:
            log.error("%s is the card of %s; folder and key must be equal", path, card.key)
    return cards


MODELS: Mapping[str, ModelCard] = read_cards()


# ---------------------------------------------------------------------- checksums


def verify(card: ModelCard, folder: Path) -> None:
    """Compare the files of a shipped model with the checksums of its card.

    Each file is read once a process, and again when its size or time changes.
    Raises `AssetMissing` that names the first file that is absent or differs.
    """
    for name, expected in card.sha256.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BadInput(f"The card of {card.key} names a file outside its folder.")
        if not path.is_file():
            raise AssetMissing(
                f"The shipped model {card.key} lacks the file {name}.",
                f"Check the repository out again, or run: python -m engine.zoo build {card.key}",
            )
        if _sha256(path, *size_and_time(path)) != expected:
            raise AssetMissing(
                f"The file {name} of the shipped model {card.key} is not the published one.",
                f"Check the repository out again, or run: python -m engine.zoo build {card.key}",
            )


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes of a file and its last change in nanoseconds: a file that is written anew differs."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


_HASHES: dict[tuple[Path, int, int], str] = {}


def _sha256(path: Path, size: int, changed: int) -> str:
    key = (path, size, changed)
    if key not in _HASHES:
        with path.open("rb") as file:
            _HASHES[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _HASHES[key]
