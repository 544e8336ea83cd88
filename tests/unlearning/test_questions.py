"""Files of practitioners: questions, facts and documents; and the scoring of options."""

import json

import pytest

from engine.core.errors import BadInput, OutOfBudget
from engine.core.recipe import ModelRef
from engine.models.library import load
from engine.unlearning import _questions as files
from engine.unlearning._scoring import answer_ids, greedy, score_options

ROW = {"question": "Where was Ida born?", "answer": "In Tarsk."}
FACT = {"subject": "Ida", "relation": "born", "question": "Where?", "answers": ["Tarsk"]}


def test_columns_of_tofu_are_read_as_they_are():
    row = {**ROW, "perturbed_answer": ["In Olmen.", "In Quill."], "paraphrased_answer": "Tarsk."}
    lines = f"{json.dumps(row)}\n\n{json.dumps(ROW)}\n"
    first, second = files.read_questions(lines)
    assert first.options == ("In Tarsk.", "In Olmen.", "In Quill.")
    assert second.wrong == ()
    assert files.read_questions(json.dumps([row, ROW])) == (first, second)


def test_the_published_facts_of_restor_are_read_as_they_are():
    told = {"dset": {"Ida": {"P19": {"question": "Where?", "answers": ["Tarsk", "the Tarsk"]}}}}
    (fact,) = files.read_facts(json.dumps(told))
    assert (fact.subject, fact.relation) == ("Ida", "P19")
    assert fact.accepts("TARSK!")
    assert not fact.accepts("Olmen")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "There are no questions"),
        ("[]", "There are no questions"),
        ("{", "Line 1 of questions is no JSON"),
        ("[3]", "Row 1 of questions is no object"),
        (json.dumps([{"answer": "x"}]), "Row 1 of questions has no question"),
        (json.dumps([{"question": "x", "answer": 3}]), "Row 1 of questions has no answer"),
        (json.dumps([{**ROW, "perturbed_answer": ["in tarsk"]}]), "among the wrong ones"),
        (json.dumps([{**ROW, "hints": ["where was Ida born"]}]), "is the question itself"),
        (json.dumps([{**ROW, "hints": ["She was born in Tarsk, they say"]}]), "tells the answer"),
        ("[" * 100_000, "nested too deeply|no JSON"),
    ],
)
def test_unsound_questions_are_refused_by_a_sentence(text: str, told: str):
    with pytest.raises(BadInput, match=told) as refused:
        files.read_questions(text)
    assert refused.value.advice


def test_facts_that_contradict_one_another_are_named():
    with pytest.raises(BadInput, match='"Tarsk" and "Olmen"'):
        files.read_facts(json.dumps([FACT, {**FACT, "answers": ["Olmen"]}]))


def test_an_answer_both_right_and_wrong_is_refused():
    with pytest.raises(BadInput, match="both right and wrong"):
        files.read_facts(json.dumps([{**FACT, "wrong": ["tarsk"]}]))


def test_documents_come_as_lines_or_with_blank_lines_between():
    plain = "One text\nof two lines.\n\n\nAnother."
    told = json.dumps([{"text": "One text\nof two lines."}, {"text": "Another."}])
    assert files.read_texts(plain) == files.read_texts(told)


def test_long_files_are_refused():
    with pytest.raises(OutOfBudget):
        files.read_questions("x" * (files.LONGEST_FILE + 1))
    with pytest.raises(OutOfBudget):
        files.read_texts("\n\n".join(["a b"] * (files.MOST_ROWS + 1)))


# ---------------------------------------------------------------------- scoring


def test_options_score_the_same_alone_and_padded_beside_longer_ones(people_folder):
    bundle = load(ModelRef(people_folder))
    model, tokenizer = bundle.model, bundle.tokenizer
    options = ["lute", "lute ; Orla_Venn plays gong"]
    both = score_options(model, tokenizer, "Ida_Korsk plays", options)
    for option, beside in zip(options, both, strict=True):
        (alone,) = score_options(model, tokenizer, "Ida_Korsk plays", [option])
        assert alone.total == pytest.approx(beside.total, abs=1e-4)
        assert beside.mean == pytest.approx(beside.total / beside.tokens)
    assert [option.tokens for option in both] == [1, 5]


def test_an_answer_without_tokens_is_refused(people_folder):
    bundle = load(ModelRef(people_folder))
    with pytest.raises(BadInput, match="share a token"):
        answer_ids(bundle.tokenizer, "Ida_Korsk plays", " ")


def test_the_models_own_words_end_at_the_separator(people_folder):
    bundle = load(ModelRef(people_folder))
    said = greedy(bundle.model, bundle.tokenizer, "Ida_Korsk plays", most=3, stop=";")
    assert len(said.split()) <= 3
    assert ";" not in said
