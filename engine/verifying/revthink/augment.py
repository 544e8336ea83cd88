"""The augmented data set: each question turned round by a teacher, and what is consistent kept.

    for record in augment(items, teacher, done=earlier): ...
    to_jsonl(records)

A record is one line of JSON with the fields of the published data: question, gold_answer,
forward_reasoning, forward_pred, backward_question, backward_reasoning, backward_pred,
is_consistent. A set that was cut off goes on where it ended.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Protocol, runtime_checkable

from engine.core.errors import BadInput
from engine.verifying.revthink import extract
from engine.verifying.revthink.arms import Taught, teach
from engine.verifying.revthink.extract import NONE, Form
from engine.verifying.revthink.months import Question, read_question

MOST_ITEMS, LONGEST_TEXT, LONGEST_FILE = 500, 4000, 2_000_000
_TAIL = re.compile(r"\s*The correct answer is \(?[^.()]{1,40}\)?\.\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """A question and its gold answer, as a person brings them."""

    question: str
    answer: str

    @property
    def form(self) -> Form:
        return extract.form_of(self.answer)


@dataclass(frozen=True)
class Record:
    """One augmented question. `forward_pred` and `backward_pred` are extracted answers."""

    question: str
    gold_answer: str
    forward_reasoning: str
    forward_pred: str
    backward_question: str
    backward_reasoning: str
    backward_pred: str
    is_consistent: bool

    @property
    def is_right(self) -> bool:
        """The forward chain ends in the gold answer."""
        return extract.same(self.forward_pred, self.gold_answer, extract.form_of(self.gold_answer))

    @property
    def is_kept(self) -> bool:
        """What the training sees: right forward, and consistent backward."""
        return self.is_right and self.is_consistent


@runtime_checkable
class Teacher(Protocol):
    """Who writes the two chains, the backward question and the verdict, each as it grows."""

    def forward(self, item: Item) -> Iterator[str]: ...

    def backward_question(self, item: Item) -> Iterator[str]: ...

    def backward(self, item: Item, backward_question: str) -> Iterator[str]: ...

    def verdict(self, item: Item, backward_question: str, answer: str) -> Iterator[str]: ...


def augment(items: Sequence[Item], teacher: Teacher) -> Iterator[tuple[Record, bool]]:
    """The records in order, each as it is being written (False) and when it is whole (True)."""
    for item in items:
        draft = Record(item.question, item.answer, "", NONE, "", "", NONE, False)
        for text in teacher.forward(item):
            draft = replace(draft, forward_reasoning=text)
            yield draft, False
        draft = replace(draft, forward_pred=extract.EXTRACT[item.form](draft.forward_reasoning))
        for text in teacher.backward_question(item):
            draft = replace(draft, backward_question=_TAIL.sub("", text))
            yield draft, False
        for text in teacher.backward(item, draft.backward_question):
            draft = replace(draft, backward_reasoning=text)
            yield draft, False
        predicted = answer_of(draft.backward_reasoning, draft.backward_question)
        draft, judgement = replace(draft, backward_pred=predicted), ""
        for text in teacher.verdict(item, draft.backward_question, predicted):
            judgement = text
            yield draft, False
        is_consistent = predicted != NONE and extract.true_false(judgement) == "true"
        yield replace(draft, is_consistent=is_consistent), True


def answer_of(reasoning: str, question: str) -> str:
    """The answer of a chain whose form only its question tells: a choice, a number, or a word."""
    if re.search(r"\([A-F]\)", question):
        return extract.choice(reasoning)
    if re.search(r"\bx\b|how (?:many|much)|\d", question) and extract.number(reasoning) != NONE:
        last_word = extract.word(reasoning)
        if last_word == NONE or any(letter.isdigit() for letter in last_word):
            return extract.number(reasoning)
    return extract.word(reasoning)


def stands_in(answer: str, question: str) -> bool:
    """Whether the quantity or word that was asked back for stands in the original question."""
    bare = extract.plain_number(answer).lower()
    stated = re.findall(r"-?\d[\d,]*(?:\.\d+)?|\w+", question.lower())
    return bare in {extract.plain_number(word) for word in stated}


@dataclass(frozen=True)
class Program:
    """The exact teacher of the months; a share of its chains ends wrong on purpose."""

    corrupt: float
    seed: int

    def forward(self, item: Item) -> Iterator[str]:
        yield self._taught(item).forward

    def backward_question(self, item: Item) -> Iterator[str]:
        yield self._taught(item).question.backward_question()

    def backward(self, item: Item, backward_question: str) -> Iterator[str]:
        yield self._taught(item).backward

    def verdict(self, item: Item, backward_question: str, answer: str) -> Iterator[str]:
        """True if the answer stands in the question and is the start that was asked for."""
        question = _question(item)
        yield str(answer == question.cycle.names[question.start])

    def _taught(self, item: Item) -> Taught:
        (taught,) = teach([_question(item)], self.corrupt, hash_of(item.question, self.seed))
        return taught


def hash_of(text: str, seed: int) -> int:
    """A seed for one text, so that records do not depend on their order."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(), digest_size=6).digest(), "big")


def _question(item: Item) -> Question:
    question = read_question(item.question)
    if question is None:
        raise BadInput(
            f'The program cannot read "{item.question[:60]}".',
            "It knows months, days and colours, as in: it is mar . 4 later tom moved . which "
            "month ? Take a language model as the teacher for other questions.",
        )
    return question


# ---------------------------------------------------------------------- files


def to_jsonl(records: Sequence[Record]) -> str:
    """One line of JSON a record."""
    return "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)


def read_items(text: str, name: str = "questions") -> tuple[Item, ...]:
    """Questions with answers from JSON lines, "answer" or "gold_answer". Raises `BadInput`."""
    rows = _rows(text, name)
    items = []
    for number, row in rows:
        answer = row.get("gold_answer", row.get("answer"))
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise BadInput(f"Line {number} of {name} has no question.", ADVICE)
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise BadInput(f"Line {number} of {name} has no answer.", ADVICE)
        gold = str(answer).rpartition("####")[2].strip()  # GSM8K puts its answer there
        if not gold or max(len(gold), len(question)) > LONGEST_TEXT:
            raise BadInput(
                f"Line {number} of {name} has no answer that can be extracted, or is too long.",
                f"A text may have {LONGEST_TEXT} characters.",
            )
        items.append(Item(question.strip(), gold))
    return tuple(items)


def read_records(text: str, name: str = "the augmented set") -> tuple[Record, ...]:
    """Records from JSON lines. Raises `BadInput` that names the line and the field."""
    records = []
    for number, row in _rows(text, name):
        for column in fields(Record):
            kind = bool if column.name == "is_consistent" else str
            if not isinstance(row.get(column.name), kind):
                raise BadInput(f"Line {number} of {name} has no sound {column.name}.", FIELDS)
        records.append(Record(**{column.name: row[column.name] for column in fields(Record)}))
    return tuple(records)


ADVICE = 'Each line is one JSON object, such as {"question": "...", "answer": "..."}.'
FIELDS = f"Each line needs the fields {', '.join(field.name for field in fields(Record))}."


def _rows(text: str, name: str) -> list[tuple[int, dict]]:
    if not isinstance(text, str):
        raise BadInput(f"{name} must be text.", ADVICE)
    if len(text) > LONGEST_FILE:
        raise BadInput(f"{name} has {len(text)} characters; at most {LONGEST_FILE} are taken.", "")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise BadInput(f"Line {number} of {name} is not JSON.", ADVICE) from None
        if not isinstance(row, dict):
            raise BadInput(f"Line {number} of {name} is not a JSON object.", ADVICE)
        rows.append((number, row))
    if len(rows) > MOST_ITEMS:
        raise BadInput(
            f"{name} has {len(rows)} lines; at most {MOST_ITEMS} are taken.", "Split it."
        )
    return rows
