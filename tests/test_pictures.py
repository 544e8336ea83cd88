"""Pictures inside recipes."""

import numpy as np
import pytest
from PIL import Image

from engine.core.errors import BadInput
from engine.pictures import HEAD, as_text, from_text

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_every_pixel_survives_the_text():
    assert np.array_equal(from_text(as_text(PIXELS)), PIXELS)


@pytest.mark.parametrize("text", [HEAD, HEAD + "!!!", HEAD + "AAAA", as_text(PIXELS)[:-40]])
def test_damaged_pictures_are_refused(text: str):
    with pytest.raises(BadInput, match="damaged"):
        from_text(text)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(BadInput, match="too many pixels"):
        from_text(as_text(np.asarray(Image.new("RGB", (3000, 2000)))))


def test_a_grey_picture_comes_back_in_every_pixel_and_weighs_less():
    noise = np.random.default_rng(0).integers(0, 255, (28, 28, 1)).astype(np.uint8)
    grey, coloured = noise.repeat(3, 2), noise.repeat(3, 2)
    coloured[0, 0, 1] ^= 1
    assert np.array_equal(from_text(as_text(grey)), grey)
    assert np.array_equal(from_text(as_text(coloured)), coloured)
    assert len(as_text(grey)) < len(as_text(coloured))
