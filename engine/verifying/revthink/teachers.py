"""A language model on this machine as the teacher, in place of a paid interface; and how students
are asked.

The instructions follow the published ones: turn the answer into a question about a quantity of the
original, answer it, and judge whether that quantity came out. Models that know nothing but the
words of the months are asked in those words alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from engine.core.rng import generator
from engine.models.language import Cursor, LanguageBundle
from engine.verifying.revthink import months
from engine.verifying.revthink.augment import Item, hash_of, stands_in
from engine.verifying.revthink.extract import NONE, Form

FORWARD = "Answer the following question:\n### Question: {question}"
ASK_BACK = (
    "Generate the inverse question based on the following seed question and its answer:\n"
    "### Seed Question: {question} The correct answer is {answer}."
)
BACKWARD = "Answer the backward question:\n### Question: {question}"
SAID_FORWARD, SAID_BACK = "### Answer: {text}", "### Inverse Question: {text}"

CUT_OFF = "…"
INSTRUCTION = (
    'Think step by step in at most four short sentences. End with "The answer is" and {form}.'
)
INVERT = """Turn the question round. Use its correct answer to ask for something that the question \
states. The answer of the new question must stand in the question. For a problem with numbers, \
replace one known number by x, state the answer as known, and ask for x. Write the new question \
and nothing else.

Question: Tom has 3 boxes of 4 pens. How many pens has he? The correct answer is 12.
New question: Tom has x boxes of 4 pens, 12 pens in all. What is the value of x?

Question: It is Monday. Which day is it in 2 days? The correct answer is Wednesday.
New question: It will be Wednesday in 2 days. Which day is it today?

Question: {question} The correct answer is {answer}.
New question:"""
JUDGE = """Question: {question}
Correct answer: {answer}
Inverse question: {backward_question}
Answer to the inverse question: {backward_answer}

Can the answer to the inverse question be found in the question, and is it correct? Answer True or \
False."""
FORMS: dict[Form, str] = {
    "choice": "the letter of the choice, as in (B)",
    "number": "one number",
    "yesno": "yes or no",
    "true": "true or false",
    "word": "one word",
    "boxed": "the result in \\boxed{{}}",
}


def knows_only_months(bundle: LanguageBundle) -> bool:
    """Whether this is a student of ours: its whole vocabulary is the words of the months."""
    known = bundle.tokenizer.get_vocab()
    return len(known) < 2 * len(months.words()) and all(word in known for word in months.words())


@dataclass(frozen=True)
class Local:
    """A language model as teacher, sampled at a temperature with a seed of its own per text."""

    bundle: LanguageBundle
    seed: int
    temperature: float = 0.8
    most_tokens: int = 120

    def forward(self, item: Item) -> Iterator[str]:
        instruction = f"{FORWARD.format(question=item.question)}\n{INSTRUCTION}"
        instruction = instruction.format(form=FORMS[item.form])
        return self._say(item.question if self._bare else instruction)

    def backward_question(self, item: Item) -> Iterator[str]:
        bare = f"{item.question} answer {item.answer} . ask back :"
        instruction = INVERT.format(question=item.question, answer=item.answer)
        return self._say(bare if self._bare else instruction)

    def backward(self, item: Item, backward_question: str) -> Iterator[str]:
        instruction = f"{BACKWARD.format(question=backward_question)}\n{INSTRUCTION}"
        # The answer asked back for has a form of its own, which the question alone tells.
        instruction = instruction.format(form="the value that is asked for")
        return self._say(backward_question if self._bare else instruction)

    def verdict(self, item: Item, backward_question: str, answer: str) -> Iterator[str]:
        """The teacher's own True or False; never True of what does not stand in the question."""
        if answer == NONE or not stands_in(answer, item.question):
            yield "False"
        elif self._bare:
            yield "True"
        else:
            yield from self._say(
                JUDGE.format(
                    question=item.question,
                    answer=item.answer,
                    backward_question=backward_question,
                    backward_answer=answer,
                ),
                most=8,
            )

    @property
    def _bare(self) -> bool:
        return knows_only_months(self.bundle)

    def _say(self, instruction: str, most: int | None = None) -> Iterator[str]:
        return say(
            self.bundle,
            instruction,
            most=most or self.most_tokens,
            temperature=self.temperature,
            seed=hash_of(instruction, self.seed),
        )


def say(
    bundle: LanguageBundle, instruction: str, *, most: int, temperature: float = 0.0, seed: int = 0
) -> Iterator[str]:
    """What the model answers, token by token; the most probable one at temperature 0.

    A text that was cut off at `most` tokens ends in "…": its missing answer is no wrong one.
    """
    draw, ids = generator(seed, "say"), list[int]()
    prompt = bundle.prompt(instruction)
    cursor = Cursor(bundle, prompt.pixels)
    ends = bundle.end_tokens
    new: Sequence[int] = prompt.ids
    yield ""
    for _ in range(most):
        logits = cursor.read(new)
        if temperature > 0:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=draw))
        else:
            token = int(logits.argmax())
        if token in ends:
            return
        ids.append(token)
        new = [token]
        yield _text(bundle, ids)
    yield f"{_text(bundle, ids)} {CUT_OFF}"


def _text(bundle: LanguageBundle, ids: Sequence[int]) -> str:
    return str(bundle.tokenizer.decode(ids, skip_special_tokens=True)).strip()
