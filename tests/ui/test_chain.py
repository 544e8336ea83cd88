"""Erase, merge, sample, and take each edit off again: one visitor, one shelf, three panels."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

QUICK = "nfe-lab&action=run&prompt=a+penguin&nfe=3&curve=%5B%5D&solvers=%5B%22ddim%22%5D&seed=4"


def ended(page: Page, action: str) -> None:
    """Waits for the end of a run; a run that failed fails the test with what it said."""
    status = page.locator(f"#{action}-status .status:is(.done, .failed)")
    expect(status).to_be_visible(timeout=120_000)
    expect(status).to_have_class(re.compile("done"))


def pick(page: Page, panel: str, title: str) -> None:
    """Chooses a model in a panel; the name of one on the shelf is the front of its title."""
    page.locator(f"#{panel}-model input").click()
    page.get_by_role("option", name=title).first.click()


def sampled(page: Page, model: str = "") -> np.ndarray:
    """The picture that the NFE lab draws with a model of the shelf, or with the shipped one."""
    page.goto(f"/sample?method={QUICK}")
    expect(page.locator("#nfe_lab-run-status")).to_contain_text("Restored", timeout=60_000)
    if model:
        pick(page, "nfe_lab", model)
    page.locator("#nfe_lab-run").click()
    ended(page, "nfe_lab-run")
    picture = page.locator("[role=tabpanel]:visible img.pixel").first.get_attribute("src")
    data = base64.b64decode(picture.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def open_shelf(page: Page) -> None:
    page.locator("#shelf button.label-wrap").click()
    expect(page.locator("#shelf ol").first).to_be_visible(timeout=60_000)


def prints(page: Page) -> dict[str, tuple[str, str]]:
    """Fingerprints before and after of every edit on the open shelf, by name."""
    rows = page.locator("#shelf ol li").all()
    return {row.locator("b").inner_text(): tuple(row.locator("code").all_inner_texts())
            for row in rows}  # fmt: skip


def undo(page: Page, edit: str) -> None:
    page.locator("#shelf").get_by_label("Edit").click()
    page.get_by_role("option", name=edit).click()
    page.locator("#shelf").get_by_role("button", name="Undo this edit").click()


def test_what_is_erased_and_merged_comes_off_in_turn(page: Page):
    base = sampled(page)

    page.goto("/erase?method=rece")
    page.get_by_role("tab", name="Take it along").click()
    page.locator("#rece-bake").click()
    ended(page, "rece-bake")
    open_shelf(page)
    expect(page.locator(".shelf-chip")).to_contain_text("erase neon style · 1 edit")
    erased = sampled(page, "erase neon style")

    page.goto("/merge")
    expect(page.locator("#reversible_merging-run")).to_be_visible(timeout=60_000)
    pick(page, "reversible_merging", "erase neon style")
    page.get_by_role("tab", name="Take it along").click()
    page.locator("#reversible_merging-bake").click()
    ended(page, "reversible_merging-bake")
    open_shelf(page)
    expect(page.locator("#shelf ol li")).to_have_count(3)  # the erased one, and the merge on it
    stacked = prints(page)
    (merge,) = [name for name in stacked if name != "erase neon style"]
    merged = sampled(page, merge)
    assert not np.array_equal(merged, erased)

    # The merge lies on layers of the erasure: they come off in turn, and the hashes say so.
    open_shelf(page)
    undo(page, f"{merge} › erase neon style")
    expect(page.get_by_text(re.compile("later|first", re.IGNORECASE)).first).to_be_visible()
    assert prints(page) == stacked
    undo(page, f"{merge} › {merge}")
    expect(page.locator("#shelf .said")).to_contain_text(f"Undone: {merge}", timeout=60_000)
    assert tuple(page.locator("#shelf .said code").all_inner_texts()) == stacked[merge][::-1]
    assert np.array_equal(sampled(page, "erase neon style"), erased)

    open_shelf(page)
    undo(page, "› erase neon style")
    expect(page.locator("#shelf .said")).to_contain_text("Undone", timeout=60_000)
    assert page.locator("#shelf .said code").last.inner_text() == stacked["erase neon style"][0]
    assert np.array_equal(sampled(page), base)


def test_the_chip_in_the_bar_shows_the_shelf_takes_an_edit_off_and_leads_to_the_whole(page: Page):
    page.goto("/erase?method=rece")
    expect(page.locator(".shelf-chip")).to_contain_text("empty")
    page.get_by_role("tab", name="Take it along").click()
    page.locator("#rece-bake").click()
    ended(page, "rece-bake")
    expect(page.locator(".shelf-chip")).to_contain_text("1 edit", timeout=60_000)
    for address in ("/", "/workshop", "/evidence", "/sample"):
        page.goto(address)
        chip = page.locator(".shelf-chip")
        expect(chip).to_contain_text("erase neon style · 1 edit", timeout=60_000)
    page.goto("/workshop")
    page.locator(".shelf-chip a").click()  # a page without a shelf leads to one that has one
    expect(page.locator("#shelf ol li")).to_have_count(1, timeout=60_000)
    expect(page.locator("#shelf")).to_be_in_viewport()
    page.goto("/")
    page.locator(".shelf-chip").get_by_role("button", name="Undo").click()
    expect(page.locator(".shelf-chip")).to_contain_text("empty", timeout=60_000)
    page.goto("/erase?method=rece")
    expect(page.locator(".shelf-chip")).to_contain_text("empty", timeout=60_000)


def test_the_first_stop_of_the_tab_key_skips_the_bar(page: Page):
    page.goto("/workshop")
    page.locator(".skip").wait_for(state="attached", timeout=60_000)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_be_focused()
    assert page.url.endswith("/workshop")
