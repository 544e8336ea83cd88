"""The golden cases of REVERSE: arrays made by running the published functions.

The four loops have a script in the place of the model: its k-th call returns what the published
code's stub returned. What the loop says, at which temperatures it tries, what it keeps and why it
stops must be equal; so must the prompts, in the form in which the published code writes hints.
Labels, losses and the renderer are compared as they are.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from engine.core.golden import Arrays, Golden, arrays_of, collect
from engine.core.job import Steps, finish, relay
from engine.verifying.retrospective_resampling.loop import Event, Outcome, Settings, Tried
from engine.verifying.retrospective_resampling.official import Draft, official
from engine.verifying.retrospective_resampling.tags import (
    CN,
    SPAN,
    UN,
    Tags,
    masked_labels,
    p_ungrounded,
    rendered,
    sentence_end,
    tagged_loss,
    whole_sentences,
    without_tags,
)

LOOPS = ("clean", "one_fix", "sentence_backtrack", "giveup")
EXACT, ROUND_OFF = 0.0, 1e-8
# The published LLaVA tree adds this sentence whenever it hints, and puts both before the last five
# prompt tokens; it drops the first token of the hint, taking it for a beginning of text.
PREMISE = (
    "For this question, please point out the false premises or note what information is missing, "
    "rather than answering it directly."
)
TAIL = 5


@dataclass
class Script:
    """Says what was written down, call by call, and notes what it was asked."""

    arrays: Arrays
    tags: Tags = field(init=False)
    end: int = 2
    calls: int = 0
    temperatures: list[float] = field(default_factory=list)
    prefixes: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.vocab = self.arrays["vocab"].tolist()
        self.tags = Tags(*(self.vocab.index(mark) for mark in (SPAN, CN, UN)))
        self.known = sum(key.endswith("_ids") and key.startswith("call") for key in self.arrays)

    def generate(
        self, hints: Sequence[str], accepted: Sequence[int], temperature: float, attempt: int
    ) -> Generator[Event, None, Draft]:
        """The next call; the last one again when there are no more."""
        yield from ()
        call = min(self.calls, self.known - 1)
        self.calls += 1
        self.temperatures.append(temperature)
        self.prefixes.append([*self.prompt(hints), *accepted])
        ids = self.arrays[f"call{call}_ids"].tolist()
        logits = torch.from_numpy(self.arrays[f"call{call}_logits"])
        return Draft(tuple(ids), tuple(p_ungrounded(row, self.tags) for row in logits))

    def prompt(self, hints: Sequence[str]) -> list[int]:
        """The prompt with hints where the published LLaVA tree puts them."""
        ids = self.arrays["prompt_ids"].tolist()
        if not hints:
            return ids
        hint = f"(Hint: potential incorrect phrases -> {', '.join(hints)})"
        instruction = [*PREMISE.split(), *hint.split()[1:]]
        unknown = self.vocab.index("<unk>")
        words = [self.vocab.index(word) if word in self.vocab else unknown for word in instruction]
        return [*ids[:-TAIL], *words, *ids[-TAIL:]]

    def words(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocab[token] for token in ids)


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compares everything. The seed has no part in it: all that is random is in the arrays."""
    plan: list[tuple[str, Callable[[], float], float]] = [
        (f"loop: {name.replace('_', ' ')}", partial(loop_error, name), EXACT) for name in LOOPS
    ]
    plan += [
        ("labels: what has no loss", labels_error, EXACT),
        ("loss, plain and weighted", loss_error, ROUND_OFF),
        ("rendering and the cut at a full stop", render_error, EXACT),
    ]
    compared = ((title, error(), bound) for title, error, bound in plan)
    return (yield from collect(compared, len(plan)))


def played(arrays: Arrays) -> tuple[Script, list[Tried], Outcome]:
    """The published loop over a script: who spoke, every attempt, and the end."""
    script = Script(arrays)
    settings = Settings(
        tau=float(arrays["tau"]),
        temperature=float(arrays["T0"]),
        total=int(arrays["N"]),
        local=int(arrays["K"]),
        open_ended=bool(arrays["open_ended"]),
    )
    tries: list[Tried] = []

    def keep(event: Event) -> None:
        if isinstance(event, Tried):
            tries.append(event)

    return script, tries, finish(relay(official(script, settings), keep))


def loop_error(name: str) -> float:
    """0 when the loop does what the published one did, else how many things differ."""
    arrays = load(f"loop_{name}")
    script, tries, outcome = played(arrays)
    prefixes = [[t for t in row if t >= 0] for row in arrays["prefixes"].tolist()]
    expected = arrays["temperatures"]
    same_heat = len(script.temperatures) == len(expected) and np.allclose(
        script.temperatures, expected, rtol=0, atol=1e-9
    )
    checks = (
        outcome.text == str(arrays["final_text"]),
        outcome.success == bool(arrays["success"]),
        script.calls == int(arrays["n_calls"]),
        same_heat,
        [one.tag for one in tries] == arrays["history_tag"].tolist(),
        [script.words(one.ids) for one in tries] == arrays["history_text"].tolist(),
        script.prefixes == prefixes,
    )
    return float(sum(not check for check in checks))


def labels_error() -> float:
    """How many labels differ."""
    arrays = load("labels")
    tags = Tags(*(int(arrays[name]) for name in ("span", "cn", "un")))
    labels = masked_labels(torch.from_numpy(arrays["targets_in"]), tags)
    return float((labels.numpy() != arrays["labels_out"]).sum())


def loss_error() -> float:
    """The larger difference of the two losses."""
    arrays = load("labels")
    tags = Tags(*(int(arrays[name]) for name in ("span", "cn", "un")))
    logits = torch.from_numpy(arrays["logits"])
    labels = torch.from_numpy(arrays["labels_out"]).flatten()
    plain = tagged_loss(logits, labels, tags, end=2)
    weighted = tagged_loss(logits, labels, tags, end=2, penalty=2.0)
    return max(
        abs(float(plain) - float(arrays["loss_naive"])),
        abs(float(weighted) - float(arrays["loss_weighted"])),
    )


def render_error() -> float:
    """How many texts or cuts differ."""
    arrays, wrong = load("render"), 0
    for text, readable, readable_cut, kept, cut in zip(
        *(arrays[n].tolist() for n in ("text", "readable", "readable_cut", "kept_tokens")),
        arrays["truncated"].tolist(),
        strict=True,
    ):
        pieces = text.split()
        place = sentence_end(pieces)
        wrong += rendered(text) != readable
        wrong += rendered(" ".join(pieces[:place])) != readable_cut
        wrong += whole_sentences(readable) != readable_cut
        wrong += place != kept
        wrong += without_tags(" ".join(pieces[place:])) != cut
    return float(wrong)


def load(name: str) -> dict[str, np.ndarray]:
    """The golden arrays of a case."""
    return arrays_of(f"reverse_{name}")
