"""The rules for methods, proved on a toy: it passes, and each broken variant of it is caught."""

from dataclasses import dataclass, replace

import pytest

from engine.core import catalog
from engine.core.catalog import (
    Action,
    Catalog,
    Claim,
    Exactness,
    Family,
    Headline,
    Measured,
    Paper,
    discover,
    main,
    methods_table,
    with_table,
)
from engine.core.errors import AssetMissing, BadInput
from tests.contract import rules
from tests.contract.toys.sampling.countdown import algorithm

CATALOG = discover("tests.contract.toys")


@pytest.fixture
def toy():
    return CATALOG["countdown"]


def variant(toy, name: str):
    """The toy with another function as its only action, and that action."""
    action = replace(toy.card.actions[0], name=name)
    return replace(toy, card=replace(toy.card, actions=(action,))), action


# ---------------------------------------------------------------------- finding methods


def test_methods_are_found_by_slug_with_dashes_or_underscores(toy):
    assert list(CATALOG) == ["countdown"]
    assert toy.target() == "tests.contract.toys.sampling.countdown.algorithm:run"
    assert CATALOG.of(Family.SAMPLE) == (toy,)
    assert CATALOG.of(Family.ERASE) == ()
    longer = Catalog({"nfe_lab": toy})
    assert longer["nfe-lab"] is longer.find("nfe-lab") is longer["nfe_lab"]


def test_a_package_that_fails_is_kept_with_its_traceback_and_the_others_go_on():
    assert list(CATALOG.broken) == ["no_card"]
    assert "has no CARD" in CATALOG.broken["no_card"].traceback


def test_one_slug_in_two_families_is_an_error(monkeypatch):
    once = "tests.contract.toys.sampling.countdown"
    monkeypatch.setattr(catalog, "_method_modules", lambda family: [once])
    found = discover("tests.contract.toys")
    assert list(found) == ["countdown"]
    assert f"{once} has the same slug" in found.broken["countdown"].traceback


def test_an_unknown_method_or_action_is_refused_with_those_there_are(toy):
    with pytest.raises(BadInput, match="The methods are: countdown"):
        CATALOG.find("rece")
    with pytest.raises(BadInput, match="It has run"):
        toy.target("rewind")


def test_the_code_shown_is_the_code_in_the_file(toy):
    function, method = toy.sources()
    assert function.code.splitlines()[:2] == [
        "def count_down(x, steps):",
        '    """The numbers from x downwards."""',
    ]
    lines = function.path.read_text().splitlines()
    assert lines[function.line - 1] == "def count_down(x, steps):"
    assert method.code.splitlines()[:2] == ["@staticmethod", "def back(x):"]


def test_a_setting_with_a_name_of_the_recipe_is_caught(toy, monkeypatch):
    rules.names_settings_that_fit_a_recipe(toy)
    monkeypatch.setattr(algorithm, "run", lambda *, seed, method="ddim": ())
    with pytest.raises(AssertionError, match="method"):
        rules.names_settings_that_fit_a_recipe(toy)


def test_families_have_routes_and_titles():
    assert [family.route for family in Family] == [
        "/sample",
        "/erase",
        "/merge",
        "/verify",
        "/unlearn",
        "/reverse",
    ]
    assert Family("sampling") is Family.SAMPLE
    assert Family.SAMPLE.title == "Un-noise"


@pytest.mark.parametrize(
    ("claim", "measured", "versus", "holds"),
    [
        (("higher", 2.0, "factor"), 2.0, 1.0, True),
        (("higher", 2.0, "factor"), 1.9, 1.0, False),
        (("lower", 2.0, "factor"), 1.0, 2.0, True),
        (("lower", 2.0, "factor"), 1.1, 2.0, False),
        (("lower", 2.0, "factor"), 0.0, 0.0, True),
        (("higher", 0.1, "difference"), 0.75, 0.5, True),
        (("lower", 0.1, "difference"), 0.5, 0.5, False),
        (("higher", 1.0, "factor"), float("nan"), 1.0, False),
    ],
)
def test_a_claim_holds_from_its_margin_on(claim, measured, versus, holds):
    direction, margin, by = claim
    found = Claim("It is better.", "a", "b", direction, margin, by).holds(measured, versus)
    assert found is holds


# ---------------------------------------------------------------------- the table


def test_the_table_has_a_row_for_every_method(toy):
    table = methods_table(CATALOG)
    assert "[2026](https://example.org/countdown)" in table
    assert "`countdown`" in table
    assert len(table.splitlines()) == 3


def test_the_table_goes_between_its_marks_and_nowhere_else():
    readme = "a\n<!-- methods -->\nold\n<!-- /methods -->\nb\n"
    new = with_table(readme, "| new |")
    assert new == "a\n<!-- methods -->\n| new |\n<!-- /methods -->\nb\n"
    assert with_table(new, "| new |") == new
    with pytest.raises(AssetMissing, match="no place for the table"):
        with_table("a", "| new |")


def test_the_table_can_be_printed(capsys):
    main([])
    assert capsys.readouterr().out.startswith("| family | method |")


# ---------------------------------------------------------------------- rules on what is written


@pytest.mark.slow
def test_the_toy_keeps_every_promise(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.core.catalog.CLAIMS", tmp_path)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "countdown.py").write_text("def build(frame): ...\n")
    (tmp_path / "tests" / "ui").mkdir(parents=True)
    (tmp_path / "tests" / "ui" / "test_countdown.py").write_text("def breaks(found): ...\n")
    (tmp_path / "tests" / "sampling").mkdir()
    (tmp_path / "tests" / "sampling" / "test_countdown.py").write_text(f"import {toy.module}\n")
    (tmp_path / "assets" / "worksheets").mkdir(parents=True)
    (tmp_path / "assets" / "worksheets" / "countdown.json").write_text("{}")
    rules.is_filled_in(toy, tmp_path)
    rules.has_its_worksheet(toy, tmp_path)
    rules.has_its_tests(toy, tmp_path)
    rules.has_tests_of_its_panel(toy, tmp_path)
    rules.states_its_lesson(toy)
    rules.states_its_card(toy)
    rules.shows_its_code(toy)
    rules.has_its_page(toy, tmp_path)
    rules.has_golden_arrays_or_says_why_not(toy, tmp_path)
    rules.has_light_recipes(toy)
    (action,) = toy.card.actions
    rules.runs_repeats_and_reports(toy, action)
    rules.reaches_its_exactness(toy)
    rules.stops_clean_at_every_step(toy, action)
    rules.refuses_with_advice(toy, action)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (rules.states_its_card, {"paper": Paper("T", "A", 2026, "http://plain.example")}),
        (rules.states_its_card, {"undoes": "two\nlines"}),
        (rules.states_its_card, {"headline": Headline("no sentence", "shown", "All.")}),
        (rules.states_its_card, {"actions": (Action(quick={"start": 1}),)}),
        (rules.shows_its_code, {"shows": ()}),
        (rules.shows_its_code, {"shows": ("absent",)}),
        (rules.has_golden_arrays_or_says_why_not, {"no_golden": ""}),
        (rules.has_golden_arrays_or_says_why_not, {"golden": ("absent",)}),
        (rules.has_its_page, {}),
        (rules.has_its_worksheet, {}),
        (rules.has_tests_of_its_panel, {}),
        (rules.has_its_benchmark, {}),
        (rules.has_measured_its_claim, {}),
        (rules.has_light_recipes, {"actions": (Action(quick={"x": float("nan")}),)}),
    ],
)
def test_a_card_that_lacks_something_is_caught(toy, rule, change):
    with pytest.raises((AssertionError, LookupError, AssetMissing, BadInput)):
        rule(replace(toy, card=replace(toy.card, **change)))


def test_a_short_lesson_is_caught(toy, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules[toy.module], "__doc__", "Short.")
    with pytest.raises(AssertionError, match="too short"):
        rules.states_its_lesson(toy)


@pytest.mark.parametrize(("measured", "passes"), [(2.5, True), (1.5, False)])
def test_a_claim_is_held_against_its_figures(toy, tmp_path, monkeypatch, measured, passes):
    figures = Measured(measured, 1.0, (1.0, 3.0), 7, 0.5, {"torch": "2"}, "2 cores", {"n": [1]})
    figures.save("countdown", tmp_path)
    assert Measured.load("countdown", tmp_path) == figures
    monkeypatch.setattr(Measured, "load", classmethod(lambda cls, slug: figures))
    if passes:
        rules.has_measured_its_claim(toy)
    else:
        with pytest.raises(AssertionError, match="claims: Counts at twice the rate"):
            rules.has_measured_its_claim(toy)


@pytest.mark.parametrize(
    ("versions", "imported", "passes"),
    [({"torch": "2"}, True, True), ({"numpy": "2"}, True, False), ({"numpy": "2"}, False, True)],
)
def test_a_claim_must_name_the_torch_that_computed_it(toy, monkeypatch, versions, imported, passes):
    figures = Measured(2.5, 1.0, (1.0, 3.0), 7, 0.5, versions, "2 cores", {})
    monkeypatch.setattr(Measured, "load", classmethod(lambda cls, slug: figures))
    monkeypatch.setattr(rules, "uses_torch", lambda entry: imported)
    if passes:
        rules.names_the_torch_of_its_claim(toy)
    else:
        with pytest.raises(AssertionError, match="names no torch"):
            rules.names_the_torch_of_its_claim(toy)


def test_an_import_of_torch_is_found_anywhere_in_a_method(toy, tmp_path):
    folder = tmp_path / toy.module.replace(".", "/")
    folder.mkdir(parents=True)
    (folder / "algorithm.py").write_text("import torchvision\n")
    assert not rules.uses_torch(toy, tmp_path)
    (folder / "bench.py").write_text("def run():\n    from torch.nn import Linear\n")
    assert rules.uses_torch(toy, tmp_path)


# ---------------------------------------------------------------------- rules on runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("forgets_its_seed", "does not repeat"),
        ("uses_global_noise", "global noise"),
        ("leaves_gradients_off", "gradient mode"),
        ("leaves_a_file", "left behind"),
        ("never_yields", "yields no Progress"),
        ("gives_what_does_not_pickle", "pickle"),
    ],
)
def test_a_run_that_breaks_a_promise_is_caught(toy, name, sentence):
    with pytest.raises(Exception, match=sentence):
        rules.runs_repeats_and_reports(*variant(toy, name))


def test_only_how_a_run_went_may_part():
    @dataclass(frozen=True)
    class Film:
        error: float
        milliseconds_per_nfe: float
        was_cached: bool

    first = (Film(0.0, 3.0, False), [1])
    assert not rules.differing(first, (Film(0.0, 4.0, True), [1]))
    assert rules.differing(first, (Film(-0.0, 3.0, False), [1])) == ["result[0].error"]
    assert rules.differing(first, (Film(0.0, 3.0, False), [2])) == ["result[1][0]"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaves_a_file", "swallows_the_stop"])
def test_a_run_that_does_not_stop_clean_is_caught(toy, name):
    with pytest.raises((AssertionError, RuntimeError)):
        rules.stops_clean_at_every_step(*variant(toy, name))


@pytest.mark.parametrize("name", ["has_no_advice", "checks_too_late"])
def test_a_run_that_refuses_badly_is_caught(toy, name):
    with pytest.raises(AssertionError):
        rules.refuses_with_advice(*variant(toy, name))


def test_a_run_that_accepts_bad_settings_is_caught(toy):
    action = Action(quick={"start": 1}, bad={"start": 2})
    with pytest.raises(AssertionError):
        rules.refuses_with_advice(replace(toy, card=replace(toy.card, actions=(action,))), action)


@pytest.mark.slow
def test_a_silent_run_is_caught(toy, monkeypatch):
    monkeypatch.setattr(rules, "LONGEST_SILENCE", -1.0)
    with pytest.raises(AssertionError, match="Silent for"):
        rules.runs_repeats_and_reports(toy, toy.card.actions[0])


@pytest.mark.parametrize("name", ["comes_back_inexactly", "never_yields"])
def test_an_exactness_that_is_not_reached_is_caught(toy, name):
    broken, _ = variant(toy, name)
    if name == "never_yields":
        rules.reaches_its_exactness(broken)
    else:
        with pytest.raises(AssertionError, match="to round-off"):
            rules.reaches_its_exactness(broken)
    loose = replace(broken, card=replace(broken.card, exactness=Exactness.APPROXIMATE))
    rules.reaches_its_exactness(loose)


def test_the_toys_algorithm_is_what_the_rules_ran():
    assert algorithm.count_down(3, 2) == [3, 2]


def test_a_model_that_is_taken_and_left_aside_is_caught(toy, monkeypatch):
    rules.names_a_model_only_where_one_is_used(toy)
    named = replace(toy, card=replace(toy.card, models=("world",)))
    with pytest.raises(AssertionError, match="run"):
        rules.names_a_model_only_where_one_is_used(named)
    monkeypatch.setattr(algorithm, "run", leaves_its_model_aside)
    with pytest.raises(AssertionError, match="leaves it aside"):
        rules.names_a_model_only_where_one_is_used(named)
    exact = replace(named.card.actions[0], on_model=False)
    monkeypatch.undo()
    rules.names_a_model_only_where_one_is_used(
        replace(named, card=replace(named.card, actions=(exact,)))
    )


def leaves_its_model_aside(*, seed: int, model: str = "world") -> tuple[()]:
    """It names a model and computes without."""
    return ()
