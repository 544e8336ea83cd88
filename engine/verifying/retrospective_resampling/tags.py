"""The three tokens that a model writes around a phrase, and everything that is read from them.

`<SPAN>` opens a key phrase. `</CN>` closes one that is grounded in the picture, `</UN>` one that is
not. They are ordinary words of the vocabulary, so a decoder that skips special tokens keeps them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.core.errors import ModelMismatch
from engine.core.shapes import Float, Int, Tensor
from engine.models.language import LanguageBundle

SPAN, CN, UN = "<SPAN>", "</CN>", "</UN>"
IGNORE = -100
FORMAT_ERROR = "Format Error"


@dataclass(frozen=True)
class Tags:
    """Token ids of the three marks."""

    span: int
    cn: int
    un: int

    @property
    def closers(self) -> tuple[int, int]:
        return self.cn, self.un

    @classmethod
    def of(cls, bundle: LanguageBundle) -> "Tags":
        """The marks of a model. Raises `ModelMismatch` when it was not trained with them."""
        tokenizer = bundle.tokenizer
        ids = [tokenizer.convert_tokens_to_ids(mark) for mark in (SPAN, CN, UN)]
        known = [token for token in ids if token is not None and token != tokenizer.unk_token_id]
        rows = bundle.model.get_input_embeddings().num_embeddings
        if len(set(known)) != 3 or max(known) >= rows:
            raise ModelMismatch(
                f"{bundle.card.title} was not trained with the REVERSE tokens {SPAN}, {CN} and "
                f"{UN}, so it has no confidence to read.",
                "Pick a REVERSE checkpoint, such as tsunghanwu/reverse_qwen25_vl, or train one on "
                "tagged captions as engine/zoo/emoji_llava.py does.",
            )
        return cls(*known)


@dataclass(frozen=True)
class Phrase:
    """A phrase in a list of tokens: `start` is the place of `<SPAN>`, `stop` that of its closer."""

    start: int
    stop: int


def phrases(ids: Sequence[int], tags: Tags) -> list[Phrase] | None:
    """The phrases of a text in order, or None when opening and closing marks do not pair up."""
    closed: list[Phrase] = []
    opened = None
    for place, token in enumerate(ids):
        if token == tags.span:
            if opened is not None:
                return None
            opened = place
        elif token in tags.closers:
            if opened is None:
                return None
            closed.append(Phrase(opened, place))
            opened = None
    return closed if opened is None else None


def p_ungrounded(logits: Float[Tensor, " vocab"], tags: Tags) -> float:
    """P(UN) at a closing place: the softmax of the raw logits, before any temperature."""
    return float(logits.cpu().double().softmax(-1)[tags.un])


def first_closer(ids: Sequence[int], tags: Tags) -> int | None:
    """The place of the first closing mark."""
    return next((place for place, token in enumerate(ids) if token in tags.closers), None)


# ---------------------------------------------------------------------- words


def without_tags(text: str) -> str:
    """The text with the three marks taken out and nothing else changed."""
    for mark in (SPAN, CN, UN):
        text = text.replace(mark, "")
    return text.strip()


def rendered(text: str) -> str:
    """The text as a reader sees it: no marks, single blanks, none before punctuation."""
    plain = " ".join(without_tags(text).split())
    return re.sub(r"\s+([.,!?;:])", r"\1", plain)


def sentence_end(pieces: Sequence[str], enders: str = ".") -> int:
    """How many tokens remain when everything behind the last full stop is cut off."""
    ends = [
        place for place, piece in enumerate(pieces) if piece.strip() and piece.strip() in enders
    ]
    return ends[-1] + 1 if ends else 0


def whole_sentences(text: str, enders: str = ".") -> str:
    """The text up to its last full stop; empty where there is none."""
    return text[: max(map(text.rfind, enders)) + 1]


# ---------------------------------------------------------------------- training


def masked_labels(targets: Int[Tensor, "b n"], tags: Tags) -> Int[Tensor, "b n"]:
    """Targets with the inside of every ungrounded phrase ignored.

    The model shall know a wrong phrase when it sees one, and not learn to say it: tokens strictly
    between `<SPAN>` and `</UN>` have no loss, the marks themselves keep theirs. As in the published
    code, a `</UN>` without an open `<SPAN>` masks everything before it.
    """
    labels = targets.clone()
    for row, line in enumerate(targets.tolist()):
        opened = -1
        for place, token in enumerate(line):
            if token == tags.span:
                opened = place
            elif token == tags.cn:
                opened = -1
            elif token == tags.un:
                labels[row, opened + 1 : place] = IGNORE
                opened = -1
    return labels


def tagged_loss(
    logits: Float[Tensor, "n vocab"],
    labels: Int[Tensor, " n"],
    tags: Tags,
    *,
    end: int,
    penalty: float = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy over the targets that count.

    `penalty` weighs the targets `</UN>` and end of text, as an option of the published code does;
    the released models have 1. The mean is over the number of targets, not over the weights.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    weights = torch.where((labels == tags.un) | (labels == end), penalty, 1.0)
    return (losses * weights).sum() / (labels != IGNORE).sum()
