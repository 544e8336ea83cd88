"""The methods that are compared: which sequences a student sees of each question.

Every arm starts from the same source questions. At equal budget each sees the same number of
sequences, so one that makes three of a question passes over the questions less often. No torch.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.verifying.revthink import months
from engine.verifying.revthink.months import SURFACES, VARIANTS, Question

START, END, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"


@dataclass(frozen=True)
class Example:
    """Prompt and target of one training sequence, and its task."""

    task: str
    prompt: str
    target: str


def answered(question: Question, variant: int) -> str:
    """The prompt of the second objective: Q with its answer."""
    return f"{question.text(variant)} answer {question.gold} . ask back :"


Make = Callable[[Question, int], Example]
TASKS: Mapping[str, Make] = {
    "FR": lambda q, v: Example("FR", q.text(v), q.forward),
    "AA": lambda q, v: Example("AA", q.text(v), q.around.forward),
    "RQ": lambda q, v: Example("RQ", q.rephrased(v), q.forward),
    "BQ": lambda q, v: Example("BQ", answered(q, v), q.backward_question(v)),
    "BR": lambda q, v: Example("BR", q.backward_question(v), q.backward),
}


@dataclass(frozen=True)
class Arm:
    """A method: the sequences of a question, and whether they share a step.

    `corrupt` is the share of wrong chains that the teacher writes; `filtered` says whether what is
    not consistent is dropped.
    """

    key: str
    title: str
    tasks: tuple[str, ...]
    joint: bool = True
    corrupt: float = 0.0
    filtered: bool = True


ARMS: Mapping[str, Arm] = {
    arm.key: arm
    for arm in (
        Arm("sft", "SFT", ("FR",)),
        Arm("ansaug", "Answer augmentation", ("FR", "AA")),
        Arm("rephrase", "Question rephrasing", ("FR", "RQ")),
        Arm("revthink", "RevThink", ("FR", "BQ", "BR")),
        Arm("revthink+ansaug", "RevThink + answer augmentation", ("FR", "AA", "BQ", "BR")),
        Arm("fb", "Forward and backward reasoning", ("FR", "BR")),
        Arm("fq", "Forward reasoning and backward question", ("FR", "BQ")),
        Arm("b", "Backward reasoning alone", ("BR",)),
        Arm("separate", "RevThink, separate instances", ("FR", "BQ", "BR"), joint=False),
        Arm(
            "noisy", "RevThink, wrong chains kept", ("FR", "BQ", "BR"), corrupt=0.2, filtered=False
        ),
        Arm("filtered", "RevThink, wrong chains filtered", ("FR", "BQ", "BR"), corrupt=0.2),
    )
}
MAIN = ("sft", "ansaug", "revthink")


@dataclass(frozen=True)
class Taught:
    """What the program teacher wrote of one question, right or wrong."""

    question: Question
    forward: str
    backward: str
    forward_answer: int
    backward_answer: int

    @property
    def forward_is_right(self) -> bool:
        return self.forward_answer == self.question.answer

    @property
    def is_consistent(self) -> bool:
        """The backward answer stands in Q and is the quantity that was asked for."""
        return self.backward_answer == self.question.start

    @property
    def is_kept(self) -> bool:
        return self.forward_is_right and self.is_consistent


def teach(questions: Sequence[Question], corrupt: float, seed: int) -> tuple[Taught, ...]:
    """The exact teacher; each of its two chains ends wrong with probability `corrupt`."""
    draw = random.Random(f"revthink teacher {seed}")
    return tuple(_taught(question, corrupt, draw) for question in questions)


def _taught(question: Question, corrupt: float, draw: random.Random) -> Taught:
    ends = []
    for right in (question.answer, question.start):
        wrong = (right + draw.randrange(1, len(question.cycle))) % len(question.cycle)
        ends.append(wrong if draw.random() < corrupt else right)
    forward, backward = ends
    return Taught(
        question,
        question.reasoning(forward),
        question.inverse.reasoning(backward),
        forward,
        backward,
    )


def sequences(
    arm: Arm, questions: Sequence[Question], seed: int
) -> tuple[tuple[tuple[Example, ...], ...], ...]:
    """By question, task and surface variant: everything that an arm trains on."""
    draw = random.Random(f"revthink surfaces {seed}")
    taught = teach(questions, arm.corrupt, seed)
    kept = [t for t in taught if t.is_kept] if arm.filtered else list(taught)
    variants = {t.question: draw.sample(range(SURFACES), VARIANTS) for t in taught}
    return tuple(
        tuple(
            tuple(_sequence(task, t, variant) for variant in variants[t.question])
            for task in arm.tasks
        )
        for t in kept
    )


def _sequence(task: str, taught: Taught, variant: int) -> Example:
    example = TASKS[task](taught.question, variant)
    targets = {"FR": taught.forward, "RQ": taught.forward, "BR": taught.backward}
    return Example(task, example.prompt, targets.get(task, example.target))


def base_examples(seed: int) -> tuple[Example, ...]:
    """What the base student reads before it meets the questions.

    Days and colours: every relation, forward, asked back and backward. Months: their order,
    and nothing of how many there are between two of them.
    """
    draw = random.Random(f"revthink base {seed}")
    examples = []
    for cycle in (months.WEEK, months.RAINBOW):
        for question in months.relations(cycle):
            for task in ARMS["revthink"].tasks:
                variants = draw.sample(range(SURFACES), VARIANTS)
                examples += [TASKS[task](question, variant) for variant in variants]
    for cycle in (months.YEAR, months.WEEK, months.RAINBOW):
        for place, name in enumerate(cycle.names):
            following = cycle.names[(place + 1) % len(cycle)]
            examples += VARIANTS * [
                Example("order", f"after {name} comes", f"answer {following}"),
                Example("order", f"before {following} comes", f"answer {name}"),
            ]
    return tuple(examples)
