"""Fixtures of the browser journeys: the real app, a real Chromium, visitors that are watched.

    def test_home_opens(visitor):
        visitor.page.goto("/")
        ...                      # at the end: no outside request and no script error, or it fails

Tests that need another window use `new_visitor(width=390, scheme="dark")`. Every test that uses
one of these fixtures is to be marked `browser`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.harness import ROOT, Seen, Server, chromium, find_chromium, serve, visit
from engine.core.catalog import announced

NewVisitor = Callable[..., Seen]
PATIENT = {"timeout": 120}
"""For clients: without it an answer that a busy machine gives after five seconds is a failure."""


def need_panel(slug: str) -> None:
    """Skips where the app does not show a panel yet, as its claim is not measured."""
    if slug not in announced():
        pytest.skip(f"the claim of {slug} is not measured yet")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The app in a process of its own; at the end it has asked nothing of the outside."""
    with serve() as running:
        yield running
        assert running.noted("outside") == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the session; visitors have separate storage."""
    if find_chromium() is None:
        pytest.skip("no chromium is installed")
    with chromium() as running:
        yield running


@pytest.fixture
def new_visitor(server: Server, browser: Browser) -> Iterator[NewVisitor]:
    """Make visitors of this server; options of `visit`: width, height, scheme."""
    visitors: list[Seen] = []
    with ExitStack() as stack:

        def make(**options: object) -> Seen:
            visitors.append(stack.enter_context(visit(browser, server.url, **options)))
            return visitors[-1]

        yield make
        assert [url for seen in visitors for url in seen.outside] == []
        assert [error for seen in visitors for error in seen.errors] == []


@pytest.fixture
def visitor(new_visitor: NewVisitor) -> Seen:
    """One visitor with a wide, light window."""
    return new_visitor()


@pytest.fixture
def page(visitor: Seen) -> Page:
    """The page of one visitor."""
    return visitor.page


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Callable[[Page, str], Path]:
    """Save a full-page screenshot under build/screenshots/TEST-NAME.png and give its path."""

    def save(page: Page, name: str) -> Path:
        test = re.sub(r"\W+", "_", request.node.name)
        path = ROOT / "build" / "screenshots" / f"{test}-{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path, full_page=True)
        return path

    return save
