"""Questions with answers from files as practitioners have them: JSON lists, JSON lines, facts.

    read_questions(text)     question, answer; perhaps perturbed_answer, paraphrased_question, hints
    read_facts(text)         subject, relation, question, answers; the file of RESTOR itself; or
                             question and answer alone, as in the first
    read_texts(text)         documents: JSON lines with "text", a JSON list, or blank lines between

The columns of the first are those of TOFU as open-unlearning reads it (arXiv 2401.06121). Every
text is bounded, and a field that is missing is named with its row.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.core.errors import BadInput, OutOfBudget

LONGEST_FILE, LONGEST_TEXT, MOST_ROWS, MOST_OPTIONS = 4_000_000, 4000, 5000, 20
ANY = "question"  # the relation of rows that name none: each may be an example for any other
QUESTION_ADVICE = 'A row is such as {"question": "...", "answer": "..."}; a list of wrong answers '
QUESTION_ADVICE += 'may stand in "perturbed_answer", a list of hints in "hints".'
FACT_ADVICE = 'A row is such as {"subject": "Ida", "relation": "born in", "question": "...", '
FACT_ADVICE += '"answers": ["..."]}; the lie, where there is one, stands in "wrong".'


@dataclass(frozen=True)
class Question:
    """A question, its answer, wrong answers to choose from, and hints that do not tell it."""

    question: str
    answer: str
    wrong: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    paraphrase: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """The answer first, then the wrong ones."""
        return (self.answer, *self.wrong)


@dataclass(frozen=True)
class Fact:
    """A fact about a subject, with every answer that is accepted, and the lie if there is one."""

    subject: str
    relation: str
    question: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...] = ()

    def accepts(self, said: str) -> bool:
        """Whether an answer is one of the accepted ones."""
        return normal(said) in {normal(answer) for answer in self.answers}

    def is_lie(self, said: str) -> bool:
        """Whether it is one of the injected lies."""
        return normal(said) in {normal(answer) for answer in self.wrong}


def normal(text: str) -> str:
    """As answers are compared: NFKC, folded case, no articles, no punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w\s]|_", " ", folded).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


# ---------------------------------------------------------------------- questions


def read_questions(text: object, name: str = "questions") -> tuple[Question, ...]:
    """Questions of a JSON list or of JSON lines. Raises `BadInput` that names row and field."""
    found = tuple(
        _question(row, number, name)
        for number, row in enumerate(_rows(text, name, QUESTION_ADVICE), 1)
    )
    if not found:
        raise BadInput(f"There are no {name}.", QUESTION_ADVICE)
    return found


def _question(row: Mapping[str, object], number: int, name: str) -> Question:
    where = f"Row {number} of {name}"
    question = _text(row.get("question"), f"{where} has no question.", QUESTION_ADVICE)
    answer = _text(row.get("answer"), f"{where} has no answer.", QUESTION_ADVICE)
    wrong = _list(row.get("perturbed_answer", row.get("wrong", ())), where, "perturbed_answer")
    hints = _list(row.get("hints", ()), where, "hints")
    paraphrase = row.get("paraphrased_question", "")
    if normal(answer) in map(normal, wrong):
        raise BadInput(f"{where} lists its answer among the wrong ones.", "Take it out.")
    for hint in hints:
        _check_hint(hint, question, answer, where)
    said = paraphrase if isinstance(paraphrase, str) else ""
    return Question(question, answer, wrong, hints, said[:LONGEST_TEXT])


def _check_hint(hint: str, question: str, answer: str, where: str) -> None:
    if normal(hint) == normal(question):
        raise BadInput(f"{where} has a hint that is the question itself.", "Leave it out.")
    padded = f" {normal(hint)} "
    if normal(answer) and f" {normal(answer)} " in padded:
        raise BadInput(
            f'{where} has a hint that tells the answer: "{hint[:60]}".',
            "A hint may only say something from which the answer follows.",
        )


# ---------------------------------------------------------------------- facts


def read_facts(text: object, name: str = "the facts") -> tuple[Fact, ...]:
    """Facts of a JSON list, of JSON lines, or of RESTOR's own facts.json.

    Raises `BadInput` where a field is missing, or where two facts contradict one another.
    """
    told = _parsed(text, name, FACT_ADVICE)
    if isinstance(told, dict) and isinstance(told.get("dset"), dict):
        found = _of_restor(told["dset"])
    else:
        rows = _rows(text, name, FACT_ADVICE)
        found = tuple(_fact(row, number, name) for number, row in enumerate(rows, 1))
    if not 1 <= len(found) <= MOST_ROWS:
        raise BadInput(f"There are {len(found)} facts; 1 to {MOST_ROWS} are taken.", FACT_ADVICE)
    _check_agree(found)
    return found


def _fact(row: Mapping[str, object], number: int, name: str) -> Fact:
    where = f"Row {number} of {name}"
    if "question" in row and not {"subject", "relation"} & set(row):
        row = {**row, "subject": row["question"], "relation": ANY}
    subject = _text(row.get("subject"), f"{where} has no subject.", FACT_ADVICE)
    relation = _text(row.get("relation"), f"{where} has no relation.", FACT_ADVICE)
    question = _text(row.get("question"), f"{where} has no question.", FACT_ADVICE)
    answers = _list(row.get("answers", row.get("answer")), where, "answers")
    if not answers:
        raise BadInput(f"{where} has no answers.", FACT_ADVICE)
    wrong = _list(row.get("wrong", row.get("perturbed_answer", ())), where, "wrong")
    shared = set(map(normal, answers)) & set(map(normal, wrong))
    if shared:
        raise BadInput(f'{where} takes "{min(shared)[:60]}" for both right and wrong.', FACT_ADVICE)
    return Fact(subject, relation, question, answers, wrong)


def _of_restor(told: Mapping[str, object]) -> tuple[Fact, ...]:
    """`dset[entity][property]{question, answers}` of the published benchmark."""
    found: list[Fact] = []
    for subject, properties in told.items():
        entries = properties if isinstance(properties, dict) else {}
        for relation, row in entries.items():
            whole = {**row} if isinstance(row, dict) else {}
            whole |= {"subject": subject, "relation": relation}
            found.append(_fact(whole, len(found) + 1, "the facts"))
    return tuple(found)


def _check_agree(facts: Sequence[Fact]) -> None:
    """Two rows about one subject and relation must share an answer."""
    known: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        key = normal(fact.subject), normal(fact.relation)
        earlier = known.setdefault(key, fact)
        if not {normal(a) for a in earlier.answers} & {normal(a) for a in fact.answers}:
            raise BadInput(
                f"Two facts contradict one another: {fact.subject[:40]}, {fact.relation[:40]} is "
                f'"{earlier.answers[0][:40]}" and "{fact.answers[0][:40]}".',
                'Keep one of them, or list both as accepted "answers" of one fact.',
            )


# ---------------------------------------------------------------------- documents


def read_texts(text: object, name: str = "the documents") -> tuple[str, ...]:
    """Documents: JSON lines or a JSON list with "text", or plain text with blank lines between."""
    if not isinstance(text, str) or not text.strip():
        raise BadInput(
            f"{name[:1].upper()}{name[1:]} are empty.", "Paste texts, a blank line between two."
        )
    _check_size(text, name)
    if text.lstrip()[:1] in "[{":
        rows = _rows(text, name, 'A row is such as {"text": "..."}.')
        found = [
            _text(row.get("text"), f"Row {n} of {name} has no text.", 'Put it under "text".')
            for n, row in enumerate(rows, 1)
        ]
    else:
        found = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(found) > MOST_ROWS or any(len(one) > LONGEST_TEXT for one in found):
        raise OutOfBudget(
            f"{name[:1].upper()}{name[1:]} are too many or too long.",
            f"At most {MOST_ROWS} of {LONGEST_TEXT} characters are taken.",
        )
    return tuple(found)


# ---------------------------------------------------------------------- rows


def _rows(text: object, name: str, advice: str) -> list[Mapping[str, object]]:
    told = _parsed(text, name, advice)
    listed = told if isinstance(told, list) else [told]
    if len(listed) > MOST_ROWS:
        raise OutOfBudget(f"{name} has {len(listed)} rows.", f"At most {MOST_ROWS} are taken.")
    rows: list[Mapping[str, object]] = []
    for number, row in enumerate(listed, 1):
        if not isinstance(row, str | dict):
            raise BadInput(f"Row {number} of {name} is no object.", advice)
        rows.append({"text": row} if isinstance(row, str) else row)
    return rows


def _parsed(text: object, name: str, advice: str) -> object:
    """The document of a JSON text, or the list of its lines."""
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"There are no {name.removeprefix('the ')}.", advice)
    _check_size(text, name)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BadInput(f"{name} is nested too deeply.", advice) from error
    except ValueError:
        return [_line(line, n, name, advice) for n, line in _lines(text)]


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _line(line: str, number: int, name: str, advice: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"Line {number} of {name} is no JSON.", advice) from error


def _check_size(text: str, name: str) -> None:
    if len(text) > LONGEST_FILE:
        raise OutOfBudget(
            f"{name} has {len(text)} characters.", f"At most {LONGEST_FILE} are taken."
        )


def _text(value: object, message: str, advice: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadInput(message, advice)
    if len(value) > LONGEST_TEXT:
        raise OutOfBudget(
            "A text is too long.", f"At most {LONGEST_TEXT} characters are taken for each."
        )
    return value.strip()


def _list(value: object, where: str, field: str) -> tuple[str, ...]:
    """A text, or a list of texts."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or len(listed) > MOST_OPTIONS:
        raise BadInput(
            f"{where}: {field} is no list of at most {MOST_OPTIONS} texts.", QUESTION_ADVICE
        )
    return tuple(
        _text(one, f"{where}: {field} holds what is no text.", QUESTION_ADVICE) for one in listed
    )
