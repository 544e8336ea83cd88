"""A stand-in for a language model whose whole memory is its cache.

Its keys are the tokens themselves, so a cache that was cut wrongly gives other words at once. It
speaks a small grammar of tagged captions; its words and its doubts are hashed from all it has read.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from transformers import LlamaConfig

from engine.core.recipe import ModelRef
from engine.models.language import LanguageBundle
from engine.models.library import ModelCard
from engine.zoo.emoji_llava import build_tokenizer

NOUNS = ("cat", "dog", "rose", "bus", "car")
FOLLOWS = {
    "there": ("is",),
    "is": ("<SPAN>",),
    "<SPAN>": ("a",),
    "a": NOUNS,
    **dict.fromkeys(NOUNS, ("</CN>", "</UN>")),
    "</CN>": ("and", "and", "."),
    "</UN>": ("and", ".", "</s>"),
    "and": ("<SPAN>",),
    ".": ("there", "</s>", "</s>"),
}


class Grammar(nn.Module):
    """Logits from a hash of every token in the cache."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.embedding = nn.Embedding(len(self.words), 1)
        self.config = LlamaConfig(num_hidden_layers=1, vocab_size=len(self.words))
        self.generation_config = SimpleNamespace(eos_token_id=None)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids, past_key_values, use_cache, logits_to_keep):
        new = input_ids.float().reshape(1, 1, -1, 1)
        keys, _ = past_key_values.update(new, new, 0)
        read = keys.flatten().long().tolist()
        return SimpleNamespace(logits=self.logits_after(read)[None, None])

    def logits_after(self, read: list[int]) -> torch.Tensor:
        digest = hashlib.blake2b(repr(read).encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        logits = torch.full((len(self.words),), -30.0)
        allowed = FOLLOWS.get(self.words[read[-1]], ("there",))
        for word in allowed:
            logits[self.words.index(word)] = 3 * torch.rand((), generator=generator)
        if "</UN>" in allowed and "</CN>" in allowed:
            # Doubt from 1e-5 to about one half.
            logits[self.words.index("</UN>")] = -11 * torch.rand((), generator=generator)
            logits[self.words.index("</CN>")] = 0.0
        return logits


def grammar_bundle(folder: Path) -> LanguageBundle:
    """The grammar as a model of the library."""
    tokenizer = build_tokenizer(folder)
    card = ModelCard("grammar", "Grammar", "language", "none", "tests")
    return LanguageBundle(
        ModelRef("grammar"), card, folder, Grammar(tokenizer), "cpu", "float32",
        tokenizer, None, "<image>", None,
    )  # fmt: skip
