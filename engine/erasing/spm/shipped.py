"""Membranes that ship with the embedded world, so that the first look needs no training.

They belong to one revision of the world; for another one they are passed over, and the membrane is
trained. Made by `python -m engine.zoo build spm-world`.
"""

import json

import numpy as np

from engine.core.errors import EngineError
from engine.erasing.spm.files import read, written
from engine.erasing.spm.training import Losses, Plan, Trained
from engine.models.diffusion import DiffusionBundle
from engine.models.library import ASSETS, MODELS, verify

KEY = "spm-world"
CONCEPTS = ("neon style", "penguin", "car")


def file_name(concept: str) -> str:
    return f"{concept.replace(' ', '_')}.safetensors"


def shipped(bundle: DiffusionBundle, concept: str, plan: Plan) -> Trained | None:
    """The shipped membrane of a concept; None where there is none for this model and plan."""
    card = MODELS.get(KEY)
    if card is None or bundle.ref.edits or bundle.ref.source != card.notes.get("made_for"):
        return None
    if bundle.ref.revision != card.notes.get("made_for_revision") or plan != Plan():
        return None
    name = file_name(concept)
    if name not in card.sha256:
        return None
    try:
        verify(card, ASSETS / KEY)
        data = (ASSETS / KEY / name).read_bytes()
        membrane = read(data, bundle.unet)
    except (EngineError, OSError):
        return None
    rows = json.loads((ASSETS / KEY / "losses.json").read_text(encoding="utf-8"))[concept]
    losses = tuple(Losses(*row) for row in rows)
    return Trained(membrane, losses, plan.iterations)


def save(concept: str, trained: Trained, folder_losses: dict[str, list[list[float]]]) -> None:
    """A membrane and its losses into the folder of the shipped ones."""
    folder = ASSETS / KEY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file_name(concept)).write_bytes(written(trained.membrane).data)
    rows = np.array([(loss.erase, loss.anchor, loss.total) for loss in trained.losses])
    kept = rows[:: max(1, len(rows) // 150)]
    folder_losses[concept] = [[float(f"{value:.4g}") for value in row] for row in kept]
    text = json.dumps(folder_losses, indent=0) + "\n"
    (folder / "losses.json").write_text(text, encoding="utf-8")
