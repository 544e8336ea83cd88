"""Pieces that panels share: what a map of differences shows, and what it says of its scale."""

import numpy as np

from pages._parts import comparison, difference


def test_the_largest_difference_is_white_and_the_others_keep_their_share():
    before = np.zeros((2, 2, 3), np.uint8)
    after = before.copy()
    after[0, 0], after[0, 1], after[1, 0] = 200, 40, 1
    gap = difference(before, after)
    assert (gap.largest, gap.unequal, gap.mean) == (200, 3, 241 / 4)
    assert gap.picture[:, :, 0].tolist() == [[255, 51], [1, 0]]
    assert gap.scale == "black 0, white 200 of 255"


def test_two_large_differences_are_told_apart():
    """At four times the brightness both were white."""
    before, after = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    after[0, 0], after[0, 1] = 80, 240
    assert len(set(difference(before, after).picture[0, :, 0].tolist())) == 2


def test_equal_pictures_give_black_and_say_so():
    picture = np.full((3, 3, 3), 77, np.uint8)
    gap = difference(picture, picture)
    assert not gap.picture.any()
    assert gap.scale == "black: no difference"
    assert "every pixel as before" in comparison(picture, picture, undone=picture)


def test_the_scale_stands_beside_the_map():
    before, after = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 30, np.uint8)
    assert "white 30 of 255" in comparison(before, after)
