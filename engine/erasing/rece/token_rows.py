"""Which token rows of a text are erased, replaced and kept. Three rules are in use.

classic  UCE of 2023-24, where RECE starts: the last word's token, the end token and all padding of
         the erased text; of the kept texts every row.
last     UCE of 2025: the last word's token alone, of erased, guide and kept texts.
all      every row, start token included; RECE's epochs always do this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.erasing.rece.closed_form import Pair
from engine.models.diffusion import DiffusionBundle, encode_prompt

Rule = Literal["classic", "last", "all"]


@dataclass(frozen=True)
class Encoded:
    """The token states of a text, and the place of its last word (0 for a text without words)."""

    text: str
    rows: Float[Tensor, "n d"]
    last_word: int


def encode(bundle: DiffusionBundle, texts: Sequence[str]) -> dict[str, Encoded]:
    """Every text encoded once, however often it is used.

    Raises `BadInput` for a text that the encoder cannot see whole.
    """
    distinct = list(dict.fromkeys(texts))
    lengths = [_length(bundle, text) for text in distinct]
    states = encode_prompt(bundle, distinct).tokens.cpu().double()
    # From the attention mask, not from the end token's number: SD 2.x pads with another token.
    return {
        text: Encoded(text, rows, length - 2)
        for text, rows, length in zip(distinct, states, lengths, strict=True)
    }


def _length(bundle: DiffusionBundle, text: str) -> int:
    """Tokens of a text with start and end."""
    tokenizer = bundle.tokenizers[0]
    length = len(tokenizer(text, truncation=False).input_ids)
    longest = tokenizer.model_max_length
    if length > longest - 1:
        raise BadInput(
            f'"{text[:40]}…" is too long ({length - 2} tokens; this model erases at most '
            f"{longest - 3}).",
            "Use a word or a short phrase.",
        )
    return length


def pair(old: Encoded, new: Encoded, rule: Rule) -> Pair:
    """The rows of a concept and of its guide, equally many.

    The classic slices are cut so that the later of the two last words still has as many rows after
    it as the earlier one.
    """
    if rule == "all":
        return Pair(old.rows, new.rows)
    if rule == "last":
        return Pair(old.rows[old.last_word][None], new.rows[new.last_word][None])
    count = len(old.rows) - max(old.last_word, new.last_word)
    return Pair(
        old.rows[old.last_word : old.last_word + count],
        new.rows[new.last_word : new.last_word + count],
    )


def kept_rows(text: Encoded, rule: Rule) -> Float[Tensor, "r d"]:
    """The rows of a kept text that count."""
    return text.rows[text.last_word][None] if rule == "last" else text.rows
