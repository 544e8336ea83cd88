"""The fixtures of the browser journeys, and a small app with a toy method for the frame."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from gradio_client import Client

from benchmarks.harness import ROOT, Server, free_port
from engine.core.catalog import discover
from pages._frame import Frame
from scripts import record
from tests.ui.browser import PATIENT, browser, new_visitor, page, server, shot, visitor

__all__ = ["browser", "new_visitor", "page", "server", "shot", "toy", "visitor"]


@pytest.fixture(scope="session")
def frames() -> Mapping[str, Frame]:
    """The panels of all methods, as the server draws them once their claims are measured."""
    return record.frames(discover())


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    """A client of the app, as programs are."""
    return Client(server.url, verbose=False, httpx_kwargs=PATIENT)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an app of its own process whose only method is the toy one."""
    folder: Path = tmp_path_factory.mktemp("toy")
    url = f"http://127.0.0.1:{(port := free_port())}/"
    env = os.environ | {"REWIND_HOME": str(folder), "GRADIO_TEMP_DIR": str(folder / "gradio")}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ui.toy", str(port)],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(url, process, folder / "server.log")
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                reply.read()
                return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    pytest.fail(f"The toy app served no page:\n{log.read_text()}")
