"""The golden cases: losses in numpy loops, the calendar's columns, and the published extraction.

    python -m pytest tests/verifying -m golden

Tolerances: 1e-8 for the losses in float64; the columns and the extracted answers must be equal, so
their error is the share that differs.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from engine.core.golden import Arrays, Check, Golden, check_all
from engine.core.job import Steps
from engine.verifying.revthink import extract
from engine.verifying.revthink.arms import Taught
from engine.verifying.revthink.months import Question
from engine.verifying.revthink.objective import TASKS, Mean, joint, objective

MEANS = {
    "answer_seqmean": "sequences",
    "answer_tokenmean": "tokens",
    "official": "official",
}


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def losses(arrays: Arrays, mean: Mean) -> dict[str, torch.Tensor]:
    """Our l of each of the three tasks."""
    by_task = {}
    for task in TASKS:
        names = ("logits", "ids", "prompt_len", "len")
        logits, ids, prompt_len, length = (
            torch.from_numpy(arrays[f"{task}_{name}"]) for name in names
        )
        by_task[task] = objective(logits, ids, prompt_len, length, mean)
    return by_task


def _task_losses(name: str) -> Callable[[Arrays], float]:
    def check(arrays: Arrays) -> float:
        ours = losses(arrays, cast(Mean, MEANS[name]))
        return max(abs(float(ours[t]) - float(arrays[f"{t}_loss_{name}"])) for t in TASKS)

    return check


def _joint(name: str) -> Callable[[Arrays], float]:
    def check(arrays: Arrays) -> float:
        ours = joint(losses(arrays, cast(Mean, MEANS[name])))
        return abs(float(ours) - float(arrays[f"revthink_{name}"]))

    return check


def questions(arrays: Arrays) -> list[Question]:
    """The two-step questions of the calendar."""
    columns = (arrays[name].tolist() for name in ("start", "sign1", "k1", "sign2", "k2"))
    return [Question(s, (a * k, b * m)) for s, a, k, b, m in zip(*columns, strict=True)]


def _differ(ours: list, theirs: np.ndarray) -> float:
    return float(np.mean(np.asarray(ours) != theirs))


def _answers(arrays: Arrays) -> float:
    return _differ([q.answer for q in questions(arrays)], arrays["answer"])


def _middles(arrays: Arrays) -> float:
    middles = [Question(q.start, q.shifts[:1]).answer for q in questions(arrays)]
    return _differ(middles, arrays["mid"])


def _backward(arrays: Arrays) -> float:
    return _differ([q.inverse.answer for q in questions(arrays)], arrays["backward_answer"])


def _filter(arrays: Arrays) -> float:
    proposed = arrays["proposed_backward_answer"].tolist()
    taught = [
        Taught(q, q.forward, q.backward, q.answer, p)
        for q, p in zip(questions(arrays), proposed, strict=True)
    ]
    return _differ([t.is_consistent for t in taught], arrays["consistent"])


def _choices(arrays: Arrays) -> float:
    extracted = [extract.choice(str(text)) for text in arrays["choice_text"]]
    return _differ(extracted, arrays["choice"])


def _yes_no(arrays: Arrays) -> float:
    extracted = [extract.yes_no(str(text), "official") for text in arrays["yesno_text"]]
    return _differ(extracted, arrays["yesno_official"])


CHECKS: dict[str, tuple[Check, ...]] = {
    "revthink_loss": tuple(
        check
        for name in MEANS
        for check in (
            (f"l of each task, {name}", 1e-8, _task_losses(name)),
            (f"joint, {name}", 1e-8, _joint(name)),
        )
    ),
    "revthink_calendar": (
        ("answers", 0.0, _answers),
        ("middles", 0.0, _middles),
        ("backward answers", 0.0, _backward),
        ("consistency filter", 0.0, _filter),
    ),
    "revthink_extract": (
        ("choices", 0.0, _choices),
        ("yes and no, official", 0.0, _yes_no),
    ),
}
