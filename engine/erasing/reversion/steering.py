"""The two ideas of the method: the steering loss, and times drawn where layout is decided."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.shapes import Array, Float, Int, Tensor
from engine.models.diffusion import DiffusionBundle

# 56 words that state relations.
RELATION_WORDS = (
    "aboard about above across after against along alongside amid amidst among amongst anti around "
    "astride at atop before behind below beneath beside between beyond by down following from in "
    "including inside into near of off on onto opposite out outside over past regarding round "
    "through throughout to toward towards under underneath up upon versus with within"
).split()
# 127 words that say little on their own: they are neither entities nor, here, relations.
STOP_WORDS = (
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself "
    "she her hers herself it its itself they them their theirs themselves what which who whom this "
    "that these those am is are was were be been being have has had having do does did doing a an "
    "the and but if or because as until while of at by for with about against between into through "
    "during before after above below to from up down in out on off over under again further then "
    "once here there when where why how all any both each few more most other some such no nor not "
    "only own same so than too very s t can will just don should now"
).split()


def steering_loss(
    row: Float[Tensor, " d"],
    positives: Float[Tensor, "p d"],
    negatives: Float[Tensor, "n d"],
    *,
    tau: float = 0.07,
) -> Float[Tensor, ""]:
    """Pulls the new word to words of relation and away from the words of the exemplars.

        s_x = cos(R, x) / tau
        L = logsumexp(s over positives and negatives) - logsumexp(s over positives)

    Rows are those of the token table, before positions are added. A word used twice counts twice.
    Without negatives the loss is 0.
    """

    def similarity(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows.detach(), dim=-1) @ unit / tau

    unit = torch.nn.functional.normalize(row, dim=-1)
    near, far = similarity(positives), similarity(negatives)
    return torch.logsumexp(torch.cat([near, far]), 0) - torch.logsumexp(near, 0)


def importance(steps: int, alpha: float) -> Float[Array, " steps"]:
    """p(t) proportional to 1 - alpha cos(pi t / T): more of the noisy times, which set layout."""
    weights = 1 - alpha * np.cos(np.pi * np.arange(steps) / steps)
    return weights / weights.sum()


def positive_ids(
    words: Sequence[Sequence[int]], count: int, batch: int, draw: np.random.Generator
) -> list[int]:
    """Tokens of `count` different words for each sample of a batch; `words` are words as tokens."""
    chosen = [
        words[index]
        for _ in range(batch)
        for index in draw.choice(len(words), count, replace=False)
    ]
    return [token for word in chosen for token in word]


def negative_ids(ids: Int[Tensor, "b n"], placeholder: int, silent: frozenset[int]) -> list[int]:
    """Tokens of the descriptions that are neither the new word nor silent: the entities."""
    return [i for i in ids.flatten().tolist() if i != placeholder and i not in silent]


@dataclass(frozen=True)
class Words:
    """The relation words as one model reads them, and the tokens that are never negatives."""

    relations: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    silent: frozenset[int]

    @classmethod
    def of(cls, bundle: DiffusionBundle, positives: int) -> "Words":
        """Raises `BadInput` when the model knows fewer relation words than are drawn at a time.

        Words that fall apart into an unknown token, or that a small model never saw, are left out.
        Padding is silent too: in some tokenizers it is a token of its own and not the end mark.
        """
        tokenizer = bundle.tokenizers[0]
        known = bundle.vocabulary.words if bundle.vocabulary else None
        special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        special.add(tokenizer.unk_token_id)
        relations, names = [], []
        for word in RELATION_WORDS:
            ids = tokenizer(word, add_special_tokens=False).input_ids
            if ids and not special & set(ids) and (known is None or word in known):
                relations.append(tuple(ids))
                names.append(word)
        if len(names) < positives:
            raise BadInput(
                f"This model knows {len(names)} words of relation, and {positives} are asked for.",
                f"Set positives to {max(len(names), 1)} or less, or switch steering off.",
            )
        listed = tokenizer([*STOP_WORDS, *RELATION_WORDS], add_special_tokens=False).input_ids
        silent = frozenset(token for word in listed for token in word)
        return cls(tuple(relations), tuple(names), silent | frozenset(special - {None}))
