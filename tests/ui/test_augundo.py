"""The panel of AugUndo: what its failure preset shows, its words, and a visitor's way through."""

import base64
from pathlib import Path

import numpy as np
import pytest

from engine.core.errors import BadInput
from engine.networks.augundo.results import Transformed
from pages import augundo as page
from tests.ui.browser import need_panel


def breaks(found: Transformed) -> None:
    """What the panel says of its failure happens with the very settings that it sets up."""
    at = found.curve[-1]
    assert at.supervised < 0.5
    assert at.points_undo < 0.5
    assert found.curve[0].supervised == 1


def test_the_page_names_arms_and_pictures_as_the_engine_does():
    from engine.networks.augundo import algorithm, training
    from engine.networks.augundo import floors as engine_floors

    assert training.ARMS == page.ARMS
    assert page.POLICIES == engine_floors.POLICIES
    assert set(page.SHOTS) <= set(algorithm.ALTS)
    assert set(page.SCENES) <= set(algorithm.SCENES)


def test_an_uploaded_depth_becomes_a_text_of_the_recipe(tmp_path: Path):
    path = tmp_path / "depth.npy"
    np.save(path, np.ones((4, 5)))
    settings = page.run_params({"picture": None, "depth_file": str(path), "angle": 3})
    assert base64.b64decode(str(settings["depth_file"])) == path.read_bytes()
    assert "depth_file" not in page.without_file(settings)
    assert "depth_file" not in page.run_params({"picture": None, "depth_file": None})


def test_a_depth_that_is_too_large_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 10)
    (tmp_path / "depth.png").write_bytes(b"x" * 11)
    with pytest.raises(BadInput, match="larger than 8 MB"):
        page.file_text(str(tmp_path / "depth.png"))


@pytest.mark.browser
def test_a_visitor_sees_the_floor_stay_and_scrubs_the_transform(visitor):
    """The aha: one click, the naive price several times the floor, the undone one at it."""
    need_panel("augundo")
    tab = visitor.page
    tab.goto("/reverse?method=augundo")
    tab.locator("#augundo-run").click()
    tab.locator("#augundo-run-status .status.done").wait_for()
    said = tab.locator("#augundo-run-number").inner_text()
    naive, undo = (float(word.strip("×")) for word in said.split() if word.startswith("×"))
    assert naive > 4 * undo
    scrub = tab.locator("#augundo-pictures [data-scrub]")
    scrub.focus()
    tab.keyboard.press("Home")
    assert scrub.input_value() == "0"
    assert tab.locator("#augundo-pictures [data-frames='9']").count() == 4
    saved = tab.locator("#augundo-script a[download]")
    assert saved.get_attribute("download") == "augmentation.py"
