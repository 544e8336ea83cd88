"""The tokenizer in the folder of a language model, whatever layout its weights have."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.errors import AssetMissing, BadInput
from engine.models._checks import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder. Raises `AssetMissing` or `BadInput` when there is none to use."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        if (folder / "tokenizer.model").is_file() and not _has_sentencepiece():
            raise AssetMissing(
                "This model's tokenizer is in SentencePiece form, which cannot be read here.",
                "Install sentencepiece, or save the tokenizer with transformers as tokenizer.json.",
            )
        if not (folder / "tokenizer.model").is_file():
            raise AssetMissing("The model's folder holds no tokenizer.", "Copy its tokenizer.json.")
    try:
        config = read_json(folder / "tokenizer_config.json")
        if config.get("tokenizer_class") == "PreTrainedTokenizerFast":
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except AssetMissing:
        raise
    except Exception as error:
        # The libraries answer odd files with any exception there is.
        raise BadInput(
            f"The tokenizer of this model cannot be read ({type(error).__name__}).",
            "Export or download the model again.",
        ) from error


def _has_sentencepiece() -> bool:
    from importlib.util import find_spec

    return find_spec("sentencepiece") is not None
