"""What any language model says to a prompt: log-probabilities of given answers, and its own words.

No judge is needed: an answer counts by the log-probability of its tokens after the prompt. The mean
over its tokens favours long answers, the sum short ones; both are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Int, Tensor
from engine.unlearning._losses import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOKENS = 1024


@dataclass(frozen=True)
class Option:
    """Log-probability of one answer: mean over its tokens, sum, and their number."""

    mean: float
    total: float
    tokens: int


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Token ids of a prompt, its beginning included. Raises `BadInput` where it is too long."""
    ids = list(tokenizer(prompt).input_ids)
    if tokenizer.eos_token_id is not None and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    if not 1 <= len(ids) <= MOST_TOKENS:
        raise BadInput(
            f"This prompt has {len(ids)} tokens.", f"1 to {MOST_TOKENS} are taken; shorten it."
        )
    return ids


def answer_ids(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str
) -> tuple[list[int], list[int]]:
    """Tokens of prompt and of answer, which begins with a space as it does in running text.

    Raises `BadInput` where the boundary between the two falls inside a token.
    """
    head = prompt_ids(tokenizer, prompt)
    whole = prompt_ids(tokenizer, f"{prompt} {answer}")
    if whole[: len(head)] != head or len(whole) == len(head):
        raise BadInput(
            f'The end of the prompt and the answer "{answer[:40]}" share a token.',
            "Leave no space at the end of the prompt.",
        )
    return head, whole[len(head) :]


@torch.no_grad()
def score_options(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    options: Sequence[str],
    *,
    device: str = "cpu",
) -> list[Option]:
    """Every option after the prompt, in one pass, padded on the right."""
    pairs = [answer_ids(tokenizer, prompt, option) for option in options]
    rows = [head + tail for head, tail in pairs]
    ids, mask = padded(rows, device)
    logits = logits_of(model(input_ids=ids, attention_mask=mask)).float().log_softmax(-1)
    found = []
    for row, (head, tail) in enumerate(pairs):
        places = torch.arange(len(head) - 1, len(head) + len(tail) - 1, device=logits.device)
        log = logits[row, places, torch.tensor(tail, device=logits.device)]
        found.append(Option(float(log.mean()), float(log.sum()), len(tail)))
    return found


def padded(
    rows: Sequence[Sequence[int]], device: str = "cpu"
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Ids padded on the right with 0, and the mask of what counts."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(longest, device=device)[None] < lengths[:, None]).long()


@torch.no_grad()
def greedy(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    *,
    most: int = 12,
    device: str = "cpu",
    stop: str = "\n",
) -> str:
    """The most probable continuation, up to a new line, the end, or `most` tokens.

    The prompt is read once; keys and values of what was read are kept.
    """
    said: list[int] = []
    latest, past = prompt_ids(tokenizer, prompt), None
    for _ in range(most):
        ids = torch.tensor([latest], device=device)
        read = model(input_ids=ids, past_key_values=past, use_cache=True)
        past, latest = read.past_key_values, [int(logits_of(read)[0, -1].argmax())]
        if latest[0] == tokenizer.eos_token_id:
            break
        said += latest
        if stop in str(tokenizer.decode(said)):
            break
    return str(tokenizer.decode(said, skip_special_tokens=True)).split(stop)[0].strip()
