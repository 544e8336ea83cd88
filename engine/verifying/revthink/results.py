"""What the panel shows: frozen values. A preview is a result not yet full."""

from dataclasses import dataclass

from engine.core.named_file import TextFile
from engine.core.patch import Patch
from engine.core.reversible import RoundTrip
from engine.core.shapes import Array, Bool
from engine.models.tensor_file import TensorFile
from engine.verifying.revthink.augment import Record


@dataclass(frozen=True)
class Point:
    """A method at a share of the questions: mean over seeds and its 95 % interval.

    `part` is "test", or the test relations of one standing: "inverse", "around", "new".
    """

    arm: str
    title: str
    fraction: float
    part: str
    mean: float
    low: float
    high: float
    seeds: int
    lora: bool = False


@dataclass(frozen=True)
class Efficiency:
    """The sample-efficiency curve: the main methods at every share of the questions.

    `world` is the word for what the cycle is made of. `pool` counts the questions that may be
    asked, `test` the relations held out; `sequences` is what each student saw, `seconds` what the
    training of all of them took.
    """

    points: tuple[Point, ...]
    world: str
    seeds: int
    pool: int
    test: int
    weights: int
    steps: int
    sequences: int
    seconds: float
    machine: str


@dataclass(frozen=True)
class Reply:
    """What a student says to the question and to the backward question; texts and ticks."""

    forward: str
    forward_is_right: bool
    backward: str
    backward_is_right: bool


@dataclass(frozen=True)
class Student:
    """A student and what it gets right, by relation in the order start, shift -11 ... 11.

    `standings` says how each relation stands to the questions it was trained on; empty for a model
    that was not trained here. `rates` are test accuracies by part.
    """

    name: str
    title: str
    reply: Reply | None = None
    is_right: Bool[Array, "r"] | None = None
    is_asked: Bool[Array, "r"] | None = None
    standings: tuple[str, ...] = ()
    is_test: tuple[bool, ...] = ()
    rates: tuple[tuple[str, float, int], ...] = ()


@dataclass(frozen=True)
class Asked:
    """All students on one question and on all relations, and the curves behind them.

    `curve` is of students such as these, over all seeds that were trained; `efficiency` of others.
    """

    question: str
    gold: str
    backward_question: str
    backward_gold: str
    standing: str
    students: tuple[Student, ...] = ()
    curve: tuple[Point, ...] = ()
    efficiency: Efficiency | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """Accuracies of one student at one step of its training."""

    step: int
    passes: float
    asked: float
    test: float
    inverse: float
    new: float


@dataclass(frozen=True)
class Course:
    """The training of one student: its budget, its losses by step, and the probes on the way."""

    arm: str
    title: str
    questions: int
    kept: int
    sequences: int
    target_tokens: int
    losses: tuple[tuple[int, float], ...] = ()
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A live training, as far as it has come; `exams` once it is over."""

    courses: tuple[Course, ...]
    exams: tuple[Student, ...] = ()
    start: str = "nothing"
    budget: str = "sequences"


@dataclass(frozen=True)
class Augmented:
    """The records so far. `draft` is the one being written."""

    records: tuple[Record, ...]
    total: int
    draft: Record | None = None
    file: TextFile | None = None
    teacher: str = ""

    @property
    def kept(self) -> int:
        return sum(record.is_kept for record in self.records)


@dataclass(frozen=True)
class Answered:
    """A held-out question and what the model said to it before and after."""

    question: str
    gold: str
    before: str
    before_is_right: bool
    after: str = ""
    after_is_right: bool = False


@dataclass(frozen=True)
class Tuned:
    """A LoRA student: losses of the three objectives, answers before and after, and what to take.

    `read_back` is the largest difference between the logits of the adapter as trained and as read
    from its file. Fingerprints are of the touched weights.
    """

    losses: tuple[tuple[int, float, float, float], ...] = ()
    answers: tuple[Answered, ...] = ()
    records: int = 0
    kept: int = 0
    target_tokens: int = 0
    trained_parameters: int = 0
    patch: Patch | None = None
    digest: str = ""
    adapter: TensorFile | None = None
    adapter_config: TextFile | None = None
    read_back: float = 0.0
    before: str = ""
    after: str = ""
    undone: str = ""
    undo: RoundTrip | None = None
    megabytes: float = 0.0
    notes: tuple[str, ...] = ()
