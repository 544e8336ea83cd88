"""Bars as a visitor sees them: a real Chromium on the real app."""

import base64
import hashlib
import io
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from PIL import Image
from playwright.sync_api import Browser, Page

from benchmarks.bars import Bar
from benchmarks.harness import Server, axe_findings, chromium, serve, sideways_scroll, visit
from benchmarks.served import call, client_of
from engine.core.catalog import Entry, announced
from engine.core.recipe import Recipe
from pages._lessons import address

LONGEST_RUN = 300_000  # milliseconds to the end of a run, on a machine busy with other work
LONGEST_CLASS = 900_000  # the same, for the last of a class that shares one machine
LOOK = 2000  # milliseconds between a result and the next click
SHORTEST_STOPPED = 2.5  # seconds of a run that a hand can still stop

# Click, then look at every frame of the browser: the first word from the server in the status line,
# the finished pictures (they come with a scrubber; curves may still grow), and the end.
WATCH_RUN = """async ([button, line]) => {
    const begin = performance.now();
    document.querySelector(button).click();
    const panel = document.querySelector(button).closest('[role=tabpanel]') ?? document;
    const before = document.querySelector(`${line} .status`).innerText;
    let first = null, left = false, cleared = false, pictures = null, steps = 1;
    return await new Promise((resolve) => {
        const look = () => {
            const status = document.querySelector(`${line} .status`);
            if (!status) return requestAnimationFrame(look);  // between two states of the line
            const now = (performance.now() - begin) / 1000;
            const told = status.matches('.running') && !status.hasAttribute('data-waiting');
            if (first === null && told) first = now;
            steps = Math.max(steps, Number(status.innerText.match(/\\d+ of (\\d+)/)?.[1] ?? 1));
            if (status.matches('.running') || status.innerText !== before) left = true;
            const whole = panel.querySelector('[data-scrub], [data-whole]') !== null;
            if (told && !whole) cleared = true;
            if (cleared && whole && pictures === null) pictures = now;
            const over = status.matches('.done, .failed') && left;  // short runs end between frames
            const refused = status.matches('.failed') && now > 0.3;
            if (over || refused)
                return resolve({first: first ?? now, pictures: pictures ?? now, end: now, steps,
                                failed: status.matches('.failed'), said: status.innerText});
            requestAnimationFrame(look);
        };
        look();
    });
}"""

# Milliseconds from the start of the navigation to the first frame that shows the button, and to the
# first with the recording: its number stands beside the button, and no place for a figure is empty.
WATCH_SIGHT = """(button) => {
    const look = () => {
        const found = document.querySelector(button), bench = found?.closest(".bench");
        if (found?.offsetParent) window.sightedAt ??= performance.now();
        const isDrawn = bench?.querySelector(".go > .number")?.innerText.trim()
            && [...bench.querySelectorAll(":scope > .shown .empty")]
                .every((one) => !one.offsetParent);
        if (isDrawn) window.drawnAt = performance.now();
        else requestAnimationFrame(look);
    };
    look();
}"""


# By the clock that both visitors share: when Stop is pressed, and when a waiting run has begun.
NOTE_STOP = """(button) => document.querySelector(button).addEventListener(
    "click", () => { window.stoppedAt = Date.now(); }, { once: true })"""
NOTE_START = """(line) => {
    const look = () => {
        if (document.querySelector(`${line} .status:is(.running:not([data-waiting]), .done)`))
            window.startedAt = Date.now();
        else requestAnimationFrame(look);
    };
    look();
}"""


@dataclass(frozen=True)
class Seen:
    """One run as the page showed it: seconds from the click to its first word, the finished
    pictures and the end, and the steps that its progress line told of."""

    first: float
    pictures: float
    end: float
    steps: int
    failed: bool
    said: str


@dataclass(frozen=True)
class Panel:
    """Where a panel's main action is found in the page."""

    entry: Entry

    @property
    def route(self) -> str:
        return f"{self.entry.card.family.route}?method={self.entry.name}"

    @property
    def title(self) -> str:
        return self.entry.card.title

    @property
    def action(self) -> str:
        return self.entry.card.actions[0].name

    @property
    def button(self) -> str:
        return f"#{self.entry.slug}-{self.action}"

    @property
    def line(self) -> str:
        return f"{self.button}-status"

    def open(self, page: Page, address: str | None = None) -> None:
        """Go to the panel, or to a link of it, and wait until it can be run."""
        page.goto(address or self.route, wait_until="domcontentloaded")
        page.locator(self.button).wait_for(state="visible")
        page.locator(self.line).wait_for(state="attached")

    def run(self, page: Page) -> Seen:
        """Click, and wait for the end."""
        return Seen(**page.evaluate(WATCH_RUN, [self.button, self.line]))


def panels() -> list[Panel]:
    """All panels of the catalogue."""
    return [Panel(entry) for entry in announced().values()]


def first_sight() -> Iterator[Bar]:
    """Seconds from typing the address to the frame with a Run button, and to the one with the
    recorded result, medians of five visitors.

    The page's own clock tells; the server has done its imports, each visitor has an empty cache.
    """
    with serve() as server, chromium() as browser:
        with visit(browser, server.url) as seen:
            panels()[0].open(seen.page)
            panels()[0].run(seen.page)
        for panel in panels():
            sights = [_sighted(browser, server, panel) for _ in range(5)]
            button, drawn = ([sight[which] for sight in sights] for which in (0, 1))
            for what, seconds, limit in (
                ("Run button visible, median of 5", button, 1.5),
                ("recorded result drawn, median of 5", drawn, 2),
            ):
                median = statistics.median(seconds)
                yield Bar.at_most(what, median, limit, "s", panel=panel.title, all=seconds)


def _sighted(browser: Browser, server: Server, panel: Panel) -> tuple[float, float]:
    """Seconds until a new visitor sees the button of a panel, and what was recorded of it."""
    with visit(browser, server.url) as seen:
        seen.page.add_init_script(f"({WATCH_SIGHT})({json.dumps(panel.button)})")
        panel.open(seen.page)
        seen.page.wait_for_function("window.drawnAt")
        return tuple(seen.page.evaluate("[window.sightedAt / 1000, window.drawnAt / 1000]"))


def clicks() -> Iterator[Bar]:
    """Clicks from Home to a result, for each panel: its name there, and Run."""
    with serve() as server, chromium() as browser:
        for panel in panels():
            with visit(browser, server.url) as seen:
                seen.page.goto("/")
                seen.page.get_by_role("link", name=panel.title, exact=True).first.click()
                seen.page.locator(panel.button).click()
                done = seen.page.locator(f"{panel.line} .status.done")
                done.wait_for(timeout=LONGEST_RUN)
            what = "clicks from Home to a result at the defaults"
            yield Bar.at_most(what, 2, 2, "", panel=panel.title)


def looks() -> Iterator[Bar]:
    """Accessibility, narrow screens, outside requests and script errors of every page."""
    findings, wide, outside, errors = [], [], [], []
    with serve() as server, chromium() as browser:
        for route in server.routes():
            for scheme in ("light", "dark"):
                with visit(browser, server.url, scheme=scheme) as seen:
                    _settle(seen.page, route)
                    findings += [f"{route} {scheme}: {f}" for f in axe_findings(seen.page)]
                    outside += seen.outside
                    errors += seen.errors
            with visit(browser, server.url, width=390, height=844) as seen:
                _settle(seen.page, route)
                if excess := sideways_scroll(seen.page):
                    wide.append(f"{route}: {excess} px")
        for panel in panels():
            with visit(browser, server.url, width=390, height=844) as seen:
                panel.open(seen.page)
                panel.run(seen.page)
                if excess := sideways_scroll(seen.page):
                    wide.append(f"{panel.entry.name} after a run: {excess} px")
                findings += [
                    f"{panel.entry.name} after a run: {f}" for f in axe_findings(seen.page)
                ]
                outside += seen.outside
                errors += seen.errors
        yield Bar.none("axe-core findings, serious or critical", findings)
        yield Bar.none("pages that scroll sideways at 390 px", wide)
        yield Bar.none("outside requests of the pages", outside)
        yield Bar.none("script errors of the pages", errors)
        yield Bar.none("panels that the keyboard alone cannot run", _unreachable(server, browser))
        yield Bar.none("outside requests of the server", server.noted("outside"))


def _settle(page: Page, route: str) -> None:
    page.goto(route, wait_until="load")
    page.locator("h1, h2").first.wait_for(state="visible")
    page.wait_for_timeout(500)  # figures and living pictures draw themselves after the first paint


def _unreachable(server: Server, browser: Browser) -> list[str]:
    """Panels whose Run button Tab does not reach, or where Enter on it brings no result."""
    found = []
    for panel in panels():
        with visit(browser, server.url) as seen:
            panel.open(seen.page)
            button = seen.page.locator(panel.button)
            for _ in range(150):
                seen.page.keyboard.press("Tab")
                if button.evaluate("element => element === document.activeElement"):
                    break
            else:
                found.append(f"{panel.entry.name}: Tab does not reach Run")
                continue
            seen.page.keyboard.press("Enter")
            done = seen.page.locator(f"{panel.line} .status.done")
            try:
                done.wait_for(state="visible", timeout=LONGEST_RUN)
            except Exception:
                found.append(f"{panel.entry.name}: Enter brings no result")
    return found


def run() -> Iterator[Bar]:
    """Click to first progress and to the first result, cold and warm, at the defaults."""
    with chromium() as browser:
        for panel in panels():
            with serve() as server, visit(browser, server.url) as seen:
                panel.open(seen.page)
                cold = panel.run(seen.page)
                warm = []
                for _ in range(3):
                    seen.page.wait_for_timeout(LOOK)
                    warm.append(panel.run(seen.page))
            if failed := [one.said for one in (cold, *warm) if one.failed]:
                yield Bar.none("runs that failed", failed, panel=panel.title)
                continue
            first = max(one.first for one in (cold, *warm))
            median = statistics.median(one.pictures for one in warm)
            ends = {"to the end of the curves": [one.end for one in (cold, *warm)]}
            name = panel.title
            yield Bar.at_most("click to first progress, worst of 4", first, 0.5, "s", panel=name)
            yield Bar.at_most("first result, cold", cold.pictures, 12, "s", panel=name, **ends)
            yield Bar.at_most("result, warm, median of 3", median, 3, "s", panel=name, **ends)


def stop() -> Iterator[Bar]:
    """One visitor stops a run that another waits for: seconds until the other's run starts.

    Runs that are over before a hand finds the button are left out.
    """
    with serve() as server, chromium() as browser:
        for panel in panels():
            with visit(browser, server.url) as first, visit(browser, server.url) as second:
                panel.open(first.page)
                panel.open(second.page)
                panel.run(first.page)
                first.page.wait_for_timeout(LOOK)
                warm = panel.run(first.page)
                if warm.end < SHORTEST_STOPPED:
                    continue
                first.page.wait_for_timeout(LOOK)
                seconds = _stop_and_start(panel, first.page, second.page)
            if seconds < 0:  # the run was over first
                continue
            step = warm.end / warm.steps
            what = "stop to the next visitor's start (one step + 0.3 s)"
            limit = round(step + 0.3, 2)
            yield Bar.at_most(what, seconds, limit, "s", panel=panel.title, step=step)


def _stop_and_start(panel: Panel, running: Page, waiting: Page) -> float:
    running.locator(panel.button).click()
    running.locator(f"{panel.line} .status.running:not([data-waiting])").wait_for()
    waiting.locator(panel.button).click()
    waiting.locator(f"{panel.line} [data-waiting]").wait_for()
    waiting.evaluate(NOTE_START, panel.line)
    running.evaluate(NOTE_STOP, f"{panel.button}-stop")
    running.locator(f"{panel.button}-stop").click()
    waiting.wait_for_function("window.startedAt", timeout=LONGEST_RUN)
    seconds = (waiting.evaluate("window.startedAt") - running.evaluate("window.stoppedAt")) / 1000
    waiting.locator(f"{panel.line} .status.done").wait_for(timeout=LONGEST_RUN)
    return seconds


def links() -> Iterator[Bar]:
    """A run's link, opened by another visitor of another server process, gives equal pixels.

    Where a panel draws curves alone, their points are compared.
    """
    unequal, pictures = [], {}
    with serve() as first, serve() as second, chromium() as browser:
        for panel in panels():
            with visit(browser, first.url) as seen:
                panel.open(seen.page)
                panel.run(seen.page)
                wanted = _shown(seen.page, panel)
                link = seen.page.locator(f"{panel.line} a[data-link]").evaluate("a => a.href")
            with visit(browser, second.url) as seen:
                panel.open(seen.page, f"/{link.removeprefix(first.url)}")
                seen.page.locator(panel.line, has_text="Restored").wait_for()
                panel.run(seen.page)
                found = _shown(seen.page, panel)
            pictures[panel.entry.name] = len(wanted)
            if not wanted or found != wanted:
                unequal.append(panel.entry.name)
    yield Bar.none("panels whose link gives other pixels", unequal, compared=pictures)


def classroom(count: int = 20) -> Iterator[Bar]:
    """A class: that many browsers open the first lesson, and all of them press Run at once.

    Server and browsers share the machine here; in a room the browsers have their own. So the wait
    is measured once more with visitors who draw nothing.
    """
    panel = next(one for one in panels() if one.entry.slug == "nfe_lab")
    lesson = f"/{address(panel.entry, 1)}"
    done = f"{panel.line} .status:is(.done, .failed)"
    with serve() as server, chromium() as browser, ExitStack() as stack:
        room = [stack.enter_context(visit(browser, server.url)) for _ in range(count)]
        begin = time.perf_counter()
        for seen in room:
            seen.page.goto(lesson, wait_until="domcontentloaded")
        for seen in room:
            seen.page.locator("body.in-lesson").wait_for(state="attached")
            seen.page.locator(panel.line, has_text="Restored").wait_for()
        opened = time.perf_counter() - begin
        begin = time.perf_counter()
        for seen in room:
            seen.page.locator(panel.button).click()
        for seen in room:
            seen.page.locator(done).wait_for(timeout=LONGEST_CLASS)
        seen_by_all = time.perf_counter() - begin
        failed = [
            seen.page.locator(done).inner_text()
            for seen in room
            if not seen.page.locator(f"{panel.line} .status.done").count()
        ]
        hashes = {tuple(_pixels(seen.page)) for seen in room}
        memory = server.megabytes()
    class_ = f"a class of {count} browsers"
    yield Bar.at_most(f"{class_}: all have the lesson before them", opened, 60, "s")
    yield Bar.none(f"{class_}: runs that failed or were refused", failed)
    yield Bar.at_most(f"{class_}: kinds of pixels seen", len(hashes), 1, "")
    recipe = Recipe.from_query(lesson.partition("?")[2].partition("&lesson")[0])
    assert recipe is not None
    yield Bar.at_most(
        f"{class_}: the last result of one Run each (drawn by browsers here: {seen_by_all:.0f} s)",
        _room(recipe, count),
        120,
        "s",
        memory=memory,
    )


def _room(recipe: Recipe, count: int) -> float:
    """Seconds until the last of so many clients that ask at once has the result."""
    with serve() as server:
        clients = [client_of(server) for _ in range(count)]
        call(clients[0], recipe)  # imports and the model are no part of this
        begin = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda client: call(client, recipe), clients))
        return time.perf_counter() - begin


# Pictures a panel shows just now, and the points of its curves.
SHOWN = """(button) => {
    const panel = document.querySelector(button).closest('[role=tabpanel]') ?? document;
    const seen = (place) => [...panel.querySelectorAll(place)].filter((e) => e.offsetParent);
    return [seen("img[src^='data:image']").map((image) => image.src),
            seen(".js-plotly-plot").map((plot) => plot.data.map((line) => [line.x, line.y]))];
}"""


def _shown(page: Page, panel: Panel) -> list[str]:
    """Hashes of the pixels of every picture of the panel; without pictures, of its curves."""
    page.wait_for_timeout(LOOK)
    images, curves = page.evaluate(SHOWN, panel.button)
    if not images:
        return [hashlib.sha256(json.dumps(one).encode()).hexdigest() for one in curves]
    return [_hash(source) for source in images]


def _hash(source: str) -> str:
    """Of the pixels of a picture inside an address, whatever is written beside them."""
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def _pixels(page: Page) -> list[str]:
    """Hashes of the pictures offered for saving, pixels only."""
    hrefs = page.locator("a[download$='.png']").evaluate_all("links => links.map(a => a.href)")
    return [_hash(href) for href in hrefs]
