"""Files for visitors: where they lie, for how long, and what a full disk leaves of them."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch

from engine.core.patch import Patch
from engine.core.recipe import ModelRef, Recipe
from engine.core.store import PatchStore
from engine.verifying.revthink import augment
from pages import _files, _revthink_teacher, _revthink_training, _shelf, _taking, erasure_lab


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's cache, of this test alone."""
    folder = tmp_path / "gradio"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@dataclass(frozen=True)
class Nothing:
    """A comparison without pictures."""

    concept: str = "cat"
    anchor: str = "thing"
    kept_words: tuple[str, ...] = ()
    gate: float = 0.5
    scores: list = field(default_factory=list)
    points: list = field(default_factory=list)
    seen: list = field(default_factory=list)


def adapter(size: int) -> SimpleNamespace:
    files = (("adapter_config.json", b"{}"), ("adapter_model.safetensors", bytes(size)))
    config, weights = (
        SimpleNamespace(name=name, pieces=lambda data=data: iter([data])) for name, data in files
    )
    return SimpleNamespace(adapter=weights, adapter_config=config)


WRITERS = {
    "one file": lambda: _taking.written({"a.safetensors": bytes(5000)}, "all.zip"),
    "a zip": lambda: _taking.written({"a": bytes(5000), "b": bytes(9)}, "all.zip"),
    "the adapter of a student": lambda: _revthink_training._files(adapter(5000)),
    "a table": lambda: erasure_lab.written(Nothing("c" * 5000), Recipe("erasure_lab")),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_no_file(writer, served, full_disk):
    with full_disk(1000), pytest.raises(gr.Error) as refused:
        WRITERS[writer]()
    assert "could not be written: File too large. Free some disk space" in str(refused.value)
    assert not list(served.iterdir())


@pytest.mark.parametrize("writer", WRITERS)
def test_a_cache_that_cannot_be_written_is_one_sentence(writer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "file" / "gradio"))
    with pytest.raises(gr.Error, match="could not be written: Not a directory") as refused:
        WRITERS[writer]()
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_with_room_the_files_are_whole(writer, served):
    WRITERS[writer]()
    assert all(path.stat().st_size for path in served.rglob("*") if path.is_file())


def test_a_patch_file_is_saved_whole_or_not_at_all(served, tmp_path, monkeypatch, full_disk):
    store = PatchStore(tmp_path / "store")
    monkeypatch.setattr(_shelf, "default_store", lambda: store)
    old = {"w": torch.zeros(2000)}
    recipe = Recipe("rece", model=ModelRef("world"), label="erase cat")
    digest = store.put(Patch.between(old, {"w": old["w"] + 1}, recipe))
    kept = _shelf.imported(_shelf.EMPTY, store.path(digest))
    (model,) = _shelf.read(kept)
    edit = f"{_shelf.key_of(model.ref)}|{digest}"
    with full_disk(1000), pytest.raises(gr.Error, match="could not be written"):
        _shelf.Shelf()._save(kept, edit)
    assert not list(served.iterdir())
    assert "erase-cat.safetensors" in _shelf.Shelf()._save(kept, edit)


def test_what_was_written_an_hour_ago_makes_room(served):
    old, new = _files.written({"a.txt": b"1"})[0], _files.written({"b.txt": b"2"})[0]
    of_gradio = served / "0a1b" / "c.txt"
    of_gradio.parent.mkdir()
    of_gradio.write_bytes(b"3")
    for path in (old.parent, of_gradio.parent):
        os.utime(path, (time.time() - 4000,) * 2)
    _files.written({"d.txt": b"4"})
    assert not old.exists()
    assert new.exists()
    assert of_gradio.exists()


# ---------------------------------------------------------------------- files of visitors


@pytest.mark.parametrize("text", ["[" * 200_000 + "]" * 200_000, '{"a": ' * 50_000])
def test_deeply_nested_json_lines_end_in_a_sentence(text, tmp_path, monkeypatch):
    path = tmp_path / "deep.jsonl"
    path.write_text(text)
    opened = _revthink_teacher.read_upload(str(path))
    with pytest.raises(augment.BadInput, match="Line 1 of questions is not JSON"):
        augment.read_items(opened)


def test_a_large_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "large.jsonl"
    path.write_bytes(b" " * 2_000_000)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(gr.Error, match=r"larger than 0\.9 MB"):
        _revthink_teacher.read_upload(str(path))
