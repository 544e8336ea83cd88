"""Tiny checkpoints, written once a session, and a cache that starts empty."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.models import _hub, library
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Path]:
    """A folder for each layout: sd1, sd2, sdxl."""
    root = tmp_path_factory.mktemp("tiny")
    layouts = ("sd1", "sd2", "sdxl")
    return {name: tiny_checkpoint(root / name, name, seed=i) for i, name in enumerate(layouts)}


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch) -> Iterator[None]:
    """Uploads and patches of a test go to its own folder, and nothing is known from before."""
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_hub, "_LATELY", {})
    library.CACHE.clear()
    yield
    library.CACHE.clear()
