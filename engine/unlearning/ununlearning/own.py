"""The recovery curve of a visitor's unlearned model, on the visitor's questions and hints.

Every question brings its answer, wrong answers to choose from, and hints. For every number of hints
some sets of them, in an order drawn by the seed, are put before the question, and the options are
scored by their log-probability: no judge takes part.
"""

import csv
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from engine.core import rng
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.metrics.intervals import bootstrap
from engine.models.language import LanguageBundle
from engine.models.library import load
from engine.unlearning._questions import Question, read_questions
from engine.unlearning._scoring import Option, score_options
from engine.unlearning.ununlearning.results import Curve, Own, OwnQuestion

MOST_QUESTIONS, MOST_HINTS, MOST_SETS = 200, 6, 6


def read(questions: object) -> tuple[Question, ...]:
    """Questions that options can be scored for. Raises `BadInput`."""
    found = read_questions(questions)
    for number, one in enumerate(found, 1):
        if not one.wrong:
            raise BadInput(
                f"Question {number} has no wrong answers to choose from.",
                'List some under "perturbed_answer", as TOFU does.',
            )
        if len(one.hints) > MOST_HINTS:
            raise BadInput(
                f"Question {number} has {len(one.hints)} hints.", f"At most {MOST_HINTS} are taken."
            )
    if len(found) > MOST_QUESTIONS:
        raise BadInput(f"{len(found)} questions are too many.", f"Take {MOST_QUESTIONS}.")
    return found


def own_run(
    model: ModelRef | str, questions: tuple[Question, ...], separator: str, seed: int
) -> Steps[Own]:
    """Every question with every number of hints; the curve over those that have as many."""
    if not isinstance(separator, str) or not 1 <= len(separator) <= 8:
        raise BadInput("The separator is one to eight characters.", "A new line is usual.")
    yield Progress(0, len(questions), "Loading the model")
    bundle = load(model if isinstance(model, ModelRef) else ModelRef(model), dtype="float32")
    if not isinstance(bundle, LanguageBundle) or bundle.has_eyes:
        raise ModelMismatch(f"{bundle.card.title} is no language model of text.", "Pick one.")
    chance = sum(1 / len(one.options) for one in questions) / len(questions)
    shown = Own(bundle.card.title, chance, notes=_notes(questions))
    rows: list[OwnQuestion] = []
    for number, question in enumerate(questions):
        by_hints = []
        for count in range(len(question.hints) + 1):
            by_hints.append(_scored(bundle, question, count, separator, seed + number))
            yield Progress(number, len(questions), question.question[:60], shown)
        sums, means = zip(*by_hints, strict=True)
        rows.append(OwnQuestion(question.question, question.answer, sums, means))
        shown = Own(
            shown.model, chance, tuple(rows), _curve("sum", rows), _curve("mean", rows),
            {"recovery.csv": table_of(rows)}, shown.notes,
        )  # fmt: skip
    return shown


def _notes(questions: Sequence[Question]) -> tuple[str, ...]:
    bare = sum(not one.hints for one in questions)
    return (f"{bare} of the questions have no hints.",) if bare else ()


def _scored(
    bundle: LanguageBundle, question: Question, count: int, separator: str, seed: int
) -> tuple[float, float]:
    """Mean probability of the answer over sets of hints: by sums, and by means over tokens."""
    found = []
    for hints in hint_sets(question.hints, count, seed):
        prompt = separator.join([*hints, question.question])
        options = score_options(
            bundle.model, bundle.tokenizer, prompt, question.options, device=bundle.device
        )
        found.append((_share(options, "total"), _share(options, "mean")))
    sums, means = zip(*found, strict=True)
    return sum(sums) / len(sums), sum(means) / len(means)


def hint_sets(hints: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """At most six sets of so many hints, each in an order of its own."""
    every = list(combinations(hints, count))
    draw = rng.generator(seed, "hints", count)
    chosen = torch.randperm(len(every), generator=draw)[:MOST_SETS].tolist()
    return [
        tuple(every[i][j] for j in torch.randperm(count, generator=draw).tolist()) for i in chosen
    ]


def _share(options: Sequence[Option], by: str) -> float:
    """The probability of the first option among all of them."""
    scores = torch.tensor([getattr(option, by) for option in options], dtype=torch.float64)
    return float(scores.softmax(0)[0])


def _curve(by: str, rows: Sequence[OwnQuestion]) -> Curve:
    """Means over the questions that have so many hints, with bootstrap intervals."""
    name = "p_true" if by == "sum" else "p_true_by_mean"
    longest = max(len(row.p_true) for row in rows)
    values = [
        [getattr(row, name)[h] for row in rows if len(row.p_true) > h] for h in range(longest)
    ]
    intervals = [bootstrap(np.asarray(v)) for v in values]
    return Curve(
        by,
        "by the sum over tokens" if by == "sum" else "by the mean over tokens",
        tuple(sum(v) / len(v) for v in values),
        tuple(low for low, _ in intervals),
        tuple(high for _, high in intervals),
        prompts=tuple(map(len, values)),
    )


def table_of(rows: Sequence[OwnQuestion]) -> str:
    """One row for every question and number of hints."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["question", "answer", "hints", "p_true by sum", "p_true by mean"])
    for row in rows:
        for h, pair in enumerate(zip(row.p_true, row.p_true_by_mean, strict=True)):
            table.writerow([row.question, row.answer, h, *pair])
    return text.getvalue()
