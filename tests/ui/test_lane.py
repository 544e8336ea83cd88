"""Jobs in the queue of a server: who downloads lets others pass, who waits is told for how long."""

import time
from collections.abc import Iterator

import gradio as gr
import pytest
from gradio_client import Client
from huggingface_hub import constants

from engine import runners
from engine.core.job import Done, Job, Progress
from engine.core.lane import Lane
from engine.core.recipe import ModelRef
from engine.models import _hub
from pages._lane import LANE, queued
from pages._serving import Suite
from tests.hub import FakeHub
from tests.loras import peft_folder

# Gradio uses an option of pandas that the next version drops.
pytestmark = pytest.mark.filterwarnings("ignore:.*no_silent_downcasting")


def run(*, seed: int, adapters: tuple[str, ...] = ()):
    """A job that computes for a moment."""
    yield Progress(1, 1)
    return "computed"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[FakeHub]:
    """An adapter at a Hub on this machine whose download stands still."""
    served = FakeHub(peft_folder(tmp_path / "repository"))
    with (served.folder / "adapter_model.safetensors").open("ab") as weights:
        weights.write(bytes(200_000))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(_hub, "_LATELY", {})
    served.gate.clear()
    yield served
    served.close()


@pytest.fixture
def app(hub) -> Iterator[tuple[Lane, Client]]:
    """Two endpoints in the queue: one needs the Hub, one does not."""
    lane = Lane()
    with Suite() as demo:
        served = queued(runners.local, lane)

        def events(job: Job) -> Iterator[str]:
            for event in served(job):
                yield event.result if isinstance(event, Done) else getattr(event, "note", "failed")

        def far() -> Iterator[str]:
            yield from events(Job(f"{__name__}:run", {"adapters": ("owner/model",)}))

        def near() -> Iterator[str]:
            yield from events(Job(f"{__name__}:run"))

        for function in (far, near):
            gr.api(function, api_name=function.__name__, **LANE)
    demo.whole = True
    demo.queue()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    yield lane, Client(url, verbose=False)
    demo.close()


@pytest.mark.slow
def test_while_one_waits_for_the_hub_another_computes(app, hub):
    lane, client = app
    waiting = client.submit(api_name="/far")
    assert client.predict(api_name="/near") == "computed"
    while not any("kB of owner/model downloaded" in told for told in waiting.outputs()):
        time.sleep(0.01)
    assert not waiting.done()
    hub.gate.set()
    assert waiting.result(timeout=30) == "computed"
    assert (lane._running, lane._waiting) == ([], [])


@pytest.mark.slow
def test_a_download_that_is_stopped_leaves_the_queue_as_it_was(app, hub):
    lane, client = app
    waiting = client.submit(api_name="/far")
    while not _hub._RUNNING:
        time.sleep(0.01)
    (download,) = _hub._RUNNING.values()
    waiting.cancel()
    hub.gate.set()
    assert download.finished.wait(20)
    assert client.predict(api_name="/near") == "computed"
    assert (lane._running, lane._waiting) == ([], [])


def test_a_job_that_needs_nothing_is_in_the_lane_while_it_computes():
    lane, seen = Lane(), []

    def counted(job: Job):
        seen.append(len(lane._running))
        yield Done("computed")

    list(queued(counted, lane)(Job(f"{__name__}:run", {"model": ModelRef("world")})))
    assert (seen, lane._running) == ([1], [])
