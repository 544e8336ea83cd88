"""Every method of the catalogue keeps the promises of `rules.py`; new ones are picked up.

All methods are held to them, those too whose claim is not measured yet; only what is said of claims
waits for the claim.
"""

from collections.abc import Callable

import pytest

from engine.core.catalog import (
    ROOT,
    TABLE_HEAD,
    Action,
    Entry,
    announced,
    discover,
    methods_table,
    with_table,
)
from engine.models.library import MODELS
from tests.contract import rules

CATALOG = discover()
ANNOUNCED = announced(CATALOG)
METHODS = [pytest.param(entry, id=entry.slug) for entry in CATALOG.values()]
CLAIMED = [pytest.param(entry, id=entry.slug) for entry in ANNOUNCED.values()]
ACTIONS = [
    pytest.param(entry, action, id=f"{entry.slug}-{action.name}")
    for entry in CATALOG.values()
    for action in entry.card.actions
]


def need_models(entry: Entry) -> None:
    """A method whose claim is not measured may still wait for its checkpoints; no other may."""
    missing = sorted(set(entry.card.models) - set(MODELS))
    if missing and entry.slug not in ANNOUNCED:
        pytest.skip(f"not trained yet: {', '.join(missing)}")


def test_no_method_is_broken():
    assert not CATALOG.broken, "\n".join(found.traceback for found in CATALOG.broken.values())


def test_the_table_in_the_readme_is_in_step():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert TABLE_HEAD in readme
    assert with_table(readme, methods_table(ANNOUNCED)) == readme, (
        "Run: python -m engine.core.catalog --write"
    )


@pytest.mark.parametrize(
    "rule",
    [
        rules.is_filled_in,
        rules.has_its_tests,
        rules.has_its_benchmark,
        rules.states_its_lesson,
        rules.states_its_card,
        rules.shows_its_code,
        rules.has_golden_arrays_or_says_why_not,
        rules.has_light_recipes,
        rules.names_settings_that_fit_a_recipe,
        rules.declares_its_settings,
        rules.names_a_model_only_where_one_is_used,
    ],
    ids=lambda rule: rule.__name__,
)
@pytest.mark.parametrize("entry", METHODS)
def test_a_method_writes_down(entry: Entry, rule: Callable[[Entry], None]):
    rule(entry)


@pytest.mark.parametrize(
    "rule",
    [rules.has_its_page, rules.has_its_worksheet, rules.has_tests_of_its_panel],
    ids=lambda rule: rule.__name__,
)
@pytest.mark.parametrize("entry", METHODS)
def test_a_method_has_its_panel(entry: Entry, rule: Callable[[Entry], None]):
    rule(entry)


@pytest.mark.parametrize(
    "rule",
    [rules.has_measured_its_claim, rules.names_the_torch_of_its_claim],
    ids=lambda rule: rule.__name__,
)
@pytest.mark.parametrize("entry", CLAIMED)
def test_a_claim_is_measured(entry: Entry, rule: Callable[[Entry], None]):
    rule(entry)


@pytest.mark.parametrize("entry", METHODS)
def test_a_method_names_models_that_there_are(entry: Entry):
    need_models(entry)
    assert set(entry.card.models) <= set(MODELS)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_a_run_repeats_and_reports(entry: Entry, action: Action):
    need_models(entry)
    rules.runs_repeats_and_reports(entry, action)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_a_run_stops_clean_at_every_step(entry: Entry, action: Action):
    need_models(entry)
    rules.stops_clean_at_every_step(entry, action)


@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_a_run_refuses_bad_settings_with_advice(entry: Entry, action: Action):
    rules.refuses_with_advice(entry, action)


@pytest.mark.slow
@pytest.mark.parametrize("entry", METHODS)
def test_a_method_reaches_the_exactness_it_declares(entry: Entry):
    need_models(entry)
    rules.reaches_its_exactness(entry)
