"""Under which names the server answers, and what is said beside a link."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.core.recipe import ModelRef, Recipe
from pages import _hosts, _serving, _status

VARIABLES = ("GRADIO_SERVER_NAME", "GRADIO_SHARE", "GRADIO_ROOT_PATH", "REWIND_HOSTS")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch):
    """`answer("evil.example", GRADIO_SHARE="1")`: the status for a Host header and a setting."""

    def status(host: str, **settings: str) -> int:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        trusted = _serving.MIDDLEWARE[0]
        middleware = Middleware(trusted.cls, **{**trusted.kwargs, "allowed_hosts": _hosts.hosts()})
        page = Route("/sample", lambda request: PlainTextResponse("the page"))
        client = TestClient(Starlette(routes=[page], middleware=[middleware]))
        return client.get("/sample", headers={"host": host}).status_code

    return status


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1"]
)
def test_a_server_on_loopback_answers_to_its_own_names(answer, host):
    assert answer(host) == 200
    assert answer(host, GRADIO_SERVER_NAME="localhost") == 200


@pytest.mark.parametrize(
    "host", ["evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7"]
)
def test_a_page_of_someone_else_whose_name_leads_here_is_refused(answer, host):
    assert answer(host) == 400
    assert answer(host, GRADIO_SERVER_NAME="127.0.0.1") == 400


def test_a_server_that_others_reach_answers_to_any_name(answer):
    assert answer("laptop.local:7860", GRADIO_SERVER_NAME="0.0.0.0") == 200
    assert answer("abc.gradio.live", GRADIO_SHARE="True") == 200


def test_names_of_a_proxy_can_be_added(answer):
    named = {"REWIND_HOSTS": "rewind.example, other.example"}
    assert answer("rewind.example", **named) == answer("other.example:80", **named) == 200
    assert answer("evil.example", **named) == 400
    assert answer("rooted.example", GRADIO_ROOT_PATH="https://rooted.example/rewind") == 200


# ---------------------------------------------------------------------- links


def told(model: ModelRef | None) -> str:
    recipe = Recipe("rece", params={"concept": "cat"}, model=model)
    return _status.finished(recipe, 1.0, "rece-run", "erase")


def test_beside_a_link_stands_what_it_lets_others_use():
    upload = ModelRef(f"upload:{'a' * 64}")
    edits = ("b" * 64,)
    assert "can use the edits that it names" in told(ModelRef("world", None, edits))
    assert "can use the upload that it names" in told(upload)
    both = told(ModelRef(upload.source, None, edits))
    assert "can use the upload and the edits that it names" in both
    assert both.index("Copy link") < both.index("Whoever has the link")


@pytest.mark.parametrize("model", [None, ModelRef("world"), ModelRef("owner/name", "a" * 40)])
def test_beside_a_link_to_what_everyone_has_stands_nothing(model):
    assert "Whoever" not in told(model)
