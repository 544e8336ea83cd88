"""What the panel shows: frozen plain values. A preview is a result not yet full."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.core.patch import Patch
from engine.unlearning._compare import Agreement


@dataclass(frozen=True)
class Curve:
    """By number of hints: mean probability of the truth with its interval, and accuracy.

    `prompts` counts what each mean is over. `recovery` is None where the full model knows no more
    than chance, and of ceilings.
    """

    key: str
    title: str
    p_true: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    recovery: tuple[float, ...] | None = None
    prompts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A model's probabilities for the values of the property that is asked for.

    `p_true` is that of the forbidden value, `p_without` the same when no hints are told.
    """

    title: str
    said: str
    probabilities: tuple[float, ...]
    p_true: float
    blocked: bool = False
    p_without: float = 0.0


@dataclass(frozen=True)
class Corpus:
    """What the scan of a training corpus found."""

    title: str
    documents: int
    mentions: int
    sha256: str


@dataclass(frozen=True)
class Hinted:
    """One question with hints to the full and the unlearned model, and the curves behind it.

    `ceiling` is the exact posterior. `truth` is the forbidden value.
    """

    name: str
    query: str
    hints: tuple[tuple[str, str], ...]
    values: tuple[str, ...]
    truth: str
    ceiling: tuple[float, ...]
    replies: tuple[Reply, ...] = ()
    curves: tuple[Curve, ...] = ()
    corpora: tuple[Corpus, ...] = ()
    dossier: Mapping[str, str] = field(default_factory=dict)
    chance: float = 0.0
    filter: str = "none"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """One filter: shares blocked of attacks by name and by alias and of harmless prompts.

    `leaks` are the shares of attacks that are answered truly all the same, `refusal` what is known
    from refusals alone. Rates by threshold make the curve; `area` is the one under it.
    """

    kind: str
    blocked_name: float
    blocked_alias: float
    blocked_harmless: float
    blocked_kin: float
    leak_name: float
    leak_alias: float
    refusal: float | None
    thresholds: tuple[float, ...]
    attacks: tuple[float, ...]
    harmless: tuple[float, ...]
    area: float


@dataclass(frozen=True)
class Filtered:
    """All filters at one threshold. `prompts` counts attacks by name, by alias, harmless, kin."""

    threshold: float
    prompts: tuple[int, int, int, int]
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class Retrained:
    """A model trained from nothing on a corpus, step by step."""

    corpus: str
    step: int
    steps: int
    losses: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    gate: float = 0.0
    passes: bool = False
    scan: Corpus | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrasted:
    """Approximate unlearning of the full model beside the exact one.

    `distance` is, by hints, how far the approximate model's probability of the truth is from the
    exact one's. `patch` is the edit of the full model, which can be asked on and taken off again.
    """

    method: str
    step: int
    steps: int
    curves: tuple[Curve, ...] = ()
    distance: tuple[float, ...] = ()
    has_diverged: bool = False
    patch: Patch | None = None


@dataclass(frozen=True)
class Layer:
    """How alike a layer sees ordinary documents in two models: CKA, 1 for alike."""

    name: str
    likeness: float


@dataclass(frozen=True)
class Inside:
    """One model beside the exactly unlearned one.

    Answers to all questions about the forbidden individual and about others; layer by layer; and
    the probability of the forbidden values, without hints, after each step of learning it again
    from a few documents. `back_at` is the first step at one half, None where it is not reached.
    """

    title: str
    forbidden: Agreement
    others: Agreement
    layers: tuple[Layer, ...]
    relearned: tuple[float, ...]
    back_at: int | None


@dataclass(frozen=True)
class Insides:
    """The edited, the full and the exact model; `steps` is how long they may learn again."""

    steps: int
    models: tuple[Inside, ...] = ()


@dataclass(frozen=True)
class OwnQuestion:
    """One question of the visitor: probability of its answer among the options, by hints."""

    question: str
    answer: str
    p_true: tuple[float, ...]
    p_true_by_mean: tuple[float, ...]


@dataclass(frozen=True)
class Own:
    """The recovery curve of the visitor's model. `by_mean` scores by token means, not sums."""

    model: str
    chance: float
    questions: tuple[OwnQuestion, ...] = ()
    curve: Curve | None = None
    by_mean: Curve | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """The curves as CSV, and the card with all settings and digests of the corpora."""

    texts: Mapping[str, str]
