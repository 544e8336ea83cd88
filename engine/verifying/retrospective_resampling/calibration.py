"""The tau that a model and a kind of picture need, from phrases whose truth is known.

P(UN) of two models cannot be compared, so no tau carries over from one to the other.
"""

import csv
import io
from typing import Annotated

import numpy as np

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.settings import Range, Text
from engine.core.shapes import Array, Shaped
from engine.metrics.intervals import auroc
from engine.verifying.retrospective_resampling.loop import Settings
from engine.verifying.retrospective_resampling.results import Calibration, Judged, Threshold
from engine.verifying.retrospective_resampling.seeing import (
    MOST_TRAYS,
    default_noise,
    open_bundle,
    sights,
)
from engine.verifying.retrospective_resampling.tradeoff import Tally, told_once, within

LARGEST_CSV = 2_000_000


def calibrate(
    *,
    seed: int,
    model: ModelRef | str = "emoji-llava",
    labels: Annotated[str, Text(LARGEST_CSV)] = "",
    precision: Annotated[float, Range(1e-6, 1 - 1e-6, "0.95 is a usual aim.")] = 0.95,
    trays: Annotated[int, Range(1, MOST_TRAYS, "Try 24.")] = 40,
    noise: Annotated[float | None, Range(0, 1, "Try 0.4.")] = None,
) -> Steps[Calibration]:
    """The largest tau at which this share of the kept phrases is grounded.

    `labels` is a CSV with the columns `p_un` and `grounded`; without one, the model speaks about
    trays of its own, whose truth is known.
    """
    if labels.strip():
        p_un, is_right = read_labels(labels)
        yield Progress(1, 1, "Labels read")
        return calibration(p_un, is_right, precision, "the labels given")
    bundle = open_bundle(model)
    level = default_noise(bundle) if noise is None else noise
    settings = Settings(temperature=1.0, max_new_tokens=64).without_checks()
    phrases: list[Judged] = []
    for number, sight in enumerate(sights(bundle, trays, level, seed)):
        telling = told_once(bundle, sight, settings, Tally("", 1.0, []))
        _, judged = yield from within(telling, number, trays)
        phrases += judged
        yield Progress(number + 1, trays, f"{len(phrases)} phrases")
    known = [phrase for phrase in phrases if phrase.is_true is not None]
    return calibration(
        np.array([phrase.p_un for phrase in known]),
        np.array([bool(phrase.is_true) for phrase in known]),
        precision,
        f"{trays} random trays at noise {level:g}",
    )


def calibration(
    p_un: Shaped[Array, " n"], is_right: Shaped[Array, " n"], target: float, source: str
) -> Calibration:
    """Precision of what is kept at every value of P(UN) that occurs, and the tau to take."""
    right, wrong = p_un[is_right], p_un[~is_right]
    if not len(right) or not len(wrong):
        raise BadInput(
            f"All {len(p_un)} phrases are of one kind, so nothing can be told apart.",
            "Label at least one grounded and one ungrounded phrase.",
        )
    order = np.argsort(p_un, kind="stable")
    kept = np.arange(1, len(p_un) + 1)
    precision = np.cumsum(is_right[order]) / kept
    # Phrases of equal P(UN) are kept together: only the last of them is a threshold.
    ordered = p_un[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)
    rows = [
        Threshold(float(tau), float(share), float(count / len(p_un)))
        for tau, share, count in zip(
            ordered[is_last], precision[is_last], kept[is_last], strict=True
        )
    ]
    good = [row for row in rows if row.precision >= target]
    if len(rows) > 200:
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, 200).round().astype(int)]
    return Calibration(
        auroc(wrong, right),
        good[-1].tau if good else None,
        target,
        len(right),
        len(wrong),
        tuple(rows),
        right,
        wrong,
        source,
    )


YES, NO = ("1", "1.0", "true", "yes", "y"), ("0", "0.0", "false", "no", "n")


def read_labels(text: str) -> tuple[Shaped[Array, " n"], Shaped[Array, " n"]]:
    """P(UN) and whether it is grounded, of each row of a CSV. Raises `BadInput` with the row."""
    if len(text) > LARGEST_CSV:
        raise BadInput("The CSV has more than two million characters.", "Take fewer phrases.")
    lines = text.strip().splitlines() or [""]
    separator = ";" if ";" in lines[0] and "," not in lines[0] else ","
    rows = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=separator)
    try:
        table = list(rows)
    except csv.Error as error:
        advice = "Write lines such as: a dog,0.37,no"
        raise BadInput(f"The CSV cannot be read: {error}.", advice) from error
    names = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
    if not {"p_un", "grounded"} <= set(names):
        raise BadInput(
            "The CSV needs the columns p_un and grounded.",
            "The first line names them: phrase,p_un,grounded",
        )
    p_un, is_right = [], []
    for number, row in enumerate(table, start=2):
        label = str(row[names["grounded"]]).strip().lower()
        try:
            number_text = str(row[names["p_un"]])
            # Where semicolons part the columns, spreadsheets write decimals with a comma.
            value = float(number_text.replace(",", ".") if separator == ";" else number_text)
        except (TypeError, ValueError):
            value = float("nan")
        if not 0 <= value <= 1 or label not in YES + NO:
            raise BadInput(
                f"Line {number} of the CSV is not a probability and a label.",
                "Write lines such as: a dog,0.37,no",
            )
        p_un.append(value)
        is_right.append(label in YES)
    return np.array(p_un), np.array(is_right, dtype=bool)
