"""Evidence: golden cases of the whole catalogue in one job, claims with their verdicts."""

from dataclasses import replace

import pytest

from engine import faithfulness
from engine.core import catalog as catalog_module
from engine.core.catalog import Catalog, Measured, announced, discover
from engine.core.job import Done, Job, Progress, events
from engine.faithfulness import Checked
from pages import evidence


@pytest.mark.slow
def test_golden_cases_of_one_method_run_as_a_job(run_job):
    seen = run_job(Job("engine.faithfulness:golden_cases", {"methods": ["nfe-lab"]}))
    assert isinstance(seen[-1], Done)
    cases = seen[-1].result
    assert {case.method for case in cases} == {"nfe-lab"}
    assert len(cases) >= 20
    assert all(case.holds for case in cases)
    told = [event for event in seen if isinstance(event, Progress)]
    assert told[-1].done == told[-1].total == 1


def test_an_unknown_method_is_refused_with_the_names_there_are():
    *_, end = events(Job("engine.faithfulness:golden_cases", {"methods": ["alchemy"]}))
    assert "alchemy" in end.message
    assert "nfe-lab" in end.advice


def test_an_error_that_is_not_a_number_does_not_hold():
    case = Checked("m", "M", "case", float("nan"), 1.0, 0.0)
    assert not case.holds
    assert "does not hold" in evidence.cases_table([case])


def test_a_claim_without_figures_says_so_and_one_that_fails_is_shown_failing(monkeypatch):
    entry = discover()["nfe_lab"]
    catalog = Catalog({entry.slug: entry})
    [held] = faithfulness.claims(catalog)
    assert held.holds
    found = entry.measured()
    worse = replace(found, measured=2 * found.versus, interval=(0.0, 9.0))
    monkeypatch.setattr(Measured, "load", lambda slug: worse)
    [failed] = faithfulness.claims(catalog)
    assert failed.holds is False
    assert "does not hold" in evidence.claims_table([failed])
    monkeypatch.undo()
    unmeasured = replace(held, measured=None, interval=None, holds=None)
    assert "not measured yet" in evidence.claims_table([unmeasured])


def test_every_headline_stands_beside_what_was_measured():
    found = faithfulness.claims(discover())
    table = evidence.headlines_table(found)
    assert table.count("<tr><td>") == len(found)
    for claim in found:
        assert claim.headline.verdict.capitalize() in table
        assert claim.measured is None or f"{claim.measured:.3g}" in table


@pytest.mark.slow
def test_a_claim_measured_again_stands_beside_the_record_and_leaves_it(run_job):
    entry = discover()["principles"]
    recorded = entry.measured()
    seen = run_job(Job("engine.faithfulness:measured_again", {"method": "principles"}))
    again = seen[-1].result
    assert again.holds
    assert again.measured == pytest.approx(recorded.measured, rel=0.05)
    assert entry.measured() == recorded
    assert all(event.preview is None for event in seen if isinstance(event, Progress))
    [old] = faithfulness.claims(Catalog({entry.slug: entry}))
    beside = evidence.compared(old, again)
    assert beside.index("recorded") < beside.index("measured now")


def test_visitors_of_a_shared_server_cannot_keep_it_busy_with_benchmarks(monkeypatch):
    monkeypatch.delenv("SYSTEM", raising=False)
    monkeypatch.delenv("REWIND_FOLDERS", raising=False)
    assert not evidence.is_shared()
    monkeypatch.setenv("REWIND_FOLDERS", "")
    assert evidence.is_shared()
    monkeypatch.delenv("REWIND_FOLDERS")
    monkeypatch.setenv("SYSTEM", "spaces")
    assert evidence.is_shared()


def test_names_and_sentences_cannot_bring_markup():
    case = Checked("m", "<b>M</b>", "<script>", 0.0, 1.0, 0.0)
    assert "<script>" not in evidence.cases_table([case])
    assert "<b>M" not in evidence.cases_table([case])


def test_a_method_is_announced_once_its_claim_is_measured(monkeypatch, tmp_path):
    entry = discover()["nfe_lab"]
    found = Catalog({"nfe_lab": entry, "other": entry})
    monkeypatch.setattr(catalog_module, "CLAIMS", tmp_path)
    assert list(announced(found)) == []
    (tmp_path / "other.json").write_text("{}")
    assert list(announced(found)) == ["other"]
