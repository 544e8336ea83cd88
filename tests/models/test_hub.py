"""A Hub that answers, and one that fails: downloads outside the turn, refs, and what is said."""

import shutil

import pytest
from huggingface_hub import constants, file_download

from engine import runners
from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Done, Failed, Job, Progress, finish
from engine.models import _hub, _sources, library
from engine.models.adapter_sources import find
from engine.models.library import ModelRef, load
from tests.hub import COMMIT, FakeHub
from tests.loras import peft_folder

TOY = "tests.toy_method.algorithm"


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """owner/model, a tiny Stable Diffusion, at a Hub on this machine."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny["sd1"], folder)
    served = FakeHub(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        served.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(_hub, "SECONDS_TO_ANSWER", 1)
    monkeypatch.setattr(_hub, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    yield served
    served.close()


def fetch(revision=None):
    return _sources.fetch("owner/model", revision, lambda: "float32", False)


def forget_answers():
    _hub._LATELY.clear()


@pytest.mark.slow
def test_a_model_of_the_hub_arrives_whole_and_loads(hub):
    assert load(ModelRef("owner/model")).ref == ModelRef("owner/model", COMMIT)


@pytest.mark.slow
def test_a_model_that_was_asked_for_a_moment_ago_costs_no_request(hub):
    load(ModelRef("owner/model"))
    before = hub.requests
    load(ModelRef("owner/model"))
    library.resolve(ModelRef("owner/model"))
    assert hub.requests == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "429", "silent"])
def test_a_cached_model_that_is_not_pinned_loads_while_the_hub_is_down(hub, fault):
    finish(fetch())
    forget_answers()
    hub.fault = fault
    assert load(ModelRef("owner/model")).ref.revision == COMMIT


@pytest.mark.slow
def test_a_cached_model_loads_once_the_hub_is_gone_or_switched_off(hub, monkeypatch):
    finish(fetch())
    forget_answers()
    hub.close()
    assert load(ModelRef("owner/model")).ref.revision == COMMIT
    forget_answers()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert finish(fetch()).name == COMMIT


@pytest.mark.slow
def test_a_branch_is_found_again_by_its_name(hub):
    finish(fetch("fp16"))
    forget_answers()
    hub.fault = "500"
    assert finish(fetch("fp16")).name == COMMIT
    with pytest.raises(AssetMissing):
        finish(fetch("other"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "fault of its own at the moment .500."),
        ("429", "asks this machine to wait"),
        ("silent", "did not answer in time"),
        ("cut", "the connection was cut while it came in"),
        ("no revision", "owner/model has no revision v9"),
    ],
)
def test_each_fault_of_the_hub_has_its_own_sentence(hub, fault, said):
    large = hub.folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert large.stat().st_size > 2 * 64 * 1024
    hub.fault = fault
    with pytest.raises(AssetMissing, match=said) as caught:
        finish(fetch("v9"))
    assert caught.value.advice
    assert hub.url not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_said_so(hub):
    hub.close()
    with pytest.raises(AssetMissing, match="the Hub cannot be reached"):
        finish(fetch())


@pytest.mark.parametrize("revision", ["../../../../x", "a/../b", "/etc/x", ".", "-x"])
def test_a_revision_names_no_file_outside_the_cache(hub, revision):
    with pytest.raises(BadInput, match="cannot be a revision"):
        finish(fetch(revision))
    assert hub.requests == 0


def test_a_download_shows_its_bytes_and_stops_when_it_is_closed(hub):
    hub.gate.clear()
    steps = runners.local(Job(f"{TOY}:run", {"model": ModelRef("owner/model")}))
    seen = [next(steps)]
    while not seen[-1].done:
        seen.append(next(steps))
    assert seen[0].note == "Asking the Hub for owner/model"
    assert seen[-1].note == "kB of owner/model downloaded"
    assert 0 < seen[-1].done < seen[-1].total
    assert isinstance(list(runners.local(Job(f"{TOY}:run")))[-1], Done)  # others compute meanwhile
    (download,) = _hub._RUNNING.values()
    steps.close()
    hub.gate.set()
    assert download.finished.wait(10)
    assert download.folder is None
    assert not _hub._RUNNING


@pytest.mark.slow
def test_a_job_begins_when_its_model_is_here(hub):
    job = Job("tests.models.test_hub:looks", {"model": ModelRef("owner/model")})
    *shown, last = runners.local(job)
    assert isinstance(last, Done)
    assert last.result == COMMIT
    assert any("owner/model" in event.note for event in shown)


def looks(*, seed: int, model: ModelRef):
    """A job that finds its model without a request, as its turn must not wait for a network."""
    assert _hub._here(_hub.Wanted(model.source, None, lambda _: [], lambda _: True)) is not None
    yield Progress(1, 1)
    return library.resolve(model).revision


def test_a_model_that_cannot_be_had_ends_the_job_with_a_sentence(hub):
    hub.fault = "500"
    *_, last = runners.local(Job(f"{TOY}:run", {"model": ModelRef("owner/model")}))
    assert isinstance(last, Failed)
    assert "fault of its own" in last.message
    assert not last.error_id


@pytest.mark.slow
def test_two_visitors_share_a_download_and_one_may_leave(hub):
    hub.gate.clear()
    first, second = fetch(), fetch()
    next(first), next(second)
    assert len(_hub._RUNNING) == 1
    first.close()
    hub.gate.set()
    assert finish(second).name == COMMIT


def test_adapters_are_fetched_before_the_job_too(hub, tmp_path, monkeypatch):
    shutil.rmtree(hub.folder)
    peft_folder(hub.folder)
    params = {"adapters": ["world-styles/gold", "owner/model", "/nowhere minus owner/model rank 4"]}
    *_, last = runners.local(Job("tests.models.test_hub:has_adapter", params))
    assert isinstance(last, Done)
    before = hub.requests
    assert (find("owner/model") / "adapter_config.json").is_file()
    assert hub.requests == before


def has_adapter(*, seed: int, adapters: list[str]):
    yield Progress(1, 1)
    return [str(find(source)) for source in adapters[:2]]
