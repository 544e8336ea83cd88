"""The shelf: what the browser keeps, reading it with suspicion, and taking edits off."""

import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from engine.core import budgets
from engine.core.errors import BadInput, OutOfBudget, PatchConflict
from engine.core.patch import Patch
from engine.core.recipe import ModelRef, Recipe
from engine.core.store import PatchStore
from pages import _shelf
from pages._status import finished
from tests.tiny import tiny_checkpoint


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchStore:
    store = PatchStore(tmp_path)
    monkeypatch.setattr(_shelf, "default_store", lambda: store)
    return store


def edit(store: PatchStore, name: str, label: str, base: tuple[str, ...] = (), start: float = 0):
    """A patch that moves one tensor by one; gives its digest."""
    old = {name: torch.full((3,), start)}
    recipe = Recipe("rece", model=ModelRef("world", None, base), label=label)
    return store.put(Patch.between(old, {name: old[name] + 1}, recipe))


@pytest.mark.parametrize(
    "ref",
    [
        ModelRef("world"),
        ModelRef("owner/name", "a1b2c3"),
        ModelRef("/home/me/a+b model"),
        ModelRef("world", None, ("0a1b2c3d", "ffffffff")),
        ModelRef("owner/name", "v1.0", ("0a1b2c3d",)),
    ],
)
def test_reference_survives_the_way_through_a_field(ref: ModelRef):
    assert _shelf.model_ref(_shelf.model_text(ref)) == ref


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        "x",
        {"models": 3},
        {"models": [None, 1, {"source": 5}]},
        {"models": [{"source": "world", "edits": ["../../etc/passwd"]}], "labels": []},
        {"models": [{"source": "world", "edits": "0a1b2c3d", "name": "<script>"}]},
    ],
    ids=str,
)
def test_whatever_a_browser_sends_is_drawn_safely(kept: object):
    drawn = _shelf.drawn(kept)
    assert "<script" not in drawn
    assert "passwd" not in drawn


def crowd(models: int, edits: int) -> dict:
    """A shelf as an attacker would send it."""
    digests = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(edits)]
    model = {"source": "world", "edits": digests}
    return {"models": [{**model, "name": str(number)} for number in range(models)]}


def test_a_shelf_has_a_budget_of_models_and_edits():
    assert _shelf.read(crowd(1, 4000)) == []
    models = _shelf.read(crowd(1000, budgets.MODEL_EDITS))
    assert len(models) == budgets.SHELF_MODELS
    digests = tuple(crowd(1, budgets.MODEL_EDITS + 1)["models"][0]["edits"])
    with pytest.raises(OutOfBudget, match="33 edits lie on this model"):
        _shelf.add(_shelf.EMPTY, "one more", ModelRef("world", None, digests), ())


def test_the_list_of_edits_grows_as_the_edits_do():
    """Each value once held the digests of its whole model: 512 MB for the edits of 272 KB."""

    def characters(edits: int) -> int:
        return sum(len(value) for _, value in _shelf.edits_on(crowd(1, edits)))

    assert characters(32) == 4 * characters(8) == 32 * characters(1)


def test_an_edit_is_chosen_by_its_model_and_digest():
    kept = crowd(1, 3)
    (model,) = _shelf.read(kept)
    for digest, (_, value) in zip(model.ref.edits, _shelf.edits_on(kept), strict=True):
        assert _shelf._chosen_edit(kept, value) == (model.ref, digest)
    with pytest.raises(BadInput, match="not on the shelf any more"):
        _shelf._chosen_edit(_shelf.EMPTY, value)


def test_edits_on_other_tensors_come_off_in_any_order(store: PatchStore):
    first, second = edit(store, "a", "erase cat"), edit(store, "b", "erase dog")
    ref = ModelRef("world", None, (first, second))
    kept = _shelf.add(_shelf.EMPTY, "both", ref, ("erase cat", "erase dog"))
    after, left = _shelf.without(kept, ref, first)
    assert left.edits == (second,)
    assert [model.labels for model in _shelf.read(after)] == [("erase dog",)]


def test_an_edit_under_a_later_one_stays_and_the_later_one_is_named(store: PatchStore):
    first = edit(store, "a", "erase cat")
    second = edit(store, "a", "merge on top", (first,), start=1)
    ref = ModelRef("world", None, (first, second))
    kept = _shelf.add(_shelf.EMPTY, "both", ref, ("erase cat", "merge on top"))
    with pytest.raises(PatchConflict, match="merge on top"):
        _shelf.without(kept, ref, first)


def test_the_last_edit_off_takes_the_model_off(store: PatchStore):
    only = edit(store, "a", "erase cat")
    ref = ModelRef("world", None, (only,))
    after, _ = _shelf.without(_shelf.add(_shelf.EMPTY, "one", ref, ("erase cat",)), ref, only)
    assert _shelf.read(after) == []


def test_a_model_that_becomes_one_on_the_shelf_is_kept_once(store: PatchStore):
    first, second = edit(store, "a", "erase cat"), edit(store, "b", "merge")
    alone, both = ModelRef("world", None, (first,)), ModelRef("world", None, (first, second))
    kept = _shelf.add(_shelf.EMPTY, "cat erased", alone, ("erase cat",))
    kept = _shelf.add(kept, "merged", both, ("erase cat", "merge"))
    after, left = _shelf.without(kept, both, second)
    assert left == alone
    assert [model.name for model in _shelf.read(after)] == ["cat erased"]


def test_a_patch_file_brings_its_model_and_label(store: PatchStore, tmp_path: Path):
    digest = edit(store, "a", "erase cat")
    kept = _shelf.imported(_shelf.EMPTY, store.path(digest))
    (model,) = _shelf.read(kept)
    assert (model.ref, model.labels) == (ModelRef("world", None, (digest,)), ("erase cat",))
    assert _shelf.choices(kept, {"world": "World"})[1] == ("erase cat (shelf)", f"world+{digest}")


def family_of(frames, slug: str):
    """The shelf of a panel's route, and the place of the panel's picker among its pickers."""
    shelf = frames[slug].shelf
    return shelf, [picker for picker, _ in shelf.pickers].index(frames[slug].model_field)


def given_to(picker) -> object:
    """The value that an update sets, None where it leaves the picker as it is."""
    return picker._constructor_args[0].get("value")


@pytest.mark.slow
def test_every_picker_that_held_an_undone_model_holds_what_is_left_of_it(store, frames):
    digest = edit(store, "a", "erase cat")
    ref = ModelRef("world", None, (digest,))
    kept = _shelf.add(_shelf.EMPTY, "cat erased", ref, ("erase cat",))
    (_, value) = _shelf.edits_on(kept)[0]
    for slug in ("nfe_lab", "rece"):
        shelf, place = family_of(frames, slug)
        held = ["world"] * len(shelf.pickers)
        held[place] = f"world+{digest}"
        for handler in (shelf._undo, shelf._forget):
            _, said, _, _, *pickers = handler(kept, value, *held)
            given = [given_to(picker) for picker in pickers]
            assert given[place] == "world"
            assert given.count(None) == len(given) - 1
            assert f"Model of {frames[slug].entry.card.title} from now on: Embedded world." in said
            assert f"world+{digest}" not in [text for _, text in pickers[place].choices]


def test_pickers_of_other_models_stay_as_they_are(store, frames):
    first, second = edit(store, "a", "erase cat"), edit(store, "b", "erase dog")
    both, other = ModelRef("world", None, (first, second)), ModelRef("world", None, (first,))
    kept = _shelf.add(_shelf.EMPTY, "one", other, ("erase cat",))
    kept = _shelf.add(kept, "both", both, ("erase cat", "erase dog"))
    shelf, place = family_of(frames, "rece")
    held = ["world"] * len(shelf.pickers)
    held[place] = _shelf.model_text(other)
    values = dict(_shelf.edits_on(kept))
    _, said, _, _, *pickers = shelf._undo(kept, values["both › erase dog"], *held)
    assert [given_to(picker) for picker in pickers] == [None] * len(pickers)
    assert "from now on" not in said
    held[place] = _shelf.model_text(both)
    _, said, _, _, *pickers = shelf._undo(kept, values["both › erase dog"], *held)
    assert given_to(pickers[place]) == _shelf.model_text(other)
    assert "from now on: one (shelf)" in said


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zip of a checkpoint folder; uploads go to a folder of this test."""
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    folder = tiny_checkpoint(tmp_path / "tiny")
    return Path(shutil.make_archive(str(tmp_path / "my model"), "zip", folder))


def test_an_uploaded_checkpoint_is_offered_under_its_own_name(store: PatchStore, archive: Path):
    kept = _shelf.with_checkpoint(_shelf.EMPTY, archive)
    (model,) = _shelf.read(kept)
    assert _shelf.choices(kept, {}) == [("my model (shelf)", model.ref.source)]
    (listed,) = _shelf.edits_on(kept)
    assert listed[0] == "my model › no edit yet"
    assert model.ref.source not in _shelf.drawn(kept)  # a short form of it stands there
    with pytest.raises(BadInput, match="no edit yet"):
        _shelf._chosen_edit(kept, listed[1])


def test_an_uploaded_checkpoint_stays_when_its_last_edit_comes_off(
    store: PatchStore, archive: Path
):
    (model,) = _shelf.read(_shelf.with_checkpoint(_shelf.EMPTY, archive))
    digest = edit(store, "a", "erase cat")
    ref = ModelRef(model.ref.source, None, (digest,))
    after, left = _shelf.without(
        _shelf.add(_shelf.EMPTY, "cat erased", ref, ("erase cat",)), ref, digest
    )
    assert [kept.ref for kept in _shelf.read(after)] == [left] == [model.ref]


@pytest.mark.slow
def test_an_archive_that_lacks_the_weights_of_a_part_is_refused(store: PatchStore, archive: Path):
    whole = zipfile.ZipFile(archive)
    names = [name for name in whole.namelist() if not name.startswith("vae/diff")]
    with zipfile.ZipFile(archive.with_name("part.zip"), "w") as packed:
        for name in names:
            packed.writestr(name, whole.read(name))
    with pytest.raises(BadInput, match="part of this checkpoint has no safetensors"):
        _shelf.with_checkpoint(_shelf.EMPTY, archive.with_name("part.zip"))


def test_an_archive_without_a_checkpoint_is_refused(store: PatchStore, archive: Path):
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("notes/readme.txt", "nothing")
    with pytest.raises(BadInput, match="not one checkpoint folder"):
        _shelf.with_checkpoint(_shelf.EMPTY, archive)


@pytest.mark.browser
def test_own_checkpoint_goes_in_as_a_zip_is_edited_undone_and_saved_whole(page: Page, archive):
    page.goto("/erase?method=rece")
    shelf = page.locator("#shelf")
    shelf.locator("button.label-wrap").click()
    shelf.locator("input[type=file][accept*=zip]").set_input_files(archive)
    expect(shelf.locator(".said")).to_contain_text("Opened", timeout=60_000)
    page.locator("#rece-model input").click()
    page.get_by_role("option", name="my model (shelf)").click()
    page.get_by_role("tab", name="Take it along").click()
    page.locator("#rece-bake").click()
    page.locator("#rece-bake-status .done").wait_for(timeout=120_000)
    expect(shelf.get_by_label("Edit")).to_have_value("erase neon style › erase neon style")
    shelf.get_by_role("button", name="Save the whole model").click()
    expect(shelf.locator(".said a")).to_have_text("erase-neon-style.zip", timeout=60_000)
    with page.expect_download() as saved:
        shelf.locator(".said a").click()
    names = zipfile.ZipFile(saved.value.path()).namelist()
    assert {"model_index.json", "README.md", "unet/config.json"} <= set(names)
    assert any(name.startswith("undo/01-") for name in names)
    shelf.get_by_role("button", name="Undo this edit").click()
    expect(shelf.locator(".said")).to_contain_text("Undone: erase neon style", timeout=60_000)
    expect(shelf.get_by_label("Edit")).to_have_value("my model › no edit yet")
    shelf.get_by_role("button", name="Take the model off").click()
    expect(shelf.get_by_label("Edit")).to_have_value("nothing on the shelf")


@pytest.mark.browser
def test_after_an_undo_the_next_run_draws_with_the_model_that_is_left(page: Page, shot):
    quick = (
        "nfe-lab&prompt=a+penguin+in+neon+style&nfe=3&curve=%5B%5D&solvers=%5B%22ddim%22%5D&seed=4"
    )
    page.goto("/erase?method=rece")
    page.get_by_role("tab", name="Take it along").click()
    page.locator("#rece-bake").click()
    page.locator("#rece-bake-status .done").wait_for(timeout=120_000)
    page.goto(f"/sample?method={quick}")
    expect(page.locator("#nfe_lab-run-status")).to_contain_text("Restored", timeout=60_000)

    def drawn() -> str | None:
        page.locator("#nfe_lab-run").click()
        page.locator("#nfe_lab-run-status .running").wait_for()
        page.locator("#nfe_lab-run-status .done").wait_for(timeout=120_000)
        return page.locator("[role=tabpanel]:visible img.pixel").first.evaluate(PIXELS)

    plain = drawn()
    page.locator("#nfe_lab-model input").click()
    page.get_by_role("option", name="erase neon style (shelf)").click()
    assert drawn() != plain
    page.locator("#shelf button.label-wrap").click()
    page.locator("#shelf").get_by_role("button", name="Undo this edit").click()
    expect(page.locator("#shelf .said")).to_contain_text("Model of", timeout=60_000)
    expect(page.locator("#nfe_lab-model input")).not_to_have_value(re.compile("erase|\\+"))
    shot(page, "undone")
    assert drawn() == plain
    assert "edits=" not in page.url


# The pixels alone: a saved picture also carries its recipe.
PIXELS = """image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def test_a_run_whose_edit_is_on_its_way_to_the_shelf_is_not_called_done():
    said = finished(Recipe("rece", "bake"), 1.0, "rece-bake", "erase", settling="key")
    assert "done" not in said
    assert 'data-run="key"' in said  # so that a page that is left finds it again
    assert "status done" in finished(Recipe("rece", "bake"), 1.0, "rece-bake", "erase")


def test_a_file_that_is_no_patch_is_refused(store: PatchStore, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not a patch")
    with pytest.raises(BadInput):
        _shelf.imported(_shelf.EMPTY, path)


def test_fingerprints_before_and_after_are_shown(store: PatchStore):
    digest = edit(store, "a", "erase cat")
    header = store.header(digest)
    kept = _shelf.add(_shelf.EMPTY, "one", ModelRef("world", None, (digest,)), ("erase cat",))
    drawn = _shelf.drawn(kept)
    assert _shelf.combined(header.before) in drawn
    assert _shelf.combined(header.after) in drawn
