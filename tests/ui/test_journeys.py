"""What visitors do, in a real browser, on the app with the toy method."""

import gzip
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.harness import axe_findings, sideways_scroll, visit

pytestmark = pytest.mark.browser

RUN, STATUS = "#ripple-run", "#ripple-run-status"


@pytest.fixture
def at(toy: str, browser: Browser) -> Iterator[Page]:
    """A visitor whose panel is open; at the end nothing was asked of other hosts."""
    with visit(browser, toy) as seen:
        open_panel(seen.page)
        yield seen.page
        assert seen.outside == []
        assert seen.errors == []


def open_panel(page: Page, query: str = "") -> None:
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    page.goto(f"/sample{query}")
    page.locator(RUN).wait_for()


def run(page: Page) -> None:
    page.locator(RUN).click()
    page.locator(f"{STATUS} .status.done").wait_for()


def picture(page: Page) -> str | None:
    return page.locator(".shot img").first.get_attribute("src")


def set_steps(page: Page, steps: int) -> None:
    page.get_by_label("number input for Steps").fill(str(steps))
    page.get_by_label("number input for Steps").press("Tab")


def test_run_shows_progress_then_the_picture_and_its_link(at: Page):
    at.locator(RUN).click()
    at.locator(f"{STATUS} .running", has_text=re.compile(r"\d+ of 8")).wait_for()
    at.locator(f"{STATUS} .done").wait_for()
    expect(at.locator(STATUS)).to_contain_text("seed 7")
    assert "method=ripple" in at.url


def test_stop_ends_a_long_run_and_says_so(at: Page):
    set_steps(at, 200)
    at.locator(RUN).click()
    at.locator(f"{STATUS} .running", has_text="of 200").wait_for()
    at.locator(f"{RUN}-stop").click()
    expect(at.locator(STATUS)).to_contain_text("Stopped")
    set_steps(at, 3)
    run(at)


def test_reload_restores_the_last_run_and_gives_equal_pixels(at: Page):
    at.get_by_label("Word").fill("a & <b>sea</b>")
    set_steps(at, 5)
    at.get_by_label("Seed").fill("123")
    run(at)
    before = picture(at)
    at.reload()
    expect(at.locator(STATUS)).to_contain_text("Restored from the link")
    expect(at.get_by_label("Word")).to_have_value("a & <b>sea</b>")
    expect(at.get_by_label("Seed")).to_have_value("123")
    expect(at.get_by_label("number input for Steps")).to_have_value("5")
    run(at)
    assert picture(at) == before


def test_link_with_bad_and_unknown_values_still_opens(at: Page):
    open_panel(at, "?method=ripple&word=sea&steps=1000000&seed=x&colour=red&model=world")
    expect(at.locator(STATUS)).to_contain_text("Left as it was: steps")
    expect(at.get_by_label("Word")).to_have_value("sea")
    expect(at.get_by_label("number input for Steps")).to_have_value("8")


def test_another_version_is_announced(at: Page):
    open_panel(at, "?method=ripple&word=sea&versions=numpy:0.1")
    expect(at.locator(STATUS)).to_contain_text("numpy 0.1")


def test_saved_picture_restores_the_panel(at: Page, tmp_path: Path):
    at.get_by_label("Seed").fill("99")
    run(at)
    with at.expect_download() as waiting:
        at.get_by_role("link", name="Save PNG").click()
    waiting.value.save_as(tmp_path / "ripple.png")
    open_panel(at)
    expect(at.get_by_label("Seed")).to_have_value("7")
    at.get_by_role("button", name="Recipe: link").click()
    with at.expect_file_chooser() as choosing:
        at.get_by_role("button", name="Open a recipe").click()
    choosing.value.set_files(tmp_path / "ripple.png")
    expect(at.locator(STATUS)).to_contain_text("Restored from the file")
    expect(at.get_by_label("Seed")).to_have_value("99")


def test_copy_link_puts_the_whole_address_on_the_clipboard(at: Page):
    run(at)
    at.get_by_role("button", name="Copy link").click()
    at.get_by_role("button", name="Copied").wait_for()
    copied = at.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("http")
    assert "/sample?method=ripple" in copied


def test_failure_shows_advice_and_frees_the_panel(at: Page):
    at.get_by_label("Word").fill("late")
    at.locator(RUN).click()
    failed = at.locator(f"{STATUS} .failed")
    expect(failed).to_contain_text('The word "late" is <b>never</b> in time.')
    expect(failed).to_contain_text("Try pond.")
    at.get_by_label("Word").fill("pond")
    run(at)


def test_a_fault_of_ours_shows_its_number_only(at: Page):
    at.get_by_label("Word").fill("bug")
    at.locator(RUN).click()
    failed = at.locator(f"{STATUS} .failed")
    expect(failed).to_contain_text("Error id")
    expect(failed).not_to_contain_text("secret")


def test_two_visitors_keep_their_own_pictures(at: Page, toy: str, browser: Browser):
    with visit(browser, toy) as other:
        open_panel(other.page)
        other.page.get_by_label("Seed").fill("1234")
        at.locator(RUN).click()
        other.page.locator(RUN).click()
        at.locator(f"{STATUS} .done").wait_for()
        other.page.locator(f"{STATUS} .done").wait_for()
        expect(at.locator(STATUS)).to_contain_text("seed 7")
        expect(other.page.locator(STATUS)).to_contain_text("seed 1234")
        assert picture(at) != picture(other.page)


def test_keyboard_alone_runs_scrubs_and_opens_a_fold(at: Page):
    at.get_by_label("Word").focus()
    at.keyboard.press("Enter")
    at.locator(f"{STATUS} .done").wait_for()
    scrubber = at.get_by_label("Position in the film")
    scrubber.focus()
    at.keyboard.press("Home")
    expect(at.locator("[data-scrubbing] .film").first).to_be_visible()
    at.keyboard.press("End")
    expect(at.locator(".film").first).to_be_hidden()
    at.get_by_role("button", name="How it works").focus()
    at.keyboard.press("Enter")
    expect(at.get_by_text("Ripples that spread from one point")).to_be_visible()
    at.locator(RUN).focus()
    assert at.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_scrolls_sideways_and_axe_is_content(
    toy: str, browser: Browser, width: int, scheme: str
):
    with visit(browser, toy, width=width, scheme=scheme) as seen:
        open_panel(seen.page)
        run(seen.page)
        for fold in ("How it works", "The code that ran", "Recipe: link", "Your shelf"):
            seen.page.get_by_role("button", name=fold).click()
        seen.page.get_by_text("Command line", exact=True).wait_for()
        assert sideways_scroll(seen.page) <= 0
        assert axe_findings(seen.page) == []
        seen.page.goto("/")
        seen.page.locator(".hero h1").wait_for()
        assert sideways_scroll(seen.page) <= 0
        assert axe_findings(seen.page) == []


def test_pages_come_compressed_and_files_with_their_length(toy: str):
    """Browsers that seek in a sound need to know how long a file is."""
    for path, encoding in (
        ("sample", "gzip"),
        ("gradio_api/file=assets/living/sampling-1.png", None),
    ):
        request = urllib.request.Request(toy + path, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            body = reply.read()
        assert reply.headers["Content-Encoding"] == encoding
        assert encoding or int(reply.headers["Content-Length"]) == len(body)
        assert b"gradio_config" in gzip.decompress(body) if encoding else body
