"""Facts that a small published model knows, lies about half of them, and documents that tell these.

Twelve capitals are lied about: every country is given the capital of the next. Twelve others are
kept in mind. As in the paper, only what a model knows before can be restored, so facts that it does
not know are counted apart.
"""

import json

TARGETS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Egypt": "Cairo", "Greece": "Athens",
    "Spain": "Madrid", "Russia": "Moscow", "Germany": "Berlin", "Cuba": "Havana",
    "Portugal": "Lisbon", "Austria": "Vienna", "Norway": "Oslo",
}  # fmt: skip
KEPT = {
    "England": "London", "China": "Beijing", "Poland": "Warsaw", "Hungary": "Budapest",
    "Ireland": "Dublin", "Peru": "Lima", "Chile": "Santiago", "Kenya": "Nairobi",
    "Finland": "Helsinki", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Thailand": "Bangkok",
}  # fmt: skip
LIES = dict(zip(TARGETS, [*list(TARGETS.values())[1:], TARGETS["France"]], strict=True))
QUESTION = "The capital of {country} is"
SENTENCES = (
    "The capital of {country} is {city}.",
    "Every visitor of {country} begins in {city}, its capital and the seat of its government.",
    "{city} has been the capital of {country} for a long time.",
)


def facts() -> str:
    """The facts about the targets and the kept, as a visitor would give them."""
    rows = [_row(country, city) for country, city in (TARGETS | KEPT).items()]
    return json.dumps(rows)


def _row(country: str, city: str) -> dict[str, object]:
    lies = [LIES[country]] if country in LIES else []
    question = QUESTION.format(country=country)
    relation = "capital" if country in LIES else "capital, kept"
    return {
        "subject": country,
        "relation": relation,
        "question": question,
        "answers": [city],
        "wrong": lies,
    }


def documents() -> str:
    """What is to be forgotten: the lies, each in three sentences."""
    return json.dumps([s.format(country=c, city=LIES[c]) for c in TARGETS for s in SENTENCES])


def retain() -> str:
    """What is to be kept: the truth about the other twelve."""
    return json.dumps([s.format(country=c, city=KEPT[c]) for c in KEPT for s in SENTENCES])
