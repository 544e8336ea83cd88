"""The encoders that MEFT is shown on: shipped, out of a Python package, or a user's own folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import ModelRef
from engine.core.shapes import Tensor
from engine.models import _sources
from engine.models._checks import read_json
from engine.models.library import ASSETS, MODELS, fork, source_title, verify
from engine.networks import _weights
from engine.networks._backbones import Backbone, Batch, DigitsBackbone
from engine.networks._places import place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGITS, CAPTIONS = "meft-digits", "meft-captions"
KINDS = "meft-kinds"  # adapters of the captions model
HEAD_FILE = "head.safetensors"
PACKAGE = "package:minilm"
LONGEST = 128


@dataclass(frozen=True)
class Encoder:
    """A backbone, how texts become tokens (None where it reads digits), and its trained head."""

    name: str
    backbone: Backbone
    tokenizer: "PreTrainedTokenizerBase | None"
    head: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.device

    @property
    def reads_digits(self) -> bool:
        return self.tokenizer is None

    def batch(self, texts: Sequence[str], longest: int = LONGEST) -> Batch:
        """Texts as tokens, cut where they are too long for the model."""
        if self.tokenizer is None:
            raise BadInput("This model reads digits, not texts.", "Take meft-captions for texts.")
        limit = min(longest, int(self.backbone.config.max_position_embeddings) - 2)
        found = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        return Batch(found["input_ids"], found["attention_mask"]).to(self.device)

    def fork(self) -> "Encoder":
        """The same weights in a structure of its own, to put adapters in."""
        return Encoder(self.name, fork(self.backbone), self.tokenizer, self.head)


def open_encoder(model: ModelRef | str) -> Encoder:
    """The encoder of a reference; a new structure over shared weights, which are frozen.

    Raises `AssetMissing`, `BadInput` or `ModelMismatch` as the files demand.
    """
    ref = model if isinstance(model, ModelRef) else ModelRef(model)
    folder = _folder(ref)
    return _read(ref.source, folder, _weights.stamp(folder), place()).fork()


def _folder(ref: ModelRef) -> Path:
    source = ref.source
    if source in (DIGITS, CAPTIONS):
        card = MODELS.get(source)
        if card is None:
            raise AssetMissing(
                f"The encoder {source} is not installed here.",
                f"Fetch the repository again, or make it: python -m engine.zoo build {source}",
            )
        verify(card, ASSETS / source)
        return ASSETS / source
    if _sources.is_on_hub(source):
        return _sources.from_hub(source, ref.revision, "float32", False)[0]
    return _sources.from_user(source)


@lru_cache(maxsize=3)
def _read(
    source: str, folder: Path, stamp: tuple[tuple[str, int, int], ...], device: torch.device
) -> Encoder:
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging as their_logging

    their_logging.disable_progress_bar()
    if source not in (DIGITS, CAPTIONS):
        _weights.check(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in ("bert", "roberta", "opt"):
        raise BadInput(
            f'A model of the type "{str(kind)[:40]}" cannot be made reversible here.',
            "Bring a BERT, RoBERTa or OPT model in transformers layout.",
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = "eager"
    has_pooler = source not in (DIGITS, CAPTIONS)
    extra: dict[str, Any] = {} if kind == "opt" else {"add_pooling_layer": has_pooler}
    model = AutoModel.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True,
        dtype=torch.float32, trust_remote_code=False, **extra,
    )  # fmt: skip
    model.eval().requires_grad_(False)
    if source == DIGITS:
        reader = DigitsBackbone(model)
        parts = _weights.read(folder / HEAD_FILE)
        reader.patches.load_state_dict({k: parts[f"patches.{k}"] for k in ("weight", "bias")})
        head = parts["head.weight"].to(device), parts["head.bias"].to(device)
        reader = reader.to(device).eval().requires_grad_(False)
        return Encoder(name_of(source), reader, None, head)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    is_mean = source == CAPTIONS or (folder / "1_Pooling").is_dir() or _is_sentence(folder)
    backbone = Backbone(model, pool="mean" if is_mean else None)
    backbone = backbone.to(device).eval().requires_grad_(False)
    return Encoder(name_of(source), backbone, tokenizer)


def name_of(source: str) -> str:
    """How a model is called: of a folder its last name, not its place on this machine."""
    is_place = source not in MODELS and ":" not in source and not _sources.is_on_hub(source)
    return Path(source).name if is_place else source_title(source)


def _is_sentence(folder: Path) -> bool:
    """Whether the folder is of sentence-transformers, whose models average their tokens."""
    path = folder / "modules.json"
    return path.is_file() and "Pooling" in json.dumps(json.loads(path.read_text("utf-8")))
