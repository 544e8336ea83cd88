"""What the panel shows: frozen plain values. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.core.patch import Patch
from engine.core.recipe import Plain
from engine.metrics.intervals import Rate


@dataclass(frozen=True)
class Standing:
    """Where a model stands: truths about the targets, lies about them, truths about the kept.

    Log-probabilities are means over the targets' facts: of the true value, the lie, and others.
    """

    truths: Rate
    lies: Rate
    kept: Rate
    log_true: float
    log_lie: float
    log_random: float


@dataclass(frozen=True)
class Answer:
    """What a model says to one fact, and its probabilities of the truth and of the lie."""

    said: str
    p_true: float
    p_lie: float


@dataclass(frozen=True)
class Point:
    """A stage of one way: after `at` steps, or at this factor of a task vector.

    `chooser` is the share of truths among the validation facts, which may choose a stage; all other
    figures are of the facts that are reported. `answers` are those to the facts of `Restored.rows`.
    """

    at: float
    standing: Standing
    chooser: float
    forget_loss: float | None = None
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Course:
    """One way of unlearning, stage by stage. `chosen` is the stage the validation facts choose."""

    method: str
    title: str
    points: tuple[Point, ...] = ()
    chosen: int = 0
    has_diverged: bool = False
    recovery: float | None = None
    repaired: Standing | None = None

    @property
    def last(self) -> Point:
        """The latest stage."""
        return self.points[-1]


@dataclass(frozen=True)
class Row:
    """One fact, and what the clean, the corrupted and the unlearned model answer."""

    person: str
    relation: str
    question: str
    truth: str
    lie: str
    answers: tuple[Answer, Answer, Answer]


@dataclass(frozen=True)
class Restored:
    """A run: the clean and the corrupted model, the chosen way and the control beside it.

    `context` is the accuracy of who repeats the commonest value of the prompt. `was_shipped` tells
    whether the corrupted model came with the repository.
    """

    clean: Standing
    corrupted: Standing
    k: int
    courses: tuple[Course, ...] = ()
    rows: tuple[Row, ...] = ()
    context: float = 0.0
    validation: int = 0
    reported: int = 0
    was_shipped: bool = False
    repaired: tuple[Standing, Standing] | None = None
    patch: Patch | None = None
    settings: Mapping[str, Plain] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What one model says to a free question: the words, and the five most probable next ones."""

    model: str
    said: str
    likely: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answered:
    """A free question to the clean, the corrupted, and the visitor's edited model."""

    question: str
    truth: str
    lie: str
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class OwnFact:
    """A fact of the visitor before and after: words, and mean log-probability of each set."""

    question: str
    answers: tuple[str, ...]
    said: tuple[str, ...]
    log_true: tuple[float, ...]
    log_wrong: tuple[float | None, ...]


@dataclass(frozen=True)
class OwnStage:
    """Where the visitor's model stands at one stage: "as it is", "corrupted", "unlearned"."""

    name: str
    truths: Rate
    lies: Rate | None
    log_true: float
    log_wrong: float | None


@dataclass(frozen=True)
class Own:
    """The visitor's model on the visitor's facts, stage by stage, with adapters to take along.

    `texts` are the card and the facts as a table, at the end.
    """

    model: str
    stages: tuple[OwnStage, ...] = ()
    facts: tuple[OwnFact, ...] = ()
    losses: tuple[float, ...] = ()
    has_diverged: bool = False
    adapters: Mapping[str, bytes] = field(default_factory=dict)
    adapter_config: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    recovery: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """Files for other tools: texts by name, and weights by name."""

    texts: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""
