"""A CLIP tokenizer whose vocabulary is the words of the embedded world, one token a word."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from engine.world import vocabulary as words

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

POSITIONS = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path) -> "CLIPTokenizer":
    """The tokenizer in `folder`; made there first if it is not.

    Merges are trained until each known word is one token; unknown words fall into letters. A second
    training may number a few tokens otherwise, so the weights that learnt one keep it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    if (folder / "tokenizer.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=list(LETTERS),
        show_progress=False,
    )
    pairs.train_from_iterator(sorted({*words.trained_words(), *words.GRAMMAR}), trainer)
    model = json.loads(pairs.to_str())["model"]
    known = sorted(model["vocab"], key=model["vocab"].get)
    tokens = dict.fromkeys([*known, *LETTERS, *(letter + "</w>" for letter in LETTERS)])
    ordered = [token for token in tokens if token not in (START, END)] + [START, END]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(ordered)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=POSITIONS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
