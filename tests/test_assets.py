"""What ships in assets/: kinds of files, sizes, and the checksums that the cards list."""

import hashlib
import json
from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[1] / "assets"
KINDS = {".safetensors", ".png", ".json", ".txt", ".css", ".md", ".js", ".woff2"}
FILES = sorted(path for path in ASSETS.rglob("*") if path.is_file())
CARDS = [path for path in FILES if path.name == "card.json"]
MODELS = sorted(path for path in (ASSETS / "models").glob("*") if path.is_dir())


def listed_checksums(card: Path) -> dict[str, str]:
    """File name, relative to the card, to sha256."""
    return json.loads(card.read_text(encoding="utf-8"))["sha256"]


def test_only_plain_kinds_of_files_ship():
    assert [path for path in FILES if path.suffix not in KINDS] == []


def test_sizes_stay_below_the_bars():
    sizes = {path: path.stat().st_size / 2**20 for path in FILES}
    assert [path for path, megabytes in sizes.items() if megabytes > 20] == []
    assert sum(sizes.values()) <= 120


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".json"], ids=str)
def test_json_parses(path: Path):
    json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_every_checkpoint_has_a_card_with_licence_and_checksums(folder: Path):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["licence"]
    weights = {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")}
    assert weights <= set(card["sha256"])


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.parent.name)
def test_listed_checksums_match(card: Path):
    for name, wanted in listed_checksums(card).items():
        content = (card.parent / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == wanted, name


def test_what_was_made_for_a_checkpoint_fits_the_one_that_ships():
    """Membranes, words and adapters are passed over in silence on another revision."""
    from engine.models.library import MODELS as cards

    bound = {}
    for card in cards.values():
        if "made_for_revision" in card.notes:
            bound[card.key] = (card.notes["made_for"], card.notes["made_for_revision"])
        elif " " in str(card.notes.get("base", "")):
            bound[card.key] = tuple(str(card.notes["base"]).split(" "))
    assert {"spm-world", "relations"} <= set(bound)
    for base, revision in bound.values():
        assert cards[base].revision == revision
