"""Questions of the small world are shown as one says them."""

import pytest

from engine.verifying.revthink import months
from pages._revthink_words import IN_FULL, aloud, in_full


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "it is nov . 4 earlier tom moved . which month ?",
            "It is November. Tom moved 4 months earlier. Which month?",
        ),
        (
            "it ends in jul . 1 later ann sang . which start ?",
            "It ends in July. Ann sang 1 month later. Which month was the start?",
        ),
        (
            "it is mon . 2 later , 3 earlier ben left . which day ?",
            "It is Monday. Ben left 2 days later, then 3 days earlier. Which day?",
        ),
        ("How many pens has she?", "How many pens has she?"),
        ("mar + 4 = jul . answer jul", "mar + 4 = jul . answer jul"),
        ("", ""),
    ],
)
def test_questions_are_shown_as_one_says_them(text: str, said: str):
    assert aloud(text) == said


@pytest.mark.parametrize("cycle", [months.YEAR, months.WEEK, months.RAINBOW])
def test_every_question_of_the_world_can_be_said(cycle: months.Cycle):
    for number, question in enumerate(months.relations(cycle)):
        start = cycle.names[question.start]
        assert aloud(question.text(number)).startswith(f"It is {in_full(start)}. ")
        back = aloud(question.backward_question(number))
        assert back.startswith(f"It ends in {in_full(question.gold)}. ")
        assert f"Which {cycle.word} was the start?" in back


def test_every_month_and_day_has_its_name():
    assert set(IN_FULL) == {*months.MONTHS, *months.WEEK.names}
