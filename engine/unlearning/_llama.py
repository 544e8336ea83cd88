"""Small Llama networks whose vocabulary one can read aloud: made, trained, and written as folders.

The knowledge of these networks is known fact by fact, so what an edit forgets, and what it brings
back, can be counted. They are a `LlamaForCausalLM` and a tokenizer of whole words.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from engine.core import rng
from engine.core.shapes import Float, Int, Tensor
from engine.unlearning._losses import logits_of
from engine.unlearning._objectives import cross_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BatchOf: TypeAlias = Callable[[torch.Generator], Int[Tensor, "b n"]]
"""A generator, seeded by the number of the step, to the token ids of that step."""
PAD = "<pad>"


@dataclass(frozen=True)
class Size:
    """Width, width of the SwiGLU, and depth."""

    hidden: int
    inner: int
    layers: int = 2
    heads: int = 4


@dataclass(frozen=True)
class Course:
    """AdamW; the rate rises over a tenth of the steps and falls to 0 along a cosine."""

    steps: int
    rate: float
    weight_decay: float = 0.01

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rise = max(1, self.steps // 10)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (self.steps - rise)))


def new_llama(tokens: Sequence[str], size: Size, seed: int, *, end: str = PAD) -> nn.Module:
    """The network before training; equal seed, equal weights, torch's own generator untouched."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=list(tokens).index(end),
        pad_token_id=list(tokens).index(PAD),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.generator(seed, "weights").initial_seed())
        return LlamaForCausalLM(config)


def word_tokenizer(tokens: Sequence[str], *, end: str = PAD) -> "PreTrainedTokenizerFast":
    """One token a word, words apart by spaces; a word that is not there reads as padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=PAD, unk_token=PAD, eos_token=end, model_max_length=128
    )


def write(model: nn.Module, tokens: Sequence[str], folder: Path, *, end: str = PAD) -> None:
    """Weights, config and tokenizer in the layout of transformers."""
    model.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    word_tokenizer(tokens, end=end).save_pretrained(folder)


class Training:
    """A network in training, which can be put down and taken up again.

    Batches depend on the seed and the number of the step alone, so a run that was stopped goes on
    as if it had not been.
    """

    def __init__(self, model: nn.Module, batch_of: BatchOf, course: Course, seed: int) -> None:
        self.model, self.batch_of, self.course, self.seed = model, batch_of, course, seed
        self.step = 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=course.rate, weight_decay=course.weight_decay
        )

    def run(self) -> Iterator[float]:
        """Trains to the end; gives the loss after each step. Leaves the model in eval."""
        while self.step < self.course.steps:
            loss = self._descend()
            self.step += 1
            yield loss
        self.model.eval()

    def _descend(self) -> float:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.course.rate_at(self.step)
        ids = self.batch_of(rng.generator(self.seed, "batch", self.step))
        ids = ids.to(self.parameters[0].device)
        with torch.enable_grad():
            loss = cross_entropy(logits_of(self.model(input_ids=ids)), ids)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: weights, moments and the number of steps."""
        kept = {f"weight.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                kept[f"{name}.{index}"] = value
        return {**kept, "step": torch.tensor(self.step)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        self.step = int(state["step"])
        for index, parameter in enumerate(self.parameters):
            with torch.no_grad():
                parameter.copy_(state[f"weight.{index}"])
            if self.step:
                names = ("step", "exp_avg", "exp_avg_sq")
                self.optimizer.state[parameter] = {
                    name: state[f"{name}.{index}"].clone() for name in names
                }


@torch.no_grad()
def next_log_probabilities(
    model: nn.Module, prompts: Int[Tensor, "b n"], *, at_once: int = 256
) -> Float[Tensor, "b v"]:
    """Log-probabilities of the token after each prompt, all of one length; float32, on the CPU."""
    device = next(model.parameters()).device
    rows = []
    for part in prompts.split(at_once):
        logits = logits_of(model(input_ids=part.to(device)))[:, -1]
        rows.append(logits.float().log_softmax(-1))
    return torch.cat(rows).cpu()
