"""The shipped recordings: two speakers whom the model never heard, and noises it never heard."""

import json
from dataclasses import dataclass
from functools import cache

import torch

from engine.core import rng
from engine.core.catalog import ROOT
from engine.core.errors import AssetMissing, BadInput
from engine.core.shapes import Float, Int, Tensor
from engine.models.tensor_file import TensorFile
from engine.sampling.sgmse import noises

FOLDER = ROOT / "assets" / "data" / "speech"


@dataclass(frozen=True)
class Clip:
    """One sentence; `text` is its English meaning."""

    key: str
    speaker: str
    text: str


@cache
def clips() -> tuple[Clip, ...]:
    """What there is to choose from."""
    listed = json.loads((FOLDER / "clips.json").read_text(encoding="utf-8"))
    return tuple(Clip(**entry) for entry in listed["clips"])


@cache
def _samples() -> dict[str, Int[Tensor, " l"]]:
    path = FOLDER / "clips.safetensors"
    if not path.is_file():
        raise AssetMissing(
            "The example recordings are not in assets/data/speech.",
            "Fetch the repository again, or run: python -m engine.zoo build speech-clips",
        )
    return TensorFile(path.name, path.read_bytes()).read()


def sentence(key: str) -> Float[Tensor, "1 l"]:
    """The clean recording of a clip, at 8 kHz."""
    known = [clip.key for clip in clips()]
    if key not in known:
        raise BadInput(f'There is no clip "{key[:40]}".', f"Choose {', '.join(known)}.")
    return _samples()[key].float()[None] / 32768


def recorded() -> dict[str, Float[Tensor, " n"]]:
    """Material for music and babble."""
    return {name: _samples()[name].float() / 32768 for name in noises.RECORDED}


def spoilt(
    clean: Float[Tensor, "1 l"], kind: str, snr: float, t60: float, seed: int, sample_rate: int
) -> Float[Tensor, "1 l"]:
    """A clean sentence in a room (`t60` > 0) and under noise; equal seed, equal noise."""
    generator = rng.generator(seed, "spoil", kind)
    column = lambda value: torch.tensor([[value]])  # noqa: E731 (three columns)
    if t60 > 0:
        room = rng.generator(seed, "room")
        clean = noises.reverberant(clean, sample_rate, column(t60), column(3.0), room)
    added = noises.noise(kind, 1, clean.shape[-1], sample_rate, generator, recorded())
    return noises.mixed(clean, added, column(snr))
