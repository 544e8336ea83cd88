"""The panel of the reversible 3D U-Net: through the client, and a visitor who moves through it."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from benchmarks.harness import axe_findings, sideways_scroll
from engine.networks import _nifti as nifti
from pages import _volumes as volumes
from pages import reversible_unet3d as panel
from tests.ui.browser import NewVisitor

RUN = {
    "volume": "average", "part": "test", "nifti_file": None, "window": 64, "overlap": 0.0,
    "stages": True, "seed": 0, "model": "unet3d-brain",
}  # fmt: skip
TRAIN = {
    "modes": ["plain", "reversible"], "steps": 2, "blocks": 1, "side": 16, "expansion": 2,
    "widths": "8, 16", "learning_rate": 3e-3, "test": False, "seed": 0,
}  # fmt: skip
SIZES = {
    "gibibytes": 0.05, "blocks": [1, 2], "modes": ["plain", "reversible"], "side": 16,
    "widths": "8, 16", "expansion": 2, "cubes": True, "seed": 0,
}  # fmt: skip
SETTINGS = {"run": RUN, "train": TRAIN, "measure_sizes": SIZES}


@pytest.fixture
def call(client: Client):
    """`call("train", steps=3)`: the outputs of an action with these settings changed."""

    def one(action: str, **changed: object) -> tuple:
        name = f"/reversible_unet3d_{action}_panel"
        return client.predict(**(SETTINGS[action] | changed), api_name=name)

    return one


@pytest.mark.slow
def test_a_volume_is_segmented_walked_back_and_given_as_nifti(call):
    drawn, told, made, number, *_ = call("run")
    assert drawn.count("data-sheet") == 3
    assert drawn.count("<canvas") == 3
    assert "Walked backwards" in told
    assert "grey matter" in told
    assert "walked back" in number
    path = made["value"] if isinstance(made["value"], str) else made["value"]["path"]
    assert nibabel.load(path).get_fdata().max() <= 3


@pytest.mark.slow
def test_ones_own_volume_keeps_its_affine(call, tmp_path: Path):
    affine = np.array([[-2.0, 0, 0, 30], [0, 0, 2, -20], [0, 3, 0, 7], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).integers(1, 255, (18, 20, 16)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "mine.nii.gz")
    _, told, made, *_ = call("run", nifti_file=handle_file(tmp_path / "mine.nii.gz"), window=16)
    path = made["value"] if isinstance(made["value"], str) else made["value"]["path"]
    back = nibabel.load(path)
    assert np.allclose(back.affine, affine)
    assert back.shape == (18, 20, 16)
    assert "no Dice" in told


@pytest.mark.slow
def test_two_modes_learn_alike_and_the_largest_cube_is_found(call):
    _, drawn, _, number, *_ = call("train")
    assert drawn.count("data-shares") == 4
    assert not isinstance(number, str) or "gap" in number
    drawn, number, *_ = call("measure_sizes")
    assert "Voxels of the largest cube" in drawn
    assert "³" in number


def bomb() -> bytes:
    return gzip.compress(bytes(nifti.MOST_UNPACKED + 1000), compresslevel=6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.nii", b"no volume at all"),
        ("cut.nii.gz", gzip.compress(b"x" * 4000, mtime=0)[:-9]),
        ("empty.nii", b""),
        ("bomb.nii.gz", None),
    ],
)
def test_hostile_files_are_refused_with_a_sentence(call, tmp_path: Path, name: str, data):
    path = tmp_path / name
    path.write_bytes(bomb() if data is None else data)
    with pytest.raises((AppError, ValueError)) as refused:
        call("run", nifti_file=handle_file(path))
    assert "Something failed" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"volume": "patient"}),
        ("run", {"window": 1000}),
        ("run", {"overlap": float("nan")}),
        ("train", {"widths": "7, 14"}),
        ("train", {"widths": "many"}),
        ("train", {"widths": None}),
        ("train", {"steps": 0}),
        ("train", {"widths": "256, 256", "side": 48, "blocks": 8}),
        ("measure_sizes", {"gibibytes": -1}),
        ("measure_sizes", {"modes": []}),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_sentence(call, action: str, changed: dict):
    with pytest.raises((AppError, ValueError)) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_widths_go_into_a_recipe_and_back():
    given = panel.with_widths({"widths": "8, 16", "side": 8})
    assert given == {"widths": [8, 16], "side": 8}
    assert panel.widths_back(given)["widths"] == "8, 16"


def test_a_volume_is_the_same_once_it_was_a_sheet():
    volume = np.random.default_rng(0).integers(0, 255, (5, 7, 30)).astype(np.uint8)
    sheet = volumes.to_sheet(volume)
    for z in (0, 11, 12, 29):
        left, top = z % volumes.COLUMNS * 5, z // volumes.COLUMNS * 7
        assert (sheet[top : top + 7, left : left + 5] == volume[:, :, z].T).all()


@pytest.mark.browser
def test_a_visitor_moves_through_the_volume(new_visitor: NewVisitor, shot):
    page = new_visitor(width=1280, height=800).page
    page.goto("/reverse?method=reversible-unet3d")
    page.locator("#reversible_unet3d-run").click()
    page.locator("#reversible_unet3d-run-status .status.done").wait_for(timeout=120_000)
    page.locator("#unet3d-volume [data-ready]").wait_for()
    here = page.locator("#unet3d-volume [data-here]")
    before = here.inner_text()
    page.get_by_label("coronal slice, anterior").fill("30")
    expect(here).not_to_have_text(before)
    expect(here).to_contain_text("truth:")
    page.get_by_role("button", name="truth").click()
    expect(page.get_by_role("button", name="truth")).to_have_attribute("aria-pressed", "true")
    shot(page, "volume")
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []


# ---------------------------------------------------------------------- where it breaks


def breaks(sized) -> None:
    """What the failure gallery says of it."""
    kept = {bar.mode: bar.kept_bytes for bar in sized.bars}
    assert kept["checkpoint"] <= 1.01 * kept["reversible"] < 0.2 * kept["plain"]
