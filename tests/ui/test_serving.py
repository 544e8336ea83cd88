"""What the server does for each visitor: little when a page opens, and little for a session."""

import asyncio
import copy
import json
import time
import tracemalloc
import urllib.request
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from html import unescape

import gradio as gr
import pytest
from gradio.state_holder import StateHolder
from gradio_client import Client
from gradio_client.utils import is_file_obj_with_url

import app
from benchmarks.harness import Server, opened
from engine.core import budgets
from engine.core.catalog import announced
from engine.core.recipe import ModelRef, Recipe
from engine.runners import local
from pages._serving import Described, described
from tests.ui.browser import PATIENT


def config(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return json.load(reply)


def asked_on_opening(described: dict) -> list[dict]:
    """The events that ask the server for something as a page opens."""
    return [
        event
        for event in described["dependencies"]
        if event["backend_fn"] and any(kind == "load" for _, kind in event["targets"])
    ]


@pytest.mark.slow
def test_a_page_without_a_recipe_asks_for_nothing_as_it_opens(toy: str):
    assert asked_on_opening(config(f"{toy}config")) == []
    assert asked_on_opening(config(f"{toy}config?method=other&word=pond")) == []


@pytest.mark.slow
@pytest.mark.parametrize("query", ["method=ripple", "method=ripple&word=pond&seed=3"])
def test_a_link_is_restored_without_a_place_in_the_queue(toy: str, query: str):
    (event,) = asked_on_opening(config(f"{toy}config?{query}"))
    assert not event["queue"]


@pytest.mark.slow
def test_pages_open_while_the_queue_is_full(toy: str):
    minute = Recipe("ripple", params={"word": "slow", "steps": 200}, model=ModelRef("world"))
    client = Client(toy, max_workers=60, verbose=False, httpx_kwargs=PATIENT)
    runs = [
        client.submit(minute.json(), api_name="/ripple_run")
        for _ in range(budgets.WAITING_RUNS + 4)
    ]
    first = wait(runs, timeout=60, return_when=FIRST_COMPLETED).done.pop()
    assert "The queue is full" in str(first.exception())
    link = f"/sample?{minute.query()}"
    with ThreadPoolExecutor(10) as pool:
        asked = list(pool.map(lambda visitor: opened(toy, link, f"visitor{visitor}"), range(50)))
    assert asked == [1] * 50
    for run in runs:
        run.cancel()
    quick = replace(minute, params={"word": "pond", "steps": 1})
    begun = time.monotonic()
    client.predict(quick.json(), api_name="/ripple_run")  # those that waited have left
    assert time.monotonic() - begun < 45


def head(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return unescape(reply.read(6000).decode())


@pytest.mark.parametrize(
    ("address", "title", "sentence"),
    [
        ("", "Rewind: machine learning, run backwards", "Real algorithms on a real small model"),
        ("sample", "Un-noise · Rewind", "Run the noising of data backwards."),
        ("sample?method=ripple", "Ripple · Rewind", "the spreading of a wave"),
        ("sample?method=none", "Un-noise · Rewind", "Run the noising of data backwards."),
        ("workshop", "Workshop · Rewind", "Experiments for a class"),
        ("evidence", "Evidence · Rewind", "What is behind the panels"),
    ],
)
def test_every_page_has_a_title_and_a_description_of_its_own(toy, address, title, sentence):
    page = head(f"{toy}{address}")
    assert f"<title>{title}</title>" in page
    assert f'<meta name="description" content="{sentence}' in page
    assert page.count('property="og:title"') == page.count('name="twitter:title"') == 1
    assert f'property="og:title" content="{title}"' in page
    assert "Click to try out" not in page
    assert "githubusercontent" not in page


# ---------------------------------------------------------------------- sessions


@pytest.fixture(scope="module")
def demo() -> gr.Blocks:
    """The whole app, not served; in a thread, as a browser may have left a loop running here."""

    async def built() -> gr.Blocks:
        return app.build(announced(), local)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(built())).result()


@pytest.mark.slow
def test_a_fresh_session_takes_little_memory_and_time(demo: gr.Blocks):
    sessions, holder = 20, StateHolder()
    demo.state_session_capacity = budgets.KEPT_SESSIONS
    holder.set_blocks(demo)
    tracemalloc.start()
    begun = time.process_time()
    for number in range(sessions):
        holder[f"visitor{number}"]
    seconds = (time.process_time() - begun) / sessions
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / sessions < 1e6
    assert seconds < 0.1


@pytest.mark.slow
def test_what_a_page_is_described_with_is_copied_whole_and_apart():
    part = described({"id": 3, "props": {"choices": [("A", "a")], "value": None}})
    assert isinstance(part, Described)
    first, second = copy.deepcopy([part]), copy.deepcopy([part])
    assert first == second == [{"id": 3, "props": {"choices": [["A", "a"]], "value": None}}]
    first[0]["props"]["value"] = "changed"
    assert second[0]["props"]["value"] is None
    assert part["props"]["value"] is None


def test_no_file_of_a_page_waits_for_an_address(server: Server):
    """So Gradio is told that all addresses are those of the page, and does not look for them."""

    def without_address(part: object) -> list[dict]:
        if isinstance(part, dict):
            found = [part] if is_file_obj_with_url(part) and "://" not in part["url"] else []
            return found + [one for value in part.values() for one in without_address(value)]
        return (
            [one for value in part for one in without_address(value)]
            if isinstance(part, list | tuple)
            else []
        )

    assert without_address(json.loads(server.get("/config"))) == []


def test_what_is_no_json_is_copied_as_it_was():
    part = {"id": 3, "props": {"value": object}}
    assert described(part) is part


def test_nearly_all_of_a_page_is_copied_quickly(demo: gr.Blocks):
    config = demo.config
    parts = [*config["components"], *config["dependencies"], *config["page"].values()]
    assert sum(isinstance(part, Described) for part in parts) > 0.9 * len(parts)


def test_names_of_all_tabs_are_seen_on_a_narrow_page(demo: gr.Blocks):
    tabs = [block for block in demo.blocks.values() if isinstance(block, gr.Tabs)]
    assert len(tabs) >= 6
    assert {one.overflow_behavior for one in tabs} == {"wrap"}


def test_no_more_sessions_are_kept_than_the_budget_says(demo: gr.Blocks):
    holder = StateHolder()
    demo.state_session_capacity = app.LAUNCH["state_session_capacity"]
    holder.set_blocks(demo)
    for number in range(budgets.KEPT_SESSIONS + 5):
        holder[f"visitor{number}"]
    assert len(holder.session_data) == budgets.KEPT_SESSIONS


def test_a_session_keeps_no_value_that_was_sent_or_shown(demo: gr.Blocks):
    holder = StateHolder()
    demo.state_session_capacity = 1
    holder.set_blocks(demo)
    session = holder["visitor"]
    box = next(key for key, block in demo.blocks.items() if isinstance(block, gr.Textbox))
    session[box] = gr.Textbox("x" * 100, render=False)
    session._update_value_in_config(box, "y" * 1_000_000)
    assert "yyyy" not in json.dumps(session.config_values, default=str)
    assert session[box].value == "x" * 100
    assert list(session.components) == []
