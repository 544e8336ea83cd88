"""A control that runs when it is turned: when its value has changed, and only then."""

from collections.abc import Mapping

import pytest
from playwright.sync_api import Page, expect

from pages._frame import Frame

RUN, STATUS = "#principles-run", "#principles-run-status"


@pytest.fixture
def joins(page: Page) -> list[str]:
    """The events that the open panel sends, with Run in reach of its controls."""
    page.goto("/sample?method=principles")
    page.locator(RUN).wait_for()
    page.wait_for_timeout(3000)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/join" in request.url else None)
    return sent


def finished(page: Page) -> None:
    page.locator(f"{STATUS} .running").wait_for()
    page.locator(f"{STATUS} .done").wait_for(timeout=60_000)


@pytest.mark.browser
def test_passing_the_controls_with_tab_starts_nothing(page: Page, joins: list[str]):
    nfe = page.locator("input[aria-label='number input for NFE']:visible").first
    nfe.focus()
    for _ in range(6):  # number, reset, slider, spacing, and out
        page.keyboard.press("Tab")
        page.wait_for_timeout(150)
    nfe.click()
    nfe.press("Tab")
    page.wait_for_timeout(1000)
    assert joins == []
    expect(page.locator(f"{STATUS} .status.running")).to_have_count(0)


@pytest.mark.browser
def test_a_changed_value_runs_once(page: Page, joins: list[str]):
    nfe = page.locator("input[aria-label='number input for NFE']:visible").first
    nfe.fill("12")
    nfe.press("Tab")
    finished(page)
    assert "nfe=12" in page.url
    assert len(joins) == 1

    page.locator("input[aria-label='range slider for NFE']:visible").first.focus()
    page.keyboard.press("ArrowRight")
    finished(page)
    assert "nfe=13" in page.url
    page.keyboard.press("Tab")
    page.wait_for_timeout(1000)
    assert len(joins) == 2


@pytest.mark.browser
def test_another_choice_of_a_list_runs_and_the_same_one_does_not(page: Page, joins: list[str]):
    spacing = page.get_by_label("Spacing of the steps").locator("visible=true").first
    chosen = spacing.input_value()
    spacing.click()
    page.get_by_role("option", name=chosen, exact=True).click()
    page.wait_for_timeout(1000)
    assert joins == []
    spacing.click()
    page.get_by_role("option").last.click()
    finished(page)
    assert len(joins) == 1


def test_no_panel_takes_a_release_or_an_input_of_a_list_for_a_change(frames: Mapping[str, Frame]):
    """Gradio sends both whenever a field is left; such controls are `turned`."""
    known = {control for frame in frames.values() for control in map(id, frame.restoring.slots())}
    for frame in frames.values():
        for dependency in frame.demo.fns.values():
            for target, event in dependency.targets:
                block = frame.demo.blocks.get(target)
                if id(block) in known and type(block).__name__ in ("Slider", "Dropdown"):
                    assert event not in ("release", "input", "blur"), (
                        frame.entry.slug,
                        block.label,
                    )
