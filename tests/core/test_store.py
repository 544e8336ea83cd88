"""The store of patches: found by digest, bounded, all or nothing, and clear when it cannot."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from engine.core import disk, patch_file
from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.stack import PatchStack
from engine.core.store import PatchStore, default_store


def make(number: int, size: int = 100) -> Patch:
    base = {"w": torch.zeros(size)}
    return Patch.between(base, {"w": base["w"] + number + 1}, Recipe("toy", label=f"edit {number}"))


@pytest.fixture
def store(tmp_path):
    return PatchStore(tmp_path / "patches")


def test_what_was_put_is_got_by_its_digest(store, same_bits):
    patch = make(1)
    digest = store.put(patch)
    assert digest == patch.digest
    assert digest in store
    assert same_bits(dict(store.get(digest).flips), dict(patch.flips))


def test_putting_twice_keeps_one_file(store):
    store.put(make(1))
    store.put(make(1))
    assert len(list(store.folder.iterdir())) == 1


def test_the_header_is_enough_for_a_stack(store):
    lower = make(1)
    state = lower.apply({"w": torch.zeros(100)})
    upper = Patch.between(state, {"w": state["w"] * 2}, Recipe("toy", label="upper"))
    headers = [store.header(store.put(patch)) for patch in (lower, upper)]
    stack = PatchStack().push(headers[0]).push(headers[1])
    assert [edit.name for edit in stack.blockers(lower.digest)] == ["upper"]
    assert stack.undo(upper.digest).digests == (lower.digest,)


def test_the_store_forgets_what_was_used_longest_ago(tmp_path):
    sample = make(0)
    one = len(b"".join(sample.pieces()))
    store = PatchStore(tmp_path, max_bytes=3 * one + 50)
    digests = [store.put(make(number)) for number in range(3)]
    for age, digest in enumerate(digests):
        os.utime(store.path(digest), ns=(10**18 + age, 10**18 + age))
    store.get(digests[0])
    newest = store.put(make(3))
    assert [digest in store for digest in digests] == [True, False, True]
    assert newest in store
    assert disk.used_bytes(store.folder) <= store.max_bytes


def test_a_forgotten_edit_says_that_its_recipe_makes_it_again(store):
    with pytest.raises(AssetMissing, match="no longer in the store") as caught:
        store.get("ab" * 32)
    assert "recipe" in caught.value.advice
    with pytest.raises(AssetMissing):
        store.header("ab" * 32)


def test_a_patch_larger_than_the_store_is_refused_and_leaves_nothing(tmp_path):
    store = PatchStore(tmp_path, max_bytes=1000)
    with pytest.raises(OutOfBudget, match='"edit 1" takes 0.4 MB'.replace(".", r"\.")):
        store.put(make(1, size=100_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "ab" * 32 + "/x"])
def test_only_digests_name_files(store, digest):
    with pytest.raises(BadInput):
        store.get(digest)


def test_a_damaged_file_is_dropped_and_can_be_put_again(store):
    patch = make(1)
    path = store.path(store.put(patch))
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    with pytest.raises(AssetMissing):
        store.get(patch.digest)
    assert patch.digest not in store
    assert store.get(store.put(patch)).digest == patch.digest


def test_a_file_under_another_digest_is_not_given_out(store):
    one, other = make(1), make(2)
    store.put(one)
    store.path(one.digest).rename(store.path(other.digest))
    with pytest.raises(AssetMissing):
        store.get(other.digest)


def test_a_file_from_elsewhere_is_checked_before_it_is_kept(store, tmp_path):
    file = tmp_path / "mine.safetensors"
    make(1).save(file)
    assert store.get(store.put_file(file)).name == "edit 1"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(BadInput, match="altered"):
        store.put_file(file)


def test_a_full_disk_is_said_clearly_and_leaves_nothing(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put(make(1))
    monkeypatch.setattr(patch_file.os, "replace", full)
    with pytest.raises(
        AssetMissing, match="could not be written: No space left on device"
    ) as caught:
        store.put(make(2))
    assert "disk space" in caught.value.advice
    assert [path.suffix for path in store.folder.iterdir()] == [".safetensors"]


def test_a_folder_that_cannot_be_made_is_said_clearly(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssetMissing, match="could not be written"):
        PatchStore(tmp_path / "file" / "patches").put(make(1))


@pytest.mark.slow
def test_many_threads_share_a_store_that_is_too_small_for_them(tmp_path):
    patches = [make(number) for number in range(12)]
    store = PatchStore(tmp_path, max_bytes=6 * len(b"".join(patches[0].pieces())))

    def use(turn: int) -> bool:
        patch = patches[turn % len(patches)]
        store.put(patch)
        try:
            return store.get(patch.digest).digest == patch.digest
        except AssetMissing:
            return True  # another thread needed the room

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))
    assert disk.used_bytes(store.folder) <= store.max_bytes
    assert not list(tmp_path.glob("*.part"))


def test_left_over_parts_of_a_killed_server_are_cleared(store):
    store.put(make(1))
    stale, fresh = store.folder / ".a.part", store.folder / ".b.part"
    stale.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(stale, (0, 0))
    store.put(make(2))
    assert not stale.exists()
    assert fresh.exists()


def test_the_default_store_lies_where_rewind_home_says(tmp_path, monkeypatch):
    monkeypatch.setenv("REWIND_HOME", str(tmp_path))
    monkeypatch.setenv("REWIND_STORE_MB", "5")
    default_store.cache_clear()
    try:
        assert default_store().folder == tmp_path / "patches"
        assert default_store().max_bytes == 5_000_000
    finally:
        default_store.cache_clear()


def test_shelf_and_store_need_no_torch():
    code = (
        "import sys, engine.core.store, engine.core.stack, engine.core.recipe, engine.core.catalog;"
        "import engine.core.job, engine.core.errors;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
