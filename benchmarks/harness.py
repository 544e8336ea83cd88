"""The real app in a process of its own, a real browser, and what one reads off them.

Shared by the browser tests (fixtures in tests/ui/browser.py) and by the bars (bars.py).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, Request, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
# The app has to keep quiet by itself: switches that a test run sets must not do it for the app.
SWITCHES = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
PATIENCE = 90_000  # milliseconds; a busy machine is slow, not broken
CHROMIUM_ARGS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def post(url: str, body: object) -> bytes:
    """Body of the answer to JSON; raises on an error status."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read()


def opened(url: str, address: str, visitor: str) -> int:
    """Opens a page as a browser does: the page, then what it asks for as it loads.

    `url` is the base of the server. Gives the number of those questions; raises where one is
    refused.
    """
    with urllib.request.urlopen(url + address.lstrip("/"), timeout=30) as reply:
        described = DESCRIBED.search(reply.read().decode())
    if described is None:
        raise LookupError(f"{address} describes no page.")
    events = [event for event in json.loads(described[1])["dependencies"] if asks(event)]
    for event in events:
        path = "queue/join" if event["queue"] else "run/predict"
        body = {"data": [], "fn_index": event["id"], "session_hash": visitor}
        post(f"{url}gradio_api/{path}", body)
    return len(events)


# Where a page holds its description.
DESCRIBED = re.compile(r"window\.gradio_config = (\{.*?\});?</script>", re.DOTALL)


def asks(event: Mapping[str, Any]) -> bool:
    """Whether an event asks the server for something as its page opens."""
    return event["backend_fn"] and any(kind == "load" for _, kind in event["targets"])


@dataclass(frozen=True)
class Server:
    """The running app. `served` is seconds from process start to the first whole page."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    served: float
    served_at: float

    def noted(self, event: Literal["import", "outside"], until: float | None = None) -> list[str]:
        """Heavy imports, or outside addresses, noted so far or up to the clock time `until`."""
        lines = (self.folder / "watch.jsonl").read_text().splitlines()
        notes = [json.loads(line) for line in lines]
        return [
            note["what"]
            for note in notes
            if note["event"] == event and (until is None or note["at"] <= until)
        ]

    def log(self) -> str:
        """What the process has printed so far."""
        return (self.folder / "server.log").read_text(errors="replace")

    def megabytes(self) -> float:
        """Resident memory of the server process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def temporary_megabytes(self) -> float:
        """Size of the files the app has put into its temporary folder."""
        files = (self.folder / "tmp").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20

    def get(self, path: str = "/") -> bytes:
        """Body of a GET request; raises on an error status."""
        with urllib.request.urlopen(self.url + path.lstrip("/"), timeout=30) as reply:
            return reply.read()

    def seconds(self) -> float:
        """Processor time of the server process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def transferred(self, path: str) -> int:
        """Bytes of the body of a GET request as a browser receives it, which takes gzip."""
        request = urllib.request.Request(
            self.url + path.lstrip("/"), headers={"Accept-Encoding": "gzip"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return len(reply.read())

    def routes(self) -> list[str]:
        """Paths of the pages, Home first."""
        config = json.loads(self.get("/config"))
        return ["/" + page[0] for page in config["pages"]]


@contextmanager
def serve(
    *, root: Path = ROOT, seconds: float = 180, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start the app.py of `root` on a free port and stop it at the end.

    Its temporary files, home and log lie in a folder of their own that goes away too. Raises
    RuntimeError with the log where no page is served within `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="rewind-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        port = free_port()
        env = {key: value for key, value in os.environ.items() if key not in SWITCHES}
        env |= {
            "GRADIO_SERVER_PORT": str(port),
            "REWIND_HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "GRADIO_TEMP_DIR": str(folder / "tmp" / "gradio"),
            **(environment or {}),
        }
        watch = Path(__file__).with_name("_watch.py")
        command = [sys.executable, str(watch), str(folder / "watch.jsonl"), "app.py"]
        (folder / "watch.jsonl").touch()
        with open(folder / "server.log", "wb") as log:
            start = time.monotonic()
            process = subprocess.Popen(
                command, cwd=root, env=env, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                url = f"http://127.0.0.1:{port}/"
                _wait_for_page(url, process, seconds, folder / "server.log")
                served = time.monotonic() - start
                yield Server(url, process, folder, served, time.time())
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait_for_page(url: str, process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                reply.read()
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)
    raise RuntimeError(f"The app served no page within {seconds:g} s:\n{log.read_text()}")


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_chromium() -> str | None:
    """Path of an installed Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, the one of the system."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), headless=True, args=list(CHROMIUM_ARGS)
        )
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page with what it asked of other hosts and which errors its scripts raised."""

    page: Page
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[Seen]:
    """A fresh visitor (own storage) with a page of this server open on nothing yet.

    `url` is the server's; every request beyond it is noted in `outside`.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        accept_downloads=True,
        permissions=["clipboard-read", "clipboard-write"],
        base_url=url,
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    seen = Seen(page)

    def note_request(request: Request) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            seen.outside.append(request.url)

    page.on("request", note_request)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    try:
        yield seen
    finally:
        context.close()


def axe_findings(page: Page) -> list[str]:
    """Serious and critical accessibility findings of axe-core on the page as it stands now."""
    source = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page.evaluate(source)
    report = page.evaluate("async () => (await axe.run(document)).violations")
    return [
        f"{finding['impact']} {finding['id']}: {finding['help']}: {node['target']} {node['html']}"
        for finding in report
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


def sideways_scroll(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate(
        "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
