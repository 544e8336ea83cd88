"""The methods of the family keep what every method promises, before they are announced too."""

import pytest

from engine.core.catalog import Action, Entry, Family, discover
from engine.models.library import MODELS
from tests.contract import rules

CATALOG = discover()
ENTRIES = CATALOG.of(Family.UNLEARN)
METHODS = [pytest.param(entry, id=entry.slug) for entry in ENTRIES]
ACTIONS = [
    pytest.param(entry, action, id=f"{entry.slug}-{action.name}")
    for entry in ENTRIES
    for action in entry.card.actions
]


def test_all_four_are_found_in_order():
    assert [entry.slug for entry in ENTRIES] == [
        "ssd",
        "corrective",
        "smoothinv",
        "forgetting_lab",
    ]


@pytest.mark.parametrize(
    "rule",
    [
        rules.states_its_lesson,
        rules.states_its_card,
        rules.shows_its_code,
        rules.has_golden_arrays_or_says_why_not,
        rules.has_light_recipes,
        rules.names_settings_that_fit_a_recipe,
    ],
    ids=lambda rule: rule.__name__,
)
@pytest.mark.parametrize("entry", METHODS)
def test_a_method_writes_down(entry: Entry, rule):
    rule(entry)


@pytest.mark.parametrize("entry", METHODS)
def test_a_method_names_models_that_there_are(entry: Entry):
    assert set(entry.card.models) <= set(MODELS)


@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_a_run_refuses_bad_settings_with_advice(entry: Entry, action: Action):
    rules.refuses_with_advice(entry, action)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_a_run_repeats_and_reports(entry: Entry, action: Action):
    rules.runs_repeats_and_reports(entry, action)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_a_run_stops_clean_at_every_step(entry: Entry, action: Action):
    rules.stops_clean_at_every_step(entry, action)


@pytest.mark.slow
@pytest.mark.parametrize("entry", METHODS)
def test_a_method_reaches_the_exactness_it_declares(entry: Entry):
    rules.reaches_its_exactness(entry)
