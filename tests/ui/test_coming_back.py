"""Links, reloads and fields that are only passed: a run starts when it should, and is found again.

On the app with the toy method, in a real browser.
"""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from benchmarks.harness import visit
from tests.ui.test_journeys import RUN, STATUS, open_panel, run, set_steps

pytestmark = pytest.mark.browser

LINK = "?method=ripple&word=sea&steps=5&seed=123"


@pytest.fixture
def page_of_toy(toy: str, browser: Browser) -> Iterator[Page]:
    """A visitor of the app with the toy method, on no page yet."""
    with visit(browser, toy) as seen:
        seen.page.set_default_timeout(20_000)
        expect.set_options(timeout=20_000)
        yield seen.page
        assert (seen.outside, seen.errors) == ([], [])


class SlowLine:
    """Keeps what a page asks of the queue and beside it, until it is let through."""

    def __init__(self, page: Page) -> None:
        self.kept: list[Route] = []
        self.is_open = False
        for asked in ("**/queue/join*", "**/run/predict*"):  # restoring takes no place in the queue
            page.route(asked, self.take)

    def take(self, route: Route) -> None:
        if self.is_open:
            route.continue_()
        else:
            self.kept.append(route)

    def open(self) -> None:
        self.is_open = True
        for route in self.kept:
            route.continue_()


@pytest.mark.parametrize("more", ["", "&lesson=1"], ids=["link", "lesson"])
def test_a_run_waits_until_the_panel_is_restored(page_of_toy: Page, more: str):
    page = page_of_toy
    line = SlowLine(page)
    page.goto(f"/sample{LINK}{more}")
    page.locator(RUN).click()
    page.get_by_label("Word").press("Enter")  # further triggers wait, too
    expect(page.locator(STATUS)).to_contain_text("Waiting for the link")
    line.open()
    page.locator(f"{STATUS} .done").wait_for()
    expect(page.locator(STATUS)).to_contain_text("seed 123")
    expect(page.locator(".shot h3").first).to_contain_text("sea")
    assert "word=sea" in page.url


def test_stop_takes_back_a_run_that_waits_for_its_link(page_of_toy: Page):
    page = page_of_toy
    line = SlowLine(page)
    page.goto(f"/sample{LINK}")
    page.locator(RUN).click()
    expect(page.locator(STATUS)).to_contain_text("Waiting for the link")
    page.locator(f"{RUN}-stop").click()
    line.open()
    expect(page.locator(STATUS)).to_contain_text("Restored from the link")
    page.wait_for_timeout(1000)
    expect(page.locator(f"{STATUS} :is(.running, .done)")).to_have_count(0)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?method=ripple", ""),
        ("?method=ripple&versions=numpy:0.1", ""),
        (
            "?method=ripple&steps=1000",
            "Nothing in the link could be set here. Left as it was: steps.",
        ),
        ("?method=ripple&seed=x", "Left as it was: seed."),
        ("?method=ripple&steps=5&edits=0a1b2c3d", "Left as it was: edits."),
    ],
)
def test_restored_is_said_only_where_something_was_set(page_of_toy: Page, query: str, said: str):
    page = page_of_toy
    open_panel(page, query)
    page.wait_for_timeout(1500)
    assert said in page.locator(STATUS).inner_text()
    assert ("Restored" in page.locator(STATUS).inner_text()) == ("steps=5" in query)
    expect(page.get_by_label("Seed")).to_have_value("7")


@pytest.mark.parametrize(
    ("typed", "taken", "said"),
    [("-1", "0", "-1"), ("1.5", "2", "1.5"), ("99999999999", "2147483647", "99999999999"),
     ("", "7", "never empty")],
)  # fmt: skip
def test_a_seed_that_is_none_is_settled_in_its_field_and_said(
    page_of_toy: Page, typed: str, taken: str, said: str
):
    page = page_of_toy
    open_panel(page)
    page.get_by_label("Seed").fill(typed)
    page.locator(RUN).click()
    expect(page.get_by_label("Seed")).to_have_value(taken)
    expect(page.locator(".settled")).to_contain_text(said)
    expect(page.locator(".settled")).to_contain_text(f"Taken: {taken}.")
    page.locator(f"{STATUS} .done").wait_for()
    expect(page.locator(STATUS)).to_contain_text(f"seed {taken}")
    page.get_by_label("Seed").fill("12")
    page.get_by_label("Seed").press("Tab")
    expect(page.locator(".settled")).to_have_count(0)


def begin_long_run(page: Page, steps: int) -> None:
    page.get_by_label("Word").fill("tide")
    page.get_by_label("Seed").fill("31")
    set_steps(page, steps)
    page.locator(RUN).click()
    page.locator(f"{STATUS} .running", has_text=f"of {steps}").wait_for()


def test_a_reload_in_the_middle_of_a_run_finds_it_again(page_of_toy: Page, toy: str, browser):
    page = page_of_toy
    open_panel(page)
    begin_long_run(page, 200)
    page.reload()
    page.locator(f"{STATUS} .running", has_text=re.compile(r"\d+ of 200")).wait_for()
    expect(page.get_by_label("Word")).to_have_value("tide")
    expect(page.get_by_label("number input for Steps")).to_have_value("200")
    with visit(browser, toy) as other:  # another visitor's page finds nothing of it
        open_panel(other.page, "?method=ripple")
        other.page.wait_for_timeout(1500)
        assert other.page.locator(STATUS).inner_text().strip() == ""
    page.locator(f"{STATUS} .done").wait_for()
    expect(page.locator(STATUS)).to_contain_text("seed 31")
    expect(page.locator(".shot").first).to_contain_text("200 states")
    assert "word=tide" in page.url


def test_a_run_that_waits_tells_its_place_and_is_found_again_after_a_reload(
    page_of_toy: Page, toy: str, browser
):
    page = page_of_toy
    with visit(browser, toy) as other:  # computes for a minute
        open_panel(other.page)
        other.page.get_by_label("Word").fill("slow")
        set_steps(other.page, 200)
        other.page.locator(RUN).click()
        other.page.locator(f"{STATUS} .running", has_text="of 200").wait_for()
        open_panel(page)
        page.get_by_label("Word").fill("tide")
        page.get_by_label("Seed").fill("31")
        set_steps(page, 40)
        page.locator(RUN).click()
        expect(page.locator(STATUS)).to_contain_text("1st in the queue")
        page.reload()
        expect(page.locator(STATUS)).to_contain_text("1st in the queue")
        expect(page.get_by_label("Word")).to_have_value("tide")
        other.page.locator(f"{RUN}-stop").click()
        expect(other.page.locator(STATUS)).to_contain_text("Stopped")
    page.locator(f"{STATUS} .done").wait_for()
    expect(page.locator(STATUS)).to_contain_text("seed 31")
    expect(page.locator(".shot").first).to_contain_text("40 states")


def test_stop_gives_up_the_place_in_the_queue(page_of_toy: Page, toy: str, browser):
    page = page_of_toy
    with visit(browser, toy) as other:
        open_panel(other.page)
        other.page.get_by_label("Word").fill("slow")
        set_steps(other.page, 200)
        other.page.locator(RUN).click()
        other.page.locator(f"{STATUS} .running", has_text="of 200").wait_for()
        open_panel(page)
        page.locator(RUN).click()
        expect(page.locator(STATUS)).to_contain_text("in the queue")
        page.locator(f"{RUN}-stop").click()
        expect(page.locator(STATUS)).to_contain_text("Stopped")
        other.page.locator(f"{RUN}-stop").click()
        expect(other.page.locator(STATUS)).to_contain_text("Stopped")
    page.wait_for_timeout(1500)
    expect(page.locator(f"{STATUS} :is(.running, .done)")).to_have_count(0)


def test_a_link_that_ends_in_run_begins_once_it_is_restored(page_of_toy: Page):
    page = page_of_toy
    page.goto(f"/sample{LINK}#run")
    page.locator(f"{STATUS} .done").wait_for()
    expect(page.locator(STATUS)).to_contain_text("seed 123")
    expect(page.locator(".shot").first).to_be_in_viewport()
    assert "#run" not in page.url
    page.reload()  # it began once
    expect(page.locator(STATUS)).to_contain_text("Restored from the link")


def test_a_run_that_ended_meanwhile_is_found_with_its_result(page_of_toy: Page):
    page = page_of_toy
    open_panel(page)
    begin_long_run(page, 60)
    at = page.url
    page.goto("about:blank")
    page.wait_for_timeout(4000)
    page.goto(at)
    page.locator(f"{STATUS} .done").wait_for()
    expect(page.locator(".shot").first).to_contain_text("60 states")
    expect(page.get_by_label("Seed")).to_have_value("31")
    page.reload()  # seen once, it is the link's again
    expect(page.locator(STATUS)).to_contain_text("Restored from the link")


def test_stop_after_a_reload_ends_the_run(page_of_toy: Page):
    page = page_of_toy
    open_panel(page)
    begin_long_run(page, 200)
    page.reload()
    page.locator(f"{STATUS} .running", has_text="of 200").wait_for()
    page.locator(f"{RUN}-stop").click()
    expect(page.locator(STATUS)).to_contain_text("Stopped")
    page.reload()
    page.wait_for_timeout(1500)
    expect(page.locator(f"{STATUS} .running")).to_have_count(0)
    set_steps(page, 3)
    run(page)


def test_another_link_is_opened_and_not_the_run_that_was_left(page_of_toy: Page):
    page = page_of_toy
    open_panel(page)
    begin_long_run(page, 200)
    page.goto(f"/sample{LINK}")
    expect(page.locator(STATUS)).to_contain_text("Restored from the link")
    page.wait_for_timeout(1000)
    expect(page.locator(f"{STATUS} .running")).to_have_count(0)
    expect(page.get_by_label("Word")).to_have_value("sea")
