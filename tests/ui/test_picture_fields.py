"""What visitors put into picture fields: phone photographs, odd formats, files that are none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from engine.core.errors import BadInput
from engine.pictures import from_text
from pages._fields import LARGEST_UPLOADS, picture_setting


def taken(image: Image.Image, path: Path, **saving: object) -> np.ndarray:
    image.save(path, **saving)
    return from_text(picture_setting(str(path))["picture"])


def test_photograph_of_a_phone_is_turned_and_shrunk(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    photo = Image.new("RGB", (4000, 3000), "red")
    assert taken(photo, tmp_path / "photo.jpg", exif=exif).shape == (512, 384, 3)


def test_noisy_picture_still_fits_into_a_recipe(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(picture_setting(str(tmp_path / "noise.png"))["picture"]) < LARGEST_UPLOADS


def test_whole_picture_is_kept_up_to_four_megapixels(tmp_path: Path):
    path = tmp_path / "large.png"
    Image.new("L", (3000, 2000)).save(path)
    height, width = from_text(picture_setting(str(path), side=None)["picture"]).shape[:2]
    assert 3_900_000 < height * width <= 4_000_000
    assert width / height == pytest.approx(1.5, rel=1e-3)


def test_16_bits_are_brought_to_8(tmp_path: Path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = taken(Image.fromarray(ramp), tmp_path / "deep.png")
    np.testing.assert_allclose(found[..., 0], ramp / 257, atol=1)


def test_what_is_transparent_is_white(tmp_path: Path):
    assert taken(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), tmp_path / "clear.png").min() == 255


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "1"])
def test_every_kind_of_picture_becomes_colour(tmp_path: Path, mode: str):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.gif")
    assert taken(Image.new("RGB", (20, 10), "blue").convert(mode), path).shape == (10, 20, 3)


def test_empty_field_gives_no_setting():
    assert picture_setting(None) == {}


@pytest.mark.slow
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    with pytest.raises(BadInput, match="too many pixels; 25 megapixels"):
        picture_setting(str(tmp_path / "bomb.png"))


@pytest.mark.browser
def test_text_called_png_is_answered_with_a_sentence_and_the_next_run_works(
    page: Page, tmp_path: Path
):
    """In a browser the page's own events update the fields, as no client of the API does."""
    path = tmp_path / "mine.png"
    path.write_text("no picture")
    page.goto("/sample?method=nfe-lab")
    page.get_by_role("tab", name="Rewind a picture").click()
    rewind, status = page.locator("#nfe_lab-rewind"), page.locator("#nfe_lab-rewind-status")
    field = page.locator(".upload", has=page.get_by_text("Your picture (shrunk"))
    field.locator("input[type=file]").set_input_files(path)
    field.locator("img").wait_for(state="attached")
    rewind.click()
    expect(status.locator(".failed")).to_contain_text("does not read as a picture")
    field.get_by_label("Remove Image").click()
    page.get_by_label("number input for Steps each way").fill("2")
    page.get_by_label("number input for Steps each way").press("Tab")
    rewind.click()
    status.locator(".done").wait_for()
