"""What came of an edit, in the same fields for every method, so that methods compare.

A rate carries its counts and its 95 % interval. What cannot be told is None, with the reason in
`missing`; it is never 0. Two cards compare only if they are of one task.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from engine.core.errors import BadInput
from engine.core.recipe import Plain, versions_here
from engine.core.shapes import Bool, Tensor
from engine.metrics.intervals import Rate
from engine.unlearning._membership import WorstCase


def rate_of(hits: Bool[Tensor, " n"]) -> Rate | None:
    """The share that is true; None of nothing."""
    return Rate.of_hits(hits.cpu().numpy()) if len(hits) else None


@dataclass(frozen=True)
class Card:
    """One method on one task.

    `mia` is the share of the forget set that the entropy attack takes for training data,
    `worst_case` the strongest of several attacks, `zrf` how alike the answers to forgotten samples
    are to those of a network that was never trained (1: equal). `corrected`, `kept` and
    `attack_success` are for manipulated data. `seconds` splits into "importance of all data"
    (reusable), "importance of the forget set", "edit" and "evaluation". `tuned_on` says in words
    which data chose the settings.
    """

    method: str
    task: str
    forget_train: Rate | None = None
    forget_test: Rate | None = None
    retain_train: Rate | None = None
    retain_test: Rate | None = None
    mia: float | None = None
    worst_case: WorstCase | None = None
    zrf: float | None = None
    corrected: Rate | None = None
    kept: Rate | None = None
    attack_success: Rate | None = None
    changed_share: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Plain] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    tuned_on: str = "nothing; the settings were given"
    missing: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions_here)

    def json(self) -> str:
        """The card as a document."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """The card in such a document. Raises `BadInput` when it is none."""
        try:
            told = json.loads(text)
            rates = {
                name: Rate(**told[name]) for name in _RATES if isinstance(told.get(name), dict)
            }
            worst = told.get("worst_case")
            return cls(**{**told, **rates, "worst_case": WorstCase(**worst) if worst else None})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(
                "This is no card of an unlearned model.", "Give a card that was exported here."
            ) from error

    def check_comparable(self, other: "Card") -> None:
        """Raises `BadInput` where the other is of another task."""
        if self.task != other.task:
            raise BadInput(
                f"{self.method} and {other.method} were measured on different tasks.",
                "Measure both with the same model and the same forget set.",
            )


_RATES = (
    "forget_train", "forget_test", "retain_train", "retain_test", "corrected", "kept",
    "attack_success",
)  # fmt: skip
