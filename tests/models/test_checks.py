"""Hostile and damaged weight files are refused by content, in a sentence, before allocation."""

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from engine.core.errors import AssetMissing, BadInput, EngineError, OutOfBudget
from engine.models._checks import (
    Limits,
    check_folder,
    read_header,
    read_json,
    weight_files,
    what_is,
)


def written(path: Path, header: object, body: bytes = b"") -> Path:
    """A file with this header, as JSON unless it is bytes already."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_sound_file_is_read(file):
    save_file({"a": torch.ones(2, 3), "b": torch.ones(0), "c": torch.ones(())}, file)
    header = read_header(file)
    assert {name: info.shape for name, info in header.items()} == {"a": (2, 3), "b": (0,), "c": ()}


@pytest.mark.parametrize(
    "length",
    [640, 896, 1152, 1408, 0x8B1F, 0x10280],
    ids=["pickle 2", "pickle 3", "pickle 4", "pickle 5", "gzip", "pickle 2, longer"],
)
def test_a_header_whose_length_reads_as_another_format_is_read(file, length):
    """The first bytes of the file are the length, and 0x0280 is also how a pickle begins."""
    save_file({"a": torch.ones(2)}, file)
    whole = file.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    written(file, whole[8:end].ljust(length), whole[end:])
    assert what_is(file.read_bytes())
    assert read_header(file)["a"].shape == (2,)
    with safe_open(file, "pt") as opened:
        assert opened.get_tensor("a").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x80\x04\x95rest", "pickle"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_other_formats_are_told_by_their_content(file, content, named):
    file.write_bytes(content)
    with pytest.raises(BadInput, match=named):
        read_header(file)


def test_a_torch_checkpoint_under_another_name_is_refused(file):
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(BadInput, match="zip archive") as caught:
        read_header(file)
    assert "safe_serialization" in caught.value.advice


TERABYTE = 10**12

HOSTILE = {
    "claims a terabyte": {"a": entry(shape=(TERABYTE // 4,), offsets=(0, TERABYTE))},
    "shape and offsets disagree": {"a": entry(shape=(3,))},
    "product of shape overflows": {"a": entry(shape=(2**40, 2**40))},
    "overlap": {"a": entry(), "b": entry(offsets=(4, 12))},
    "gap": {"a": entry(), "b": entry(offsets=(12, 20))},
    "late start": {"a": entry(offsets=(4, 12))},
    "negative": {"a": entry(offsets=(-8, 0))},
    "negative size": {"a": entry(shape=(-2,))},
    "fraction": {"a": entry(shape=(2.0,))},
    "true is no size": {"a": entry(shape=(True, 2))},
    "three offsets": {"a": entry(offsets=(0, 4, 8))},
    "unknown format": {"a": entry(dtype="F7")},
    "format is a list": {"a": entry() | {"dtype": ["F32"]}},
    "missing field": {"a": {"dtype": "F32", "shape": [2]}},
    "surplus field": {"a": entry() | {"code": "import os"}},
    "entry is a number": {"a": 7},
    "metadata is no text": {"__metadata__": {"a": [1]}, "a": entry()},
    "seventeen dimensions": {"a": entry(shape=(1,) * 16 + (2,))},
    "list": [1, 2],
    "nothing": b"",
    "no JSON": b"{not json",
    "not UTF-8": b'{"\xff": 1}',
    "constant": b'{"a": NaN}',
    "twice": b'{"a": 1, "a": 2}',
    "deep": b"[" * 100_000,
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_in_a_sentence(file, case):
    written(file, HOSTILE[case], b"\0" * 8)
    with pytest.raises(BadInput) as caught:
        read_header(file)
    assert caught.value.message.startswith("model.safetensors")
    assert len(caught.value.message) < 200


def test_a_header_longer_than_the_file_or_the_limit_is_refused(file, monkeypatch):
    file.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(BadInput, match="cut short"):
        read_header(file)
    written(file, b"{" + b" " * 2_000_000 + b"}")
    monkeypatch.setenv("REWIND_MAX_HEADER_MB", "1")
    with pytest.raises(BadInput, match="header of 2 MB"):
        read_header(file)


def test_too_many_tensors_are_over_budget(file, monkeypatch):
    written(file, {f"t{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(11)})
    monkeypatch.setenv("REWIND_MAX_TENSORS", "10")
    with pytest.raises(OutOfBudget, match="11 tensors"):
        read_header(file)


def test_bytes_after_the_last_tensor_are_refused(file):
    written(file, {"a": entry()}, b"\0" * 9)
    with pytest.raises(BadInput, match="9 bytes"):
        read_header(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AssetMissing, match=r"model\.safetensors"):
        read_header(tmp_path / "model.safetensors")


def test_markup_in_a_name_does_not_reach_the_message(file):
    written(file, {"<img src=x>\n": entry(shape=(3,))}, b"\0" * 8)
    with pytest.raises(BadInput) as caught:
        read_header(file)
    assert not set("<>\n") & set(caught.value.message)


def test_a_limit_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("REWIND_MAX_TENSORS", "many")
    with pytest.raises(BadInput, match="REWIND_MAX_TENSORS"):
        Limits.from_environment()


# ---------------------------------------------------------------------- fuzz

SOUND = save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)})


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, len(SOUND)),
    tail=st.binary(max_size=8),
)
@example(changes=[], cut=len(SOUND), tail=b"")
def test_whatever_is_accepted_loads_and_the_rest_is_refused(tmp_path, changes, cut, tail):
    """Bytes changed, cut off and added: either an engine error, or a file the library reads too."""
    mutated = bytearray(SOUND)
    for place, value in changes:
        mutated[place] = value
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(mutated[:cut]) + tail)
    try:
        header = read_header(file)
    except EngineError:
        return
    with safe_open(file, "np") as reader:
        assert set(reader.keys()) == set(header)


odd_values = st.sampled_from([None, True, -1, 0.5, "F32", [], [0, 8], [None], {}, {"a": 1}, 2**70])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BOOL", "F7"]) | odd_values,
        "shape": st.lists(st.integers(-2, 2**62) | st.integers(0, 8), max_size=3) | odd_values,
        "data_offsets": st.lists(st.integers(-8, 64), min_size=2, max_size=2) | odd_values,
    }
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), entries | odd_values)
)
def test_any_json_header_is_read_or_refused(tmp_path, header):
    file = written(tmp_path / "model.safetensors", header, b"\0" * 64)
    try:
        read_header(file)
    except EngineError:
        return
    try:
        with safe_open(file, "np") as reader:
            assert set(reader.keys()) == set(header) - {"__metadata__"}
    except SafetensorError:
        pytest.fail("accepted what the library refuses")


# ---------------------------------------------------------------------- folders and shards


def test_shards_are_found_through_their_index(tmp_path):
    shard(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    found = weight_files(tmp_path, "model")
    assert {path.name: list(header) for path, header in found.items()} == {
        "one.safetensors": ["a"],
        "two.safetensors": ["b"],
    }


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        {"a": 7},
        "a",
        {"a": "../one.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "one.bin"},
        {"a": "one.safetensors", "c": "one.safetensors"},
        {"a": "one.safetensors", "b": "one.safetensors"},
        {"b": "two.safetensors", "a": "two.safetensors"},
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, weight_map):
    shard(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadInput):
        weight_files(tmp_path, "model")


def shard(folder: Path, weight_map: dict) -> None:
    for name, file in weight_map.items():
        save_file({name: torch.ones(2)}, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_links_out_of_the_folder_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.json").write_text("{}")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").symlink_to(secret / "key.json")
    with pytest.raises(BadInput, match="link"):
        check_folder(folder)
    (folder / "config.json").unlink()
    (folder / "unet").symlink_to(secret)
    with pytest.raises(BadInput, match="link"):
        check_folder(folder)


def test_links_inside_the_folder_are_fine(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert len(check_folder(tmp_path)) == 2


def test_too_many_files_and_too_much_weight_are_over_budget(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / f"{i}.json").write_text("{}")
    monkeypatch.setenv("REWIND_MAX_FILES", "4")
    with pytest.raises(OutOfBudget, match="more than 4 files"):
        check_folder(tmp_path)
    monkeypatch.setenv("REWIND_MAX_FILES", "100")
    monkeypatch.setenv("REWIND_MAX_CHECKPOINT_GB", "0.5")
    with (tmp_path / "big.safetensors").open("wb") as big:
        big.truncate(2_000_000_000)  # sparse: no disk is used
    with pytest.raises(OutOfBudget, match=r"2 GB; 0\.5 GB"):
        check_folder(tmp_path)


def test_a_large_json_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("{" + " " * 1_100_000 + "}")
    monkeypatch.setenv("REWIND_MAX_TEXT_MB", "1")
    with pytest.raises(BadInput, match="larger than 1 MB"):
        read_json(path)


def test_numpy_and_zip_files_are_named(file):
    with file.open("wb") as sink:
        np.save(sink, np.ones(3))
    with pytest.raises(BadInput, match="NumPy"):
        read_header(file)
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("a", "b")
    with pytest.raises(BadInput, match="zip"):
        read_header(file)
