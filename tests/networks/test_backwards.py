"""Everything in one view: what each way keeps and how it comes back, and the record of the page."""

import json

import pytest

from engine.core.catalog import Exactness, discover
from engine.core.job import Job, finish
from engine.networks import _backwards
from pages import _backwards as page

TARGET = "engine.networks._backwards:run"


@pytest.fixture(scope="module")
def ways() -> dict[str, _backwards.Way]:
    return {way.title: way for way in finish(_backwards.run(seed=0)).ways}


@pytest.mark.slow
def test_each_comes_back_as_its_family_says(ways):
    assert ways["XOR patch"].exactness is Exactness.BITWISE
    assert ways["XOR patch"].error == 0
    assert ways["Coupling layers"].exactness is Exactness.ROUND_OFF
    assert 0 < ways["Reversible Heun"].error < 1e-9  # float64 states
    assert ways["DDIM inversion"].exactness is Exactness.APPROXIMATE
    assert ways["Noise, then a sampler"].exactness is Exactness.IN_DISTRIBUTION


@pytest.mark.slow
def test_the_rivals_come_back_worse(ways):
    assert ways["Adapter subtracted"].equal_bits < 1
    assert ways["Couplings that shrink"].error > 100 * ways["Coupling layers"].error
    assert ways["DDIM inversion"].error > 1e6 * ways["Reversible Heun"].error


def test_none_keeps_all_that_was_there(ways):
    assert all(0 < way.kept < 1 for way in ways.values())
    assert ways["XOR patch"].kept == pytest.approx(0.1)  # one of ten layers
    assert ways["Coupling layers"].kept < 0.1


def test_each_leads_to_an_action_that_there_is(ways):
    catalog = discover()
    for way in ways.values():
        assert catalog.find(way.method).target(way.action)


@pytest.mark.slow
def test_it_runs_as_a_job_with_a_preview_of_every_point(run_job):
    told = [event.preview for event in run_job(Job(TARGET, {}, 3))[:-1] if event.preview]
    assert [len(one.ways) for one in told] == list(range(1, len(_backwards.WAYS) + 1))


def test_the_record_is_what_is_measured(ways):
    """Errors of round-off differ by the processor, so powers of ten are compared."""
    recorded = {one.title: one for one in page.recorded()}
    assert recorded.keys() == ways.keys()
    for title, way in ways.items():
        old = recorded[title]
        assert old.exactness == way.exactness.value
        assert old.kept == pytest.approx(way.kept, rel=1e-3)
        assert old.error <= 30 * way.error or old.error < 1e-12
        assert way.error <= 30 * old.error or way.error < 1e-12


def test_the_figure_names_and_links_every_point(ways):
    catalog = discover()
    drawn = page.figure(list(ways.values()), catalog) + page.table(list(ways.values()), catalog)
    for way in ways.values():
        assert drawn.count(page.escape(way.title)) >= 3
        assert page.escape(page.address_of(way, catalog)) in drawn


def test_without_a_record_home_shows_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "RECORD", tmp_path / "none.json")
    assert page.small(discover()) == ""
    (tmp_path / "none.json").write_text(json.dumps({"ways": [{"title": "half"}]}))
    assert page.recorded() == ()
