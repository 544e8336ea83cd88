"""Lessons: sheets that are whole, links that set a task up, and the sheet beside the panel."""

import json
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from engine.core.catalog import Entry, discover
from engine.core.recipe import Recipe
from engine.faithfulness import has_golden_cases
from pages import _recordings as recordings
from pages import workshop
from pages._lessons import Lesson, address, lesson_of, sheet
from pages.workshop import Offered

CATALOG = discover()
METHODS = [pytest.param(entry, id=entry.slug) for entry in CATALOG.values()]


@pytest.mark.parametrize("entry", METHODS)
def test_every_method_has_a_whole_lesson(entry: Entry):
    lesson = lesson_of(entry)
    assert lesson is not None, f"assets/worksheets/{entry.slug}.json is missing."
    assert len(lesson.tasks) >= 3
    assert 5 <= lesson.minutes <= 30
    assert all((lesson.goal, lesson.intro, lesson.look_for, lesson.take_home))
    assert set(lesson.needs) <= {one.name for one in CATALOG.values()}
    actions = {action.name for action in entry.card.actions}
    for task in lesson.tasks:
        assert task.action in actions
        assert all((task.do, task.predict, task.reveal, task.narrowed))


@pytest.mark.parametrize("entry", METHODS)
def test_a_task_is_a_link_that_holds_its_settings(entry: Entry):
    lesson = lesson_of(entry)
    for number, task in enumerate(lesson.tasks, start=1):
        query = urlsplit(address(entry, number)).query
        assert parse_qs(query)["lesson"] == [str(number)]
        recipe = Recipe.from_query(query, known=task.params)
        assert (recipe.method, recipe.action, recipe.seed) == (entry.slug, task.action, task.seed)
        assert dict(recipe.params) == json.loads(json.dumps(dict(task.params)))


def test_a_sheet_cannot_bring_markup():
    entry = CATALOG["nfe_lab"]
    text = sheet(entry, Lesson("<i>goal</i>", 5, "", [], "", "<script>"))
    assert "<script>" not in text
    assert "<i>" not in text


def test_the_course_leaves_out_what_is_not_here_and_counts_minutes():
    entry = CATALOG["nfe_lab"]
    text = workshop.course([Offered(entry, lesson_of(entry))])
    assert "1 stations" in text
    assert "0–15 min" in text
    assert "15–" not in text


def test_every_station_whose_panel_is_recorded_shows_it():
    recorded = 0
    for entry in CATALOG.values():
        lesson = lesson_of(entry)
        if not lesson.station:
            continue
        kept = recordings.find(entry.slug, entry.card.actions[0].name)
        text = workshop.course([Offered(entry, lesson)])
        assert ('class="living station"' in text) == (kept is not None)
        if kept is not None and kept.film:
            assert f"assets/recordings/{entry.slug}.png" in text
            recorded += 1
    assert recorded


def test_golden_cases_are_told_from_methods_without_any():
    assert has_golden_cases(CATALOG["rece"])


@pytest.mark.browser
def test_a_lesson_stands_beside_the_panel_and_keeps_answers(new_visitor):
    page: Page = new_visitor(width=1440).page
    page.goto(f"/{address(CATALOG['nfe_lab'], 1)}")
    worksheet = page.locator(".worksheet:visible")
    expect(page.locator("body.in-lesson")).to_be_attached(timeout=60_000)
    expect(worksheet).to_be_visible()
    assert page.locator(".lesson-fold:visible").bounding_box()["x"] > 900
    expect(page.locator(".set-nfe").first).to_be_visible()
    expect(page.locator(".set-guidance_scale").first).to_be_hidden()
    task = worksheet.locator("[data-task]").first
    task.locator("summary").click()
    expect(task.locator("details p")).to_be_hidden()
    expect(task).to_contain_text("Write your prediction first.")
    task.locator("textarea").fill("the second order one")
    task.locator("summary").click()
    expect(task.locator("details p")).to_be_hidden()
    expect(task).to_contain_text("Run it first, then compare.")
    page.locator("#nfe_lab-run").click()
    expect(page.locator("#nfe_lab-run-status .status.done")).to_be_visible(timeout=120_000)
    expect(task).not_to_contain_text("Run it first")
    task.locator("summary").click()
    expect(task.locator("details p")).to_be_visible()
    page.goto(f"/{address(CATALOG['nfe_lab'], 1)}")
    expect(worksheet.locator("textarea").first).to_have_value(
        "the second order one", timeout=60_000
    )
    expect(page.locator(".set-guidance_scale").first).to_be_hidden()
    worksheet.locator("[data-widen]").click()
    expect(page.locator(".set-guidance_scale").first).to_be_visible()


@pytest.mark.browser
def test_the_sheet_of_a_lesson_is_seen_first_on_a_phone(new_visitor):
    page: Page = new_visitor(width=390, height=800).page
    page.goto(f"/{address(CATALOG['nfe_lab'], 1)}")
    expect(page.locator("body.in-lesson")).to_be_attached(timeout=60_000)
    expect(page.locator(".worksheet:visible")).to_be_visible()
    sheet = page.locator(".lesson-fold:visible").bounding_box()
    assert sheet["x"] < 60
    assert sheet["y"] < 800
    assert sheet["y"] < page.locator("#nfe_lab-run").bounding_box()["y"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
def test_saved_answers_name_task_date_and_link(new_visitor):
    page: Page = new_visitor(width=1440).page
    page.goto(f"/{address(CATALOG['nfe_lab'], 1)}")
    worksheet = page.locator(".worksheet:visible")
    worksheet.locator("textarea").first.fill("the second order one")
    with page.expect_download() as download:
        worksheet.locator("[data-export]").click()
    saved = download.value.path().read_text("utf-8")
    lesson = lesson_of(CATALOG["nfe_lab"])
    assert "worksheet: NFE lab" in saved
    assert datetime.now().astimezone().date().isoformat() in saved
    for number, task in enumerate(lesson.tasks, start=1):
        assert f"{number}. {task.do}" in saved
        assert task.predict in saved
        assert (
            f"http://127.0.0.1:{urlsplit(page.url).port}/{address(CATALOG['nfe_lab'], number)}"
            in saved
        )
    assert "the second order one" in saved
    assert saved.count("(no answer)") == len(lesson.tasks)


@pytest.mark.browser
def test_a_task_further_down_the_panel_is_brought_into_view(new_visitor):
    page: Page = new_visitor(width=1440).page
    page.goto(f"/{address(CATALOG['rece'], 3)}")
    expect(page.locator("#rece-comeback")).to_be_in_viewport(timeout=60_000)
    expect(page.locator(".suggestions").first).to_be_hidden()
