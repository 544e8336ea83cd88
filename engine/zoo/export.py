"""Write a trained checkpoint as a folder that diffusers reads, with its card."""

import copy
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.catalog import ROOT
from engine.world import vocabulary as words
from engine.zoo.denoiser import Denoiser

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LARGEST_FILE = "12MB"  # of weights; larger ones are split
MODELS = ROOT / "assets" / "models"
LICENCE = "Apache-2.0 (weights); trained on drawings under Apache-2.0, MIT and CC-BY-4.0"
ABOUT = (
    "Trained on emoji drawings with rendered styles: small pictures of a small world, nothing like "
    "the models of the same layout that were trained on photographs."
)
SOURCE = "Trained from nothing by engine/zoo on emoji drawings of seven artists' teams."


def export_pipeline(
    model: Denoiser, vae: "AutoencoderKL", folder: Path, artists: Iterable[str] = ()
) -> None:
    """A StableDiffusionPipeline folder in half precision, and the words it was trained on, those
    for `artists` among them."""
    from diffusers import StableDiffusionPipeline

    # Copies, since half() converts in place and the caller goes on with full precision.
    half = {
        name: copy.deepcopy(part).half().cpu()
        for name, part in {
            "vae": vae,
            "unet": model.unet,
            "text_encoder": model.text_encoder,
        }.items()
    }
    pipeline = StableDiffusionPipeline(
        **half,
        tokenizer=model.tokenizer,
        scheduler=model.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=LARGEST_FILE)
    _forget_where_it_was(folder)
    known = {
        "words": sorted({*words.trained_words(), *artists}),
        "synonyms": words.SYNONYMS,
        "near": words.NEAR,
    }
    (folder / "vocabulary.json").write_text(json.dumps(known, indent=1) + "\n")


def export_autoencoder(vae: "AutoencoderKL", folder: Path) -> None:
    """The autoencoder alone, in half precision, into a pipeline's folder; the rest stays."""
    copy.deepcopy(vae).half().cpu().save_pretrained(folder / "vae", safe_serialization=True)
    _forget_where_it_was(folder)


def _forget_where_it_was(folder: Path) -> None:
    """Drop the folder that weights were read from, which the libraries write into configs."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_card(
    folder: Path, *, key: str, title: str, kind: str, made_by: str = "", **notes: object
) -> None:
    """card.json: what it is, its licence, the digest of every file, and the measured bars; and a
    README, which says that `build made_by` makes it, by default `build key`."""
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name not in ("card.json", "README.md")
    )
    card = {
        "key": key,
        "title": title,
        "kind": kind,
        "licence": LICENCE,
        "source": SOURCE,
        **notes,
        "sha256": {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(_readme(card, made_by or key))


def _readme(card: dict, made_by: str) -> str:
    """The card as the Hub shows it."""
    figures = "\n".join(_rows(card.get("measured", {})))
    return f"""---
license: apache-2.0
tags: [rewind, {card["kind"]}]
---
# {card["title"]}

{card["source"]} {card.get("about", ABOUT)}

Made again by `python -m engine.zoo build {made_by}`. Drawings, artists and licences:
`assets/LICENSES.md`. Measured at the end of `python -m engine.zoo build {made_by}`:

| what | figure |
|---|---|
{figures}
"""


def _rows(measured: dict, before: str = "") -> list[str]:
    rows = []
    for name, value in measured.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{before}{name}: ")
        else:
            text = f"{value[0]:.3f} of {value[1]}" if isinstance(value, tuple | list) else value
            rows.append(f"| {before}{name.replace('_', ' ')} | {text} |")
    return rows
