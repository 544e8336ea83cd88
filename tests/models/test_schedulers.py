"""Schedules and tokenizers of strangers: one clear sentence, before anything is allocated."""

import json
import shutil
from pathlib import Path

import pytest

from engine.core.errors import BadInput, EngineError
from engine.models import _layout
from engine.models._schedulers import read_scheduler
from engine.models.library import ModelRef, load


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A copy of the tiny checkpoint that may be spoilt."""
    return Path(shutil.copytree(tiny["sd1"], tmp_path / "mine"))


def spoil(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_the_schedule_of_a_sound_checkpoint_is_read(folder):
    assert read_scheduler(folder)["num_train_timesteps"] == 1000


@pytest.mark.parametrize("steps", [0, 1, -5, 1e10, 10**10, 2.5, "1000", None, True, [1000]])
def test_a_number_of_steps_that_is_no_schedule_is_refused(folder, steps):
    spoil(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=steps)
    with pytest.raises(BadInput, match="training steps"):
        load(ModelRef(str(folder)))


@pytest.mark.parametrize(
    "entries",
    [
        {"beta_start": "a"},
        {"beta_end": 2},
        {"beta_end": None},
        {"sigma_max": []},
        {"trained_betas": "abc"},
        {"trained_betas": [0.1]},
        {"trained_betas": [[0.1]] * 1000},
    ],
)
def test_betas_that_are_none_are_refused(folder, entries):
    spoil(folder / "scheduler" / "scheduler_config.json", **entries)
    with pytest.raises(BadInput, match="scheduler_config"):
        load(ModelRef(str(folder)))


def test_an_empty_tokenizer_config_takes_the_defaults_or_is_refused_by_a_sentence(folder):
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(EngineError, match="tokens and prompts of 77; its text encoder knows"):
        load(ModelRef(str(folder)))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer_config.json", ""),
        ("tokenizer_config.json", '{"bos_token": {}}'),
        ("tokenizer_config.json", '{"model_max_length": 0}'),
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": -5}'),
        ("vocab.json", '{"a": 99999999999999999999}'),
        ("vocab.json", '{"a": 999999}'),
        ("tokenizer.json", '{"model": [1]}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": [1]}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": [[[1], [2]]]}}'),
    ],
)
def test_a_tokenizer_that_is_none_is_refused_by_a_sentence(folder, file, text):
    if file == "tokenizer.json":
        (folder / "tokenizer" / "vocab.json").unlink()
    if file == "vocab.json":
        (folder / "tokenizer" / "merges.txt").write_text("")
    (folder / "tokenizer" / file).write_text(text)
    with pytest.raises(BadInput):
        _layout.tokenizer(folder / "tokenizer")
